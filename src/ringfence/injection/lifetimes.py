"""Lifetime: how long a provided object lives."""

from __future__ import annotations

import enum

__all__ = ["Lifetime"]


class Lifetime(enum.Enum):
    """
    How long a provided object lives, and so who shares it.

    Attributes:
        APP: as long as the fence is open; everybody shares it.
        USER: across the requests of one user of one tenant, until it was idle for too long.
        REQUEST: as long as the root scope; its children share it.
        OPERATION: as long as the scope in which it is asked for, a child's included.
        TRANSIENT: made anew for whoever asks, and finalised with that.
    """

    APP = "app"
    USER = "user"
    REQUEST = "request"
    OPERATION = "operation"
    TRANSIENT = "transient"


RANKS = {
    Lifetime.APP: 4,
    Lifetime.USER: 3,
    Lifetime.REQUEST: 2,
    Lifetime.OPERATION: 1,
    Lifetime.TRANSIENT: 0,
}
"""The longer it lives, the higher: what lives long may not hold what does not."""
