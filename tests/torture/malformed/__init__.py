"""Malformed input at volume: nothing is taken that the rules refuse, and nothing odd is raised."""

from __future__ import annotations

import gc

import anyio

from ..report import Report
from . import data, headers, ids, tokens, wire

PARTS = (ids, headers, data, tokens)


def run(report: Report) -> None:
    gc.collect()
    gc.freeze()  # so that a collection of all there is does not pass for a slow check
    try:
        offered = [anyio.run(part.run, report) for part in PARTS]
    finally:
        gc.unfreeze()
    if not report.only:
        together = sum(offered[:2])
        report.must("ids and headers together", together, f">= {report.size(1_000_000, 40_000)}")
    wire.run(report)
