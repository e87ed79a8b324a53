"""
Fixtures for pytest. In the topmost `conftest.py`: `pytest_plugins = ["ringfence.pytest_plugin"]`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

from .injection import Container
from .injection.overrides import Override, _here

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Overriding", "override"]

T = TypeVar("T")


class Overriding:
    """
    What the fixture `override` gives. Lives as long as one test, and its overrides no longer.

    Holds where `container.override` would: in the context that calls, and in tasks started there.
    """

    def __init__(self) -> None:
        self._entered: list[tuple[contextlib.AbstractContextManager[object], Override | None]] = []

    def __call__(self, container: Container, wanted: TypeForm[T], fake: T) -> T:
        """
        Give `fake` instead until the test is over.

        Raises:
            MissingProviderError: nothing provides such a type, so nothing would ask for it.
        """
        block = container.override(wanted, fake)
        block.__enter__()
        self._entered.append((block, _here()))
        return fake

    def end(self) -> None:
        """End them, the last one first."""
        while self._entered:
            block, override = self._entered.pop()
            if override is not None:
                override.end()
            # An async test has called in a task of its own: what is set there cannot be reset here.
            with contextlib.suppress(ValueError):
                block.__exit__(None, None, None)


@pytest.fixture
def override() -> Iterator[Overriding]:
    """
    `container.override` without a block, for the rest of one test.

    To be called by the test, or by a fixture that shares its context::

        async def test_a_mail_is_sent(override):
            outbox = override(container, Mailer, Outbox())
    """
    overriding = Overriding()
    yield overriding
    overriding.end()
