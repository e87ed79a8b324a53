"""`Metadata`: the two dictionaries of a context as the one that the supervisor class had."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Self

from .. import isolation
from ..checks import RESERVED_KEYS, checked_data
from ..errors import InvalidContextError, WrongTypeError

if TYPE_CHECKING:
    from ..context import UserExecutionContext
    from ..settings import Settings

__all__ = ["Metadata", "merged", "replace_metadata", "split_lineage"]

LINEAGE = ("operation_depth", "parent_request_id")
"""Keys that are facts of the context: shown in its metadata, and never stored there."""


if TYPE_CHECKING:
    _Dict = dict[str, Any]
else:

    class _Dict(MutableMapping, dict):
        """A `dict` whose methods all come down to the five below."""

        __slots__ = ()


class Metadata(_Dict):
    """
    A live view of a context's `agent_context` and `audit_metadata`; lives as long as you keep it.

    Reads see what either holds now, `audit_metadata` first, and the context's own lineage. Writes
    go to the dictionary that has the key, else to `agent_context`. Lineage can be written only
    as it is, and not deleted.

    It is a `dict` for those who ask. Code in C that looks into a `dict` past its methods, as fast
    JSON encoders do, sees what was there when `ctx.metadata` was read.

    Raises:
        InvalidContextError: on writing a reserved key, or another lineage than the context's.
        SharedObjectError: on writing an object that was registered as shared.
    """

    __slots__ = ("_context",)

    def __init__(self, context: UserExecutionContext) -> None:
        self._context = context
        dict.update(self, merged(context))

    def __getitem__(self, key: str) -> Any:
        context = self._context
        if key in LINEAGE:
            return _lineage(context)[key]
        audit = context.audit_metadata
        return audit[key] if key in audit else context.agent_context[key]

    def __setitem__(self, key: str, value: Any) -> None:
        context = self._context
        if key in LINEAGE:
            _refuse_other_lineage(context, key, value)
            return
        if key in RESERVED_KEYS:
            raise InvalidContextError(
                f"`metadata` cannot have the reserved key `{key}`.",
                "Facts have fields of their own; name your data differently.",
                field="metadata",
                rule="reserved",
            )
        isolation.refuse_shared(value, "metadata")
        if isinstance(value, Metadata):  # else whoever has this could write to that
            value = value.copy()
        audit = context.audit_metadata
        (audit if key in audit else context.agent_context)[key] = value
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        if key in LINEAGE and key in self:
            raise _forged(key, "cannot be deleted")
        found = [
            data
            for data in (self._context.agent_context, self._context.audit_metadata)
            if key in data and key not in LINEAGE
        ]
        if not found:
            raise KeyError(key)
        for data in found:  # or it would show again
            del data[key]
        dict.pop(self, key, None)

    def __iter__(self) -> Iterator[str]:
        return iter(merged(self._context))

    def __len__(self) -> int:
        return len(merged(self._context))

    def clear(self) -> None:
        """Empty both dictionaries; lineage stays."""
        self._context.agent_context.clear()
        self._context.audit_metadata.clear()
        dict.clear(self)

    def copy(self) -> dict[str, Any]:
        """A plain `dict` of what is there now."""
        return merged(self._context)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def __repr__(self) -> str:
        return repr(self.copy())


def merged(context: UserExecutionContext) -> dict[str, Any]:
    """What a context's metadata hold now."""
    data = {**context.agent_context, **context.audit_metadata}
    for key in LINEAGE:
        data.pop(key, None)
    return {**data, **_lineage(context)}


def _lineage(context: UserExecutionContext) -> dict[str, Any]:
    lineage: dict[str, Any] = {}
    if context.operation_depth > 0:
        lineage["operation_depth"] = context.operation_depth
    if context.parent_request_id is not None:
        lineage["parent_request_id"] = context.parent_request_id
    return lineage


def split_lineage(
    metadata: Mapping[str, Any], settings: Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The lineage that somebody's metadata state, and a copy of the rest, fit for a context.

    Raises:
        InvalidContextError: data that no context may have (`WrongTypeError` if no mapping).
    """
    if not isinstance(metadata, Mapping):
        raise WrongTypeError(
            f"`metadata` must be a `dict`, not `{type(metadata).__name__}`.",
            "Pass a dict, or leave it out.",
            field="metadata",
            rule="type",
        )
    lineage = {key: metadata[key] for key in LINEAGE if key in metadata}
    rest = {key: value for key, value in metadata.items() if key not in LINEAGE}
    return lineage, checked_data(rest, "metadata", settings) or {}


def replace_metadata(context: UserExecutionContext, metadata: Mapping[str, Any]) -> None:
    """
    Put a copy of `metadata` into `agent_context`, in place of all that both dictionaries held.

    Raises:
        InvalidContextError: another lineage than the context's, or data it may not have; nothing
            is changed.
    """
    if isinstance(metadata, Metadata) and metadata._context is context:
        return  # `ctx.metadata |= {...}` assigns what it has just written to
    lineage, rest = split_lineage(metadata, context._settings)
    for key, value in lineage.items():
        _refuse_other_lineage(context, key, value)
    agent, audit = context.agent_context, context.audit_metadata
    agent.clear()
    agent.update(rest)
    audit.clear()


def _refuse_other_lineage(context: UserExecutionContext, key: str, value: object) -> None:
    own = getattr(context, key)
    if type(value) is not type(own) or value != own:
        raise _forged(key, "is not the context's own")


def _forged(key: str, what: str) -> InvalidContextError:
    return InvalidContextError(
        f"`metadata[{key!r}]` {what}: lineage is a fact of the context.",
        "Leave it out; a child made by `create_child_context` or `child_context` has its own.",
        field=f"metadata[{key!r}]",
        rule="lineage",
    )
