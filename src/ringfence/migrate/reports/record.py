"""The report as JSON, for programs."""

from __future__ import annotations

from typing import Any

import attrs

from ..scan import Report
from .counts import rows, totals, undecided_keys

__all__ = ["as_json"]


def as_json(report: Report) -> dict[str, Any]:
    """
    Everything a report holds, as JSON's own types.

    Keys: `files_seen`, `totals` by kind, `rules` with counts by priority and kind,
    `undecided_keys`, and `files`, each with its `findings`: code, line, text, kind, phase, reason.
    """
    return {
        "files_seen": report.seen,
        "totals": totals(report),
        "rules": [{**attrs.asdict(row), "count": row.count} for row in rows(report)],
        "undecided_keys": dict(undecided_keys(report)),
        "files": [
            {
                "path": file.path,
                "priority": file.priority,
                "findings": [
                    {
                        "code": finding.code,
                        "line": finding.line,
                        "text": finding.text,
                        "kind": finding.kind,
                        "phase": finding.phase,
                        "reason": finding.reason,
                    }
                    for finding in file.findings
                ],
            }
            for file in report.files
        ],
    }
