"""Cancels at random moments, by each driver; `python -m tests.trials.cancellations` has more."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ..integrations.notes import checked_out
from ..trials import cancellations


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine_options() -> dict[str, int]:
    return cancellations.POOL


# What drivers and SQLAlchemy say of connections whose closing was cancelled too.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(120)
async def test_nothing_is_left_after_random_cancels(driver: str, engine: AsyncEngine) -> None:
    report = await cancellations.run(driver, engine, 300, seed=1)
    cancellations.show(report)
    assert report.wrong == []
    assert (report.trials, report.left, checked_out(engine)) == (300, 0, 0)
    assert all(report.landed[phase] for phase in cancellations.PHASES[:-1]), report.landed
    assert all(report.by_kind[kind] > 30 for kind in cancellations.KINDS), report.by_kind
    assert report.outcomes["OperationalError"] <= 30  # SQLite only: found locked, on a busy machine
