"""Every server against every attack: `python -m tests.integration.matrix`."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator

import attrs

from .cells import (
    SERVING,
    Verdict,
    ends_by_itself,
    in_flight,
    is_cut_short,
    is_told,
    judge,
    judge_the_end,
)
from .options import CONFIGURATIONS, Configuration
from .servers import Served, serve

WAYS = ("fenced", "plain")
CELLS = (*SERVING, "SIGTERM", "SIGTERM, grace")
AT_ONCE = 6
"""Servers that are tried at the same time: they mostly wait."""

Result = Verdict | Exception
Results = dict[str, Result]
"""By cell."""


# --- what is expected -------------------------------------------------------------------------


def expected(cell: str, way: str, configuration: Configuration) -> set[str]:
    """
    The faults of a cell.

    Behind ringfence there are none, but where the server kills the process. Behind a middleware
    that sets and resets, and handlers that use `async with`, there are those that are known: if
    one is missing, a server has been mended, or the attack does not reach it any more.
    """
    if cell == "SIGTERM, grace" and configuration.server == "granian":
        return {"outcome", "finaliser", "left open"}  # SIGKILL, before the lifespan's shutdown
    return set() if way == "fenced" else _known_of_the_control(cell, configuration)


def _known_of_the_control(cell: str, configuration: Configuration) -> set[str]:
    is_uvicorn = configuration.server == "uvicorn"
    unfinished = {"outcome", "finaliser", "left open"}
    known = {
        "pipelined": {"user"} if configuration.server in ("uvicorn", "daphne") else set(),
        "big body": {"user"} if is_uvicorn and configuration.loop == "asyncio" else set(),
        "upgrade": {"user"} if is_uvicorn and configuration.loop == "asyncio" else set(),
        "reset, stream": {"outcome"},
        "reset, chat": {"outcome"} if is_told(configuration) else set(),
        "reset, push": {"outcome"} if is_uvicorn else set(),
        "SIGTERM": {
            "uvicorn": {"outcome"}, "granian": unfinished, "daphne": unfinished,
        }.get(configuration.server, set()),
        "SIGTERM, grace": unfinished if configuration.server in ("uvicorn", "daphne")
        else {"finaliser"} if configuration.loop == "trio" else set(),
    }  # fmt: skip
    return known.get(cell, set())


# --- running it -------------------------------------------------------------------------------


def run(configuration: Configuration, way: str) -> Results:
    """All cells of one configuration and way, in two processes."""
    results: Results = {}
    is_control = way == "plain"
    with _kept(results, *CELLS), serve(configuration, drain=1, is_control=is_control) as served:
        for cell, do in SERVING.items():
            with _kept(results, cell):
                results[cell] = judge(served, do(served, way))
        _stop(served, way, "SIGTERM", ends_by_itself(configuration), results)
    with (
        _kept(results, *CELLS),
        serve(configuration, grace=1, drain=0.5, is_control=is_control) as served,
    ):
        _stop(served, way, "SIGTERM, grace", is_cut_short(configuration), results)
    return results


def _stop(
    served: Served, way: str, cell: str, expected: dict[str, frozenset[str]], results: Results
) -> None:
    with _kept(results, cell), in_flight(served, way, expected) as asked:
        assert served.stop(), "it does not stop"
        results[cell] = judge_the_end(served, asked)


@contextlib.contextmanager
def _kept(results: Results, *cells: str) -> Iterator[None]:
    """What fails is the result of its cells; the others go on."""
    try:
        yield
    except Exception as error:
        for cell in cells:
            results.setdefault(cell, error)


class Runs:
    """Runs that are under way. Each is waited for by who asks for it."""

    def __init__(self, configurations: Iterable[Configuration] = ()) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
        self._runs: dict[tuple[Configuration, str], concurrent.futures.Future[Results]] = {}
        for configuration, way in itertools.product(configurations, WAYS):
            self._start(configuration, way)

    def _start(self, configuration: Configuration, way: str) -> None:
        self._runs[configuration, way] = self._pool.submit(run, configuration, way)

    def results(self, configuration: Configuration, way: str) -> Results:
        """Those of one configuration and way."""
        if (configuration, way) not in self._runs:
            self._start(configuration, way)
        return self._runs[configuration, way].result()

    def totals(self, way: str) -> Verdict:
        """The sum of what came of all requests of one way."""
        ended = [each.result() for (_, of), each in self._runs.items() if of == way]
        verdicts = [v for results in ended for v in results.values() if isinstance(v, Verdict)]
        names = [field.name for field in attrs.fields(Verdict)]
        return Verdict(**{name: sum(getattr(v, name) for v in verdicts) for name in names})

    def close(self) -> None:
        """Those that have not begun do not."""
        self._pool.shutdown(cancel_futures=True)


# --- showing it -------------------------------------------------------------------------------

LINE = "  {:16}{:32}{}"


def _shown(result: Result, known: set[str]) -> tuple[str, bool]:
    """What is said of a cell, and whether it is as expected."""
    if isinstance(result, Exception):
        return f"FAILED: {result!r}", False
    text = ", ".join(sorted(result.faults)) or "ok"
    return (text, True) if result.faults == known else (f"UNEXPECTED: {text}", False)


def show(configuration: Configuration, runs: Runs) -> bool:
    """Print one table; whether all of it is as expected."""
    results = [runs.results(configuration, way) for way in WAYS]
    print(f"\n{configuration}\n{LINE.format('', 'ringfence', 'set and reset, async with')}")
    is_right = True
    for cell in CELLS:
        shown = [
            _shown(found[cell], expected(cell, way, configuration))
            for found, way in zip(results, WAYS, strict=True)
        ]
        print(LINE.format(cell, *(text for text, _ in shown)), flush=True)
        is_right = is_right and all(right for _, right in shown)
    return is_right


def _told(total: Verdict) -> str:
    return (
        f"{total.requests} requests, {total.right_users} right users, {total.right_outcomes} right "
        f"outcomes, {total.finalised} of {total.finalisers} finalisers run"
    )


def main() -> int:
    """Print the matrix; 1 if a cell is not as it is expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.matrix", description=__doc__)
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="of a server, its loop or parts; all if not given"
    )
    words = parser.parse_args().words
    chosen = [c for c in CONFIGURATIONS if all(word in str(c).split() for word in words)]
    if not chosen:
        parser.error(f"no such server; the first is `{CONFIGURATIONS[0]}`")
    for configuration in (c for c in chosen if c.missing):
        print(f"{configuration}: skipped, {', '.join(configuration.missing)} is not installed")
    installed = [c for c in chosen if not c.missing]
    runs = Runs(installed)
    are_right = [show(configuration, runs) for configuration in installed]
    print(f"\nringfence: {_told(runs.totals('fenced'))}")
    print(f"set and reset, async with: {_told(runs.totals('plain'))}")
    return 0 if all(are_right) else 1


if __name__ == "__main__":
    sys.exit(main())
