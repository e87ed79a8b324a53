"""The generator guard: a scope may not be opened where a generator would carry it out."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection
from types import CodeType, FrameType

from .errors import ScopeInGeneratorError

__all__ = ["place", "refuse_generators"]

GENERATOR_FLAGS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
CONTEXTLIB = contextlib.AsyncExitStack.enter_async_context.__code__.co_filename
EXIT_STACK = contextlib.AsyncExitStack.enter_async_context.__code__
"""The one function of contextlib that enters somebody else's async manager."""
_STREAMING = "ringfence.streaming:_Driver.run"


def refuse_generators(frame: FrameType | None, drivers: Collection[str]) -> None:
    """
    Raise if the block that `frame` opens stands directly in a generator.

    A generator suspends between its block's two halves and runs on in whatever context, task
    and user iterates it next. Judged recursively: contextlib enters and leaves a generator
    within one block of its own, so such a generator is judged by whoever entered *that*; so
    are those that a function in `drivers` steps (`module:qualified name`).

    Raises:
        ScopeInGeneratorError: naming the generator.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_filename == CONTEXTLIB:
            frame = frame.f_back
        elif code.co_flags & GENERATOR_FLAGS:
            driver = frame.f_back
            if driver is None or not _keeps_both_halves(driver, drivers):
                raise ScopeInGeneratorError(
                    f"A scope was opened directly in the generator {place(code, frame.f_lasti)}.",
                    "Open it around the loop that consumes the generator, or wrap the generator "
                    "in `bound_stream(...)`; if a container enters and leaves it within one "
                    "block, pass `in_generator=True`.",
                )
            frame = driver
        else:
            return


def _keeps_both_halves(frame: FrameType, drivers: Collection[str]) -> bool:
    if frame.f_code.co_filename == CONTEXTLIB:
        return True
    name = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}"
    return name == _STREAMING or name in drivers


def place(code: CodeType | None, instruction: int) -> str:
    """`file:line in function` of an instruction."""
    if code is None:
        return "an unknown place"
    line: int | None = code.co_firstlineno
    for start, end, candidate in code.co_lines():
        if start <= instruction < end:
            line = candidate or line
            break
    return f"{code.co_filename}:{line} in {code.co_qualname}"
