"""Identity: who a request belongs to, as the application's own authentication found it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from .errors import ContextLimitError, WrongTypeError

__all__ = ["Identity", "frozen_claims"]

_MAX_DEPTH = 20
_SCALARS = (str, int, float, bool, type(None), bytes, dt.datetime, dt.date)


def frozen_claims(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy, with tuples for lists; raises `WrongTypeError` for live values."""
    if not isinstance(claims, Mapping):
        raise WrongTypeError(
            f"`claims` must be a mapping, not `{type(claims).__name__}`.",
            "Pass what the token or the user record says, as a dict.",
            field="claims",
            rule="type",
        )
    return MappingProxyType({key: _freeze(value, key, 1) for key, value in claims.items()})


def _freeze(value: Any, key: object, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ContextLimitError(
            f"`claims[{key!r}]` is nested more than {_MAX_DEPTH} deep.",
            "Keep what authorisation needs, and leave the rest out.",
            field="claims",
            rule="depth",
        )
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return MappingProxyType({k: _freeze(v, key, depth + 1) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(item, key, depth + 1) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(_freeze(item, key, depth + 1) for item in value)
    raise WrongTypeError(
        f"`claims[{key!r}]` holds a `{type(value).__name__}`.",
        "Claims are plain values: text, numbers, dates, and mappings or sequences of them.",
        field="claims",
        rule="type",
    )


def _aware(instance: object, attribute: attrs.Attribute[Any], value: dt.datetime | None) -> None:
    if value is not None and (not isinstance(value, dt.datetime) or value.tzinfo is None):
        raise WrongTypeError(
            f"`{attribute.name}` must be a `datetime` with a time zone.",
            "Use `datetime.now(timezone.utc)` and the like.",
            field=attribute.name,
            rule="type",
        )


@attrs.frozen
class Identity:
    """
    Who a request belongs to. An immutable value; lives as long as you keep it.

    What an `identify` function returns. The ids are validated when a scope is opened with it.

    >>> Identity("u-17", tenant_id="acme", claims={"roles": ["admin"]}).claims["roles"]
    ('admin',)

    Args:
        user_id: the user, authenticated.
        tenant_id: the customer that the user acts for.
        expires_at: aware time after which the identity is void.
        claims: facts for authorisation, such as roles; kept on the scope as a read-only
            mapping with tuples for lists, and never part of `to_dict`. Not in the repr.

    Raises:
        InvalidContextError: claims that are not plain values, or a naive `expires_at`.
    """

    user_id: str
    tenant_id: str | None = None
    expires_at: dt.datetime | None = attrs.field(default=None, kw_only=True, validator=_aware)
    claims: Mapping[str, Any] = attrs.field(
        factory=dict, kw_only=True, converter=frozen_claims, repr=False, hash=False
    )

    def is_expired(self, now: dt.datetime | None = None) -> bool:
        """Whether `expires_at` has passed."""
        if self.expires_at is None:
            return False
        return (now or dt.datetime.now(dt.UTC)) >= self.expires_at
