"""Scopes, children and owned objects in any order of steps, as hypothesis finds them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from ringfence.state import _get
from tests.properties.machine import Place, Scopes

from .report import Report


class WithoutRefusal(Scopes):
    """The naive reader: whoever was set last, whether or not their block has ended."""

    def read(self, place: Place) -> str | None:
        scope = place.context.run(_get)
        return next((each.user for each in self.all_scopes if each.block is scope), None)


class WithoutOwners(Scopes):
    """A registry that knows nobody's objects."""

    def is_refused(self, place: Place, obj: object) -> bool:
        return False


def run(report: Report) -> None:
    Scopes.steps = 0
    failed = _first_fault(Scopes, report.seed, report.size(1_500, 30))
    if failed is not None:
        replay = f"python -m tests.torture machine --seed {report.seed}"
        report.fault(failed, replay + " --short" * report.is_short)
    report.must("machine: steps", Scopes.steps, f">= {report.size(30_000, 300)}")
    report.must("machine: faults", int(failed is not None), "== 0")
    for machine in (WithoutRefusal, WithoutOwners):
        name = (machine.__doc__ or "").partition(":")[0].rstrip(".").lower()
        found = _first_fault(machine, report.seed, report.size(1_500, 200), [Phase.generate])
        report.control(f"machine: faults of {name}", int(found is not None))


def _first_fault(
    machine: type[Scopes], number: int, examples: int, phases: Sequence[Phase] = tuple(Phase)
) -> str | None:
    """The shortest run that hypothesis finds to break a rule, if it finds one."""
    try:
        run_state_machine_as_test(
            seed(number)(machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                database=None,
                phases=phases,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except AssertionError as error:
        return "\n".join(getattr(error, "__notes__", ())) or repr(error)
    return None
