"""What a terminal shows: results on stdout, progress and failure on stderr, colour for people."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TextIO

BOLD, DIM, RED, GREEN = 1, 2, 31, 32
_step = "start"


def title(step: str, text: str) -> None:
    global _step
    _step = step
    print(_painted(f"({step}) {text}", BOLD, sys.stdout))


def line(text: str) -> None:
    print(f"    {text}")


def paragraph(text: str) -> None:
    wrapped = textwrap.fill(text, 94, break_long_words=False, break_on_hyphens=False)
    print(textwrap.indent(wrapped, "      "))


def good(text: str) -> None:
    print(f"    {_painted('ok', GREEN, sys.stdout)}  {text}")


def leak(text: str) -> None:
    print(f"    {_painted('LEAK', RED, sys.stdout)}  {text}")


def progress(text: str) -> None:
    sys.stdout.flush()  # the two streams may be one terminal
    print(_painted(text, DIM, sys.stderr), file=sys.stderr, flush=True)


def failed(cause: str) -> None:
    sys.stdout.flush()
    one_line = " ".join(cause.split())
    print(_painted(f"demo failed in step ({_step}): {one_line}", RED, sys.stderr), file=sys.stderr)


def _painted(text: str, colour: int, stream: TextIO) -> str:
    if stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\x1b[{colour}m{text}\x1b[0m"
    return text
