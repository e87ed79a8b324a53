"""
Over real sockets: every server, attacked in every way we know, and nobody is mixed up.

The same attacks are made on a middleware that sets and resets, in front of handlers that clean up
by `async with`. There the known faults must show: else an attack does not reach its aim any more,
or a server has been mended, and the test says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette")
pytest.importorskip("aiosqlite")

from .matrix import CELLS, Runs, Verdict, expected
from .options import CONFIGURATIONS, Configuration

STUBBORN = {"uvicorn": "SIGTERM, grace", "granian": "SIGTERM"}
"""By server, the cell in which something goes on that only the fence ends."""

EACH = [
    pytest.param(
        configuration, cell, id=f"{configuration} {cell}".replace(",", "").replace(" ", "-")
    )
    for configuration in CONFIGURATIONS
    for cell in CELLS
]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """All that are selected start at once; among several workers, each when it is asked for."""
    wanted = {
        item.callspec.params["configuration"]: None
        for item in request.session.items
        if hasattr(item, "callspec") and item.module.__name__ == __name__
    }
    ahead = [configuration for configuration in wanted if not configuration.missing]
    runs = Runs([] if "PYTEST_XDIST_WORKER" in os.environ else ahead)
    yield runs
    runs.close()


@pytest.mark.parametrize(("configuration", "cell"), EACH)
def test_everybody_is_who_they_are(runs: Runs, configuration: Configuration, cell: str) -> None:
    faults = _verdict(runs, configuration, cell, "fenced").faults
    assert faults == expected(cell, "fenced", configuration)


@pytest.mark.parametrize(("configuration", "cell"), EACH)
def test_set_and_reset_is_not_enough(runs: Runs, configuration: Configuration, cell: str) -> None:
    """The positive control: the same attack, where it succeeds."""
    faults = _verdict(runs, configuration, cell, "plain").faults
    known = expected(cell, "plain", configuration)
    if configuration.server == "daphne" and cell == "SIGTERM":  # whom it cancels is chance
        assert "left open" in faults <= known
    else:
        assert faults == known


@pytest.mark.parametrize(
    ("configuration", "cell"),
    [
        pytest.param(configuration, cell, id=str(configuration).replace(" ", "-"))
        for configuration in CONFIGURATIONS
        for server, cell in STUBBORN.items()
        if configuration.server == server
    ],
)
def test_what_the_server_does_not_end_the_fence_does(
    runs: Runs, configuration: Configuration, cell: str
) -> None:
    """A handler that swallows a cancellation; one whose `send` granian never answers."""
    verdict = _verdict(runs, configuration, cell, "fenced")
    assert (verdict.cut_short, verdict.abandoned) == (1, 0)


def test_in_numbers(runs: Runs) -> None:
    """Behind ringfence every request was right, but for those that granian killed."""
    total, control = runs.totals("fenced"), runs.totals("plain")
    print(f"ringfence: {total}\nset and reset, async with: {control}")
    if not total.requests:
        pytest.skip("no server ran here")
    killed = total.requests - total.right_outcomes
    assert total.right_users == total.requests
    assert total.finalisers - total.finalised == 2 * killed
    assert killed <= 3 * sum(c.server == "granian" for c in CONFIGURATIONS)


def _verdict(runs: Runs, configuration: Configuration, cell: str, way: str) -> Verdict:
    if configuration.missing:
        pytest.skip(f"{', '.join(configuration.missing)} is not installed")
    result = runs.results(configuration, way)[cell]
    if not isinstance(result, Verdict):
        raise result
    return result
