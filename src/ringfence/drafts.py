"""
Drafts: how a frozen context is filled, copied and inherited from, at the speed of plain slots.

A frozen attrs class is filled through a subclass whose `__setattr__` *and* `__delattr__` are
object's own; its `__class__` is then set to the frozen class. Measured: 0.18 against 1.29
microseconds for the attrs constructor.
"""

from __future__ import annotations

import time
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

from .checks import checked_data, checked_operation
from .copies import isolated_copy
from .errors import ContextLimitError
from .isolation import Claimant

if TYPE_CHECKING:
    from .context import UserExecutionContext
    from .scope import RequestScope
    from .settings import Settings

__all__ = ["bound_copy", "derive_child", "draft_of", "is_plain"]

_now = time.time_ns
_drafts: dict[type[UserExecutionContext], Any] = {}
_plain: set[type[UserExecutionContext]] = set()  # classes that add no fields of their own


def draft_of(cls: type[UserExecutionContext]) -> Any:
    """The writable twin of a context class."""
    draft = _drafts.get(cls)
    if draft is None:
        body = {
            "__slots__": (),
            "__setattr__": object.__setattr__,
            "__delattr__": object.__delattr__,
            "__init__": object.__init__,
            "__new__": object.__new__,
        }
        draft = _drafts[cls] = type(f"_Draft{cls.__name__}", (cls,), body)
        if not cls.__dictoffset__ and _FILLED.issuperset(_slots_of(cls)):
            _plain.add(cls)
    return draft


_FILLED = frozenset(
    "user_id thread_id run_id request_id websocket_client_id operation_depth parent_request_id "
    "tenant_id expires_at client_request_id _session _created _agent _audit _operation _scope "
    "__weakref__".split()
)


def is_plain(cls: type[UserExecutionContext]) -> bool:
    """Whether a context class adds no fields of its own."""
    draft_of(cls)
    return cls in _plain


def _slots_of(cls: type) -> tuple[str, ...]:
    """Every slot by the name it is stored under: private ones are mangled."""
    return tuple(
        name
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType)
    )


def _stored(context: UserExecutionContext) -> dict[str, Any]:
    """What an instance holds: filled slots, and what a subclass keeps in a dictionary."""
    cls: Any = type(context)
    stored = {name: getattr(context, name) for name in _slots_of(cls) if hasattr(context, name)}
    stored.update(getattr(context, "__dict__", {}))
    return stored


def bound_copy(context: UserExecutionContext, scope: RequestScope | Claimant | None) -> Any:
    """An equal context with copied data, bound to `scope`."""
    cls = type(context)
    draft = object.__new__(draft_of(cls))
    copied = _stored(context)
    settings = context._settings if scope is None or isinstance(scope, Claimant) else scope.settings
    limits = settings.max_data_depth, settings.max_data_items
    for field, slot in (("agent_context", "_agent"), ("audit_metadata", "_audit")):
        if copied[slot] is not None:
            copied[slot] = isolated_copy(copied[slot], field, *limits)
    copied["_scope"] = scope
    for name, value in copied.items():
        object.__setattr__(draft, name, value)
    object.__setattr__(draft, "__class__", cls)
    return draft


def derive_child(
    parent: UserExecutionContext,
    operation_name: str,
    settings: Settings,
    agent: dict[str, Any] | None,
    audit: dict[str, Any] | None,
    thread_id: str | None,
    run_id: str | None,
    session: Any,
    request_id: str,
    scope: RequestScope | Claimant | None,
) -> Any:
    """The child of `parent` that does `operation_name`; of the parent's own class."""
    if type(operation_name) is not str or not operation_name.strip():
        checked_operation(operation_name)
    depth = parent.operation_depth + 1
    if depth > settings.max_depth:
        raise ContextLimitError(
            f"A child of request `{parent.request_id}` would have depth {depth}; "
            f"{settings.max_depth} is the deepest.",
            "Let the agents hand back instead of calling deeper, or raise `Settings.max_depth`.",
            field="operation_depth",
            rule="depth",
        )
    cls = type(parent)
    operation = parent._operation
    draft: Any = (_drafts.get(cls) or draft_of(cls))()
    draft.user_id = parent.user_id
    draft.thread_id = (
        parent.thread_id if thread_id is None else settings.id_rules.check("thread_id", thread_id)
    )
    draft.run_id = parent.run_id if run_id is None else settings.id_rules.check("run_id", run_id)
    draft.request_id = request_id
    draft.websocket_client_id = parent.websocket_client_id
    draft.operation_depth = depth
    draft.parent_request_id = parent.request_id
    draft.tenant_id = parent.tenant_id
    draft.expires_at = parent.expires_at
    draft.client_request_id = parent.client_request_id
    draft._session = session
    draft._created = _now()
    draft._agent = None
    draft._audit = None
    parent_operation = "root" if operation is None else operation[0]
    draft._operation = (operation_name, parent_operation, session is parent._session)
    draft._scope = scope
    draft.__class__ = cls
    if cls not in _plain:
        for name, value in _stored(parent).items():
            if name not in _FILLED:
                object.__setattr__(draft, name, value)
    if parent._agent or agent is not None:
        _inherit(draft, "_agent", "agent_context", parent._agent, agent, settings)
    if parent._audit or audit is not None:
        _inherit(draft, "_audit", "audit_metadata", parent._audit, audit, settings)
    return draft


def _inherit(
    child: UserExecutionContext,
    slot: str,
    field: str,
    inherited: dict[str, Any] | None,
    additions: dict[str, Any] | None,
    settings: Settings,
) -> None:
    limits = settings.max_data_depth, settings.max_data_items
    data = isolated_copy(inherited, field, *limits) if inherited else {}
    data.update(checked_data(additions, field, settings) or {})
    data.update(child._lineage(slot))  # descent cannot be overwritten
    object.__setattr__(child, slot, data)
