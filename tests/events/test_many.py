"""Ten thousand connections in one process: what each costs, and what an event costs among them."""

from __future__ import annotations

import pytest

from ..trials.events import trial

CONNECTIONS = 10_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_connections_are_small_and_cost_others_nothing() -> None:
    report = await trial(CONNECTIONS)
    assert report.delivered == CONNECTIONS
    assert report.lost > 20  # of six connections, which lost nothing by it
    assert report.bytes_each < 20_000
    # Generous: it must not grow with them, and ten thousand bells or buffers would show.
    alone = report.emit_alone
    assert report.emit_among_waiting < 8 * alone + 200
    assert report.emit_among_slow < 8 * alone + 200
