"""Canaries: strings that are unmistakably one user's, and how they are found again."""

from __future__ import annotations

import hashlib
import re

__all__ = ["Canaries", "Watch"]

SIZE = 23  # characters, all of them a-z and 0-9: no encoding of text changes them
SHAPE = "canary[0-9]{6}x[0-9a-f]{10}"
_SHAPE = re.compile(SHAPE.encode(), re.IGNORECASE)
_AROUND = 48  # characters of an excerpt, either side


class Canaries:
    """
    One canary for each user of a run. Lives as long as the run.

    The same seed gives the same canaries; those of another run are nobody's here::

        canaries = Canaries(seed=7, users=50)
        assert canaries.found(f"to {canaries.of(3)}") == {3}
    """

    def __init__(self, seed: int, users: int) -> None:
        self.seed = seed
        self.users = users
        self._owner = {_canary(seed, n).encode(): n for n in range(users)}

    def of(self, n: int) -> str:
        """The canary of user `n`."""
        return _canary(self.seed, n)

    def found(self, text: str | bytes) -> set[int]:
        """Whose canaries stand in `text`, in capitals or not."""
        return set(self.places(text))

    def places(self, text: str | bytes) -> dict[int, int]:
        """Whose canaries stand in `text`, each with where its first begins, in bytes."""
        data = text.encode("utf-8", "replace") if isinstance(text, str) else text
        places: dict[int, int] = {}
        for match in _SHAPE.finditer(data):
            owner = self._owner.get(match[0].lower())
            if owner is not None:
                places.setdefault(owner, match.start())
        return places


def _canary(seed: int, n: int) -> str:
    mark = hashlib.blake2b(f"{seed}:{n}".encode(), digest_size=5).hexdigest()
    return f"canary{n:06}x{mark}"


def excerpt(data: bytes, place: int) -> str:
    """What stands around a canary, of its own line."""
    begin = max(0, place - _AROUND, data.rfind(b"\n", 0, place) + 1)
    piece = data[begin : place + SIZE + _AROUND].decode("utf-8", "replace")
    return " ".join(piece.split())


class Watch:
    """
    Looks for canaries in what comes in pieces, and keeps none of it.

    A canary that is cut by the border of two pieces is found: the end of what came before is
    looked at again. Lives as long as one answer.
    """

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._end = b""
        self.excerpts: dict[int, str] = {}

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""
        data = self._end + piece
        for owner, place in self._canaries.places(data).items():
            self.excerpts.setdefault(owner, excerpt(data, place))
        self._end = data[-(SIZE - 1) :]
