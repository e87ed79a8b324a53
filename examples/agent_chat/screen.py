"""What a terminal shows: results on stdout, progress on stderr, colour only for a person."""

from __future__ import annotations

import os
import sys
from typing import TextIO

RED, GREEN, BOLD, DIM = "31", "32", "1", "2"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour if the stream is a terminal and nobody said `NO_COLOR`."""
    stream = sys.stdout if stream is None else stream
    if stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\x1b[{colour}m{text}\x1b[0m"
    return text


def title(letter: str, text: str) -> None:
    print(paint(f"({letter}) {text}", BOLD))


def line(text: str) -> None:
    print(f"    {text}")


def good(text: str) -> None:
    print(f"    {paint('ok', GREEN)}  {text}")


def leak(text: str) -> None:
    print(f"    {paint('LEAK', RED)}  {text}")


def progress(text: str) -> None:
    print(paint(text, DIM, sys.stderr), file=sys.stderr, flush=True)
