"""
Keys of the audit trail move to `audit_metadata` all at once, or not yet.

`ringfence.legacy` shows both dictionaries as `metadata`, audited values first, and keeps in
`agent_context` what it is told as `metadata`. So as long as one write is left to a person, a key
that some code has moved would be missed by one reader, or hide what that write says.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from .findings import Finding
from .keys import AUDIT
from .rules import PERSON

__all__ = ["MOVING", "is_held", "is_undecided_write", "waiting"]

MOVING = frozenset({"RM202", "RM208", "RM209", "RM303", "RM305"})
"""Rules that move keys."""
_WRITES = MOVING - {"RM303"} | {"RM205", "RM214", "RM302", "RM304", "RM306", "RM310"}
"""What may write any key, or hands the whole mapping to somebody who may."""


def is_held(finding: Finding) -> bool:
    """Whether a finding would move an audited key."""
    return finding.code in MOVING and any(AUDIT in edit.text for edit in finding.edits)


def is_undecided_write(finding: Finding) -> bool:
    """Whether a finding leaves to a person what may write audited keys elsewhere."""
    return finding.code in _WRITES and finding.kind == PERSON


def waiting(findings: Iterable[Finding], place: str) -> list[Finding]:
    """Findings, of which those that are held wait for the write at `place`."""
    reason = f"its key is in audit-keys, and the write in {place} is to be decided first"
    return [attrs.evolve(one, edits=(), reason=reason) if is_held(one) else one for one in findings]
