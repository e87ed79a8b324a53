"""A short leg of each part of the torture run: the same attacks, fewer of them."""

from __future__ import annotations

import pytest

from .__main__ import main
from .legs import LEGS, Leg
from .report import Figure, Report


@pytest.mark.timeout(180)
@pytest.mark.parametrize("leg", [pytest.param(leg, id=leg.name) for leg in LEGS.values()])
def test_a_short_leg_holds(leg: Leg, request: pytest.FixtureRequest) -> None:
    if leg.needs_postgres:
        request.getfixturevalue("postgres")  # which skips, and says so, where there is none
    report = Report(leg.name, seed=1, is_short=True)
    leg.run(report)
    assert report.faults == []
    assert [str(figure) for figure in report.figures if not figure.holds] == []
    assert any(figure.is_control for figure in report.figures), "a zero beside no control"


@pytest.mark.parametrize("legs", [["row_security"], ["simulation", "machine"]])
def test_no_leg_without_parts_is_run_without_its_controls(legs: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*legs, "--only", "nonsense"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("seen", "rule", "holds"),
    [
        (0, "== 0", True),
        (1, "== 0", False),
        (5, ">= 5", True),
        (4, ">= 5", False),
        (0, "> 0", False),
    ],
)
def test_a_figure_keeps_its_rule(seen: float, rule: str, holds: bool) -> None:
    assert Figure("something", seen, rule).holds is holds


def test_a_leg_that_counted_nothing_has_not_held() -> None:
    assert not Report("none", 1).holds
