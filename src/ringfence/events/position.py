"""Position: a place in one user's log, as text `epoch-sequence`; what may be read from there."""

from __future__ import annotations

import re
from typing import Self

import attrs

from ..errors import InvalidContextError

__all__ = ["Position", "gap_after"]

_is_position = re.compile(r"([0-9a-f]{16})-(0|[1-9][0-9]{0,14})", re.ASCII).fullmatch


@attrs.frozen
class Position:
    """
    A place in one user's log. An immutable value; lives as long as you keep it.

    The epoch names one life of the log: it is random, and another one after the log was lost.

    >>> str(Position.parse("00c0ffee00c0ffee-17"))
    '00c0ffee00c0ffee-17'

    Args:
        epoch: 16 hexadecimal digits.
        sequence: of the last event before this place; 0 for the beginning.
    """

    epoch: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """
        The position that `text` writes out.

        Raises:
            InvalidContextError: it writes out none. The text is not shown: clients send it.
        """
        match = _is_position(text) if type(text) is str else None
        if match is None:
            raise InvalidContextError(
                "`last_id` is not the id of an event.",
                "Send the id of the last event that arrived as it was, or none.",
                field="last_id",
                rule="characters",
            )
        return cls(match[1], int(match[2]))


def gap_after(after: Position, epoch: str, first: int, last: int) -> tuple[int, str | None]:
    """
    After which sequence to read for somebody who has read up to `after`, and why not from there.

    >>> gap_after(Position("00c0ffee00c0ffee", 3), "00c0ffee00c0ffee", first=9, last=12)
    (8, 'trimmed')

    Args:
        epoch, first, last: of the log as it is; `first` is `last + 1` if it is empty.
    """
    if after.epoch != epoch:
        return first - 1, "epoch"
    if after.sequence > last:  # invented, or the log has lost its end
        return last, "ahead"
    if after.sequence < first - 1:
        return first - 1, "trimmed"
    return after.sequence, None
