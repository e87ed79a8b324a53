"""Work on many files by several processes, some of which die."""

from __future__ import annotations

import os

import pytest

from ringfence.migrate.workers import FEW, spread


def _work(number: int) -> int:
    if number < 0:
        os._exit(1)  # as a parser does that runs out of stack
    return number * number


def _died(number: int) -> int:
    return number


@pytest.mark.parametrize("count", [0, 1, FEW - 1, FEW * 3])
def test_results_are_in_order_and_each_is_told(count: int) -> None:
    told: list[int] = []
    items = list(range(count))
    assert spread(_work, items, _died, lambda: told.append(1), 2) == [n * n for n in items]
    assert len(told) == count


def test_a_file_that_kills_its_process_is_reported_and_the_others_are_done() -> None:
    told: list[int] = []
    items = [*range(FEW), -7, *range(FEW)]
    found = spread(_work, items, _died, lambda: told.append(1), 2)
    assert found == [n * n if n >= 0 else n for n in items]
    assert len(told) == len(items)
