"""What the tests of the legacy vocabulary share."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.legacy import UserExecutionContext

quietly = pytest.mark.filterwarnings("ignore:ringfence.legacy:DeprecationWarning")
"""For tests that are about what a legacy name does, not about its warning."""


class Session:
    """Stands for an `AsyncSession`."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def rollback(self) -> None:
        self.calls.append("rollback")

    async def close(self) -> None:
        self.calls.append("close")


def make(**given: Any) -> UserExecutionContext:
    return UserExecutionContext(
        **{"user_id": "alice-1", "thread_id": "t-1", "run_id": "r-1", **given}
    )
