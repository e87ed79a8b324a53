"""Everything that a request may do."""

from __future__ import annotations

from . import endings, foreign, longer, own, streams, values

__all__ = ["OPERATIONS"]

OPERATIONS = (
    *own.OPERATIONS, *longer.OPERATIONS, *foreign.OPERATIONS, *streams.OPERATIONS,
    *values.OPERATIONS, *endings.OPERATIONS,
)  # fmt: skip
