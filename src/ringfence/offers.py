"""What integrations offer of each scope, by type: its session, the request it answers."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from .scope import RequestScope

__all__ = ["Offer", "offer", "offer_of"]


@attrs.frozen
class Offer:
    """
    What each scope has of one type, or some scopes only. A value.

    Attributes:
        give: a scope's own object; raises where there is none.
        is_there: whether there is one.
    """

    give: Callable[[Any], Any]
    is_there: Callable[[RequestScope], bool]


_offers: dict[Any, Offer] = {}

PARTNERS = {"sqlalchemy": "sqlalchemy", "starlette": "starlette"}
"""For the package of a type, the integration that may offer it."""


def offer(
    kind: type,
    give: Callable[[RequestScope], Any],
    is_there: Callable[[RequestScope], bool] = lambda scope: True,
) -> None:
    """
    Have containers provide a `kind` that belongs to each scope, with what `give` returns for it.

    For integrations, which call it where their types are known. A provider of the application
    comes first. Who may do without one asks `is_there` first.
    """
    _offers[kind] = Offer(give, is_there)


def offer_of(kind: Any) -> Offer | None:
    """What is offered of a type, whether or not anything has imported its integration yet."""
    found = _offers.get(kind)
    partner = PARTNERS.get(str(getattr(kind, "__module__", "")).partition(".")[0])
    if found is None and partner is not None and isinstance(kind, type):
        with contextlib.suppress(ImportError):  # an extra is missing: then nothing is offered
            importlib.import_module(f"{__package__}.integrations.{partner}")
        found = _offers.get(kind)
    return found
