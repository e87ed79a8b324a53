"""
Look for a broken promise in the library that is on the path, in a process of its own.

    python -m tests.torture.simulation [--seed N] [--worlds N] [--on asyncio|trio]

Exits 1 at the first world in which there is one, 0 if there is none.
"""

from __future__ import annotations

import argparse
import sys

from .hunt import SIMULATORS, hunt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.simulation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--on", choices=sorted(SIMULATORS), default="asyncio")
    given = parser.parse_args()
    found = hunt(given.on, given.seed, range(given.worlds))
    if found is None:
        print(f"nothing in {given.worlds} worlds")
        return 0
    print(f"world {found.number}: {found.violations[0]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
