"""Scopes, children and the registry in any order of steps, and a shrunk example if they fail."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import Scopes


@pytest.mark.timeout(180)  # to shorten what fails takes longer than to find it
def test_in_any_order_of_steps_everybody_is_who_they_are() -> None:
    run_state_machine_as_test(
        Scopes,
        settings=settings(
            max_examples=200,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
