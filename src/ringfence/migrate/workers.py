"""Work on many files by several processes, some of which may die of a file."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

__all__ = ["spread"]

FEW = 20
"""Fewer files than this are not worth the start of a process."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def spread(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    died: Callable[[_Item], _Result],
    tell: Callable[[], None] = lambda: None,
    jobs: int | None = None,
) -> list[_Result]:
    """
    `work` of each item, in their order.

    Args:
        work, items: have to be picklable where there are many.
        died: the result of an item whose process died of it.
        tell: called after each item.
        jobs: processes; as many as there are cores if not given.
    """
    count = min(jobs or os.cpu_count() or 1, len(items) // FEW + 1)
    if count == 1:
        return [_told(work(item), tell) for item in items]
    done: dict[int, _Result] = {}
    try:
        _in_a_pool(work, items, done, tell, count)
    except BrokenProcessPool:
        _one_by_one(work, items, done, died, tell)
    return [done[number] for number in range(len(items))]


def _told(result: _Result, tell: Callable[[], None]) -> _Result:
    tell()
    return result


def _pool(count: int) -> ProcessPoolExecutor:
    # not forked: the progress bar has a thread
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def _in_a_pool(
    work: Callable[[_Item], _Result], items: Sequence[_Item], done: dict[int, _Result],
    tell: Callable[[], None], count: int,
) -> None:  # fmt: skip
    pool = _pool(count)
    try:
        futures = {pool.submit(work, item): number for number, item in enumerate(items)}
        for future in as_completed(futures):
            done[futures[future]] = _told(future.result(), tell)
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(
    work: Callable[[_Item], _Result], items: Sequence[_Item], done: dict[int, _Result],
    died: Callable[[_Item], _Result], tell: Callable[[], None],
) -> None:  # fmt: skip
    """In one process, which does them in order: the first that is not done is what it died of."""
    while len(done) < len(items):
        left = [number for number in range(len(items)) if number not in done]
        with _pool(1) as pool:
            try:
                for number, future in [(n, pool.submit(work, items[n])) for n in left]:
                    done[number] = _told(future.result(), tell)
            except BrokenProcessPool:
                guilty = next(number for number in left if number not in done)
                done[guilty] = _told(died(items[guilty]), tell)
