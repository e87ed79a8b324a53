"""
Runs the programs of one page and tells what each of their blocks printed.

In a process of its own: `python -W error -m tests.docs_runner < programs.json`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import sys
import traceback
import warnings
from types import ModuleType

FILE = "app.py"  # where messages say that a program's scopes were opened
UNDISPOSED = r"<aiosqlite\.core\.Connection .* was deleted before being closed"


def main() -> None:
    # A program that ends in an error does not come to dispose of its engine.
    warnings.filterwarnings("ignore", UNDISPOSED, ResourceWarning)
    programs: list[list[str]] = json.load(sys.stdin)
    json.dump([run(blocks) for blocks in programs], sys.stdout)


def run(blocks: list[str]) -> list[str]:
    """What the blocks print, one after the other, as one file that is run."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module  # where annotations are looked up
    logging.getLogger().handlers.clear()
    above, printed = 0, []
    for block in blocks:
        printed.append(_run("\n" * above + block, module))
        above += block.count("\n")
    for test in [value for name, value in vars(module).items() if name.startswith("test_")]:
        if not inspect.signature(test).parameters:  # else it asks for fixtures: pytest runs it
            test()
    return printed


def _run(source: str, module: ModuleType) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            exec(compile(source, FILE, "exec", dont_inherit=True), vars(module))
        except Exception as error:  # its last words are what a page shows of a traceback
            said.write("".join(traceback.format_exception_only(error)))
    return said.getvalue()


if __name__ == "__main__":
    main()
