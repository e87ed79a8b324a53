"""Overrides: what is given instead of a type, where a block is open, and nowhere else."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .compiling import Compiler

if TYPE_CHECKING:
    from .container import Container

__all__ = ["Override", "override_of"]

_override: ContextVar[Override | None] = ContextVar("ringfence_override", default=None)
_here = _override.get


class Override:
    """
    One override of one container, as long as its block is open, in its context alone.

    What depends on the type is made anew, with the fake, and kept apart from what is there.
    """

    def __init__(self, container: Container, beneath: Override | None, key: Any, fake: Any) -> None:
        self.container: Container | None = container
        self.beneath = beneath
        own = override_of(container, beneath)
        compiler: Compiler = container.compiler if own is None else own.compiler
        self.compiler: Compiler = Compiler(container.registered, {key: fake}, compiler)

    def end(self) -> None:
        """Hold nowhere any more, in contexts out of which it cannot be taken either."""
        self.container = None


def override_of(container: Container, override: Override | None) -> Override | None:
    """The innermost override of this container, beginning with one of any."""
    while override is not None and override.container is not container:
        override = override.beneath
    return override
