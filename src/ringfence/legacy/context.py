"""UserExecutionContext with the supervisor vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, Unpack

import attrs

from .. import context as canonical
from ..records import json_ready
from ..settings import default_settings
from .arguments import (
    CONTEXT_ORDER,
    REQUEST_ORDER,
    ChildKeywords,
    ContextKeywords,
    RequestKeywords,
    canonical_arguments,
    child_additions,
    refuse_unknown,
)
from .deprecations import deprecated
from .metadata import Metadata, merged, replace_metadata, split_lineage

__all__ = ["UserExecutionContext"]


class _FrozenInstanceError(attrs.exceptions.FrozenInstanceError, dataclasses.FrozenInstanceError):
    """For who expects the canonical class's error, and for who expects the older classes'."""


class UserExecutionContext(canonical.UserExecutionContext):
    """
    The canonical context, which it is in every respect, plus the names of the supervisor class.

    An immutable value with the canonical class's life; its children, copies and what a scope
    makes of it are of this class too. Legacy names warn, each with its successor.

    >>> ctx = UserExecutionContext("u-17", "t-1", "r-1", metadata={"step": 1})
    >>> ctx.metadata["result"] = "done"
    >>> ctx.agent_context
    {'step': 1, 'result': 'done'}

    Args:
        user_id, thread_id, run_id: as in the canonical class.
        positional: the canonical class's further arguments in their order, `request_id` first;
            or, if the first is neither text nor another plain value, the supervisor class's,
            `db_session` first.
        keywords: the canonical class's, and

            - `metadata`: `operation_depth` and `parent_request_id` go to their fields, the rest
              to `agent_context`;
            - `session_id`: kept in `agent_context`;
            - `websocket_connection_id`: the `websocket_client_id`.

    Raises:
        InvalidContextError: as in the canonical class; or one thing in the old words and in the
            new, and not the same.
    """

    __slots__ = ()

    def __init__(
        self,
        user_id: str,
        thread_id: str,
        run_id: str,
        *positional: Any,
        **keywords: Unpack[ContextKeywords],
    ) -> None:
        arguments = canonical_arguments(positional, keywords, CONTEXT_ORDER)
        super().__init__(user_id, thread_id, run_id, **arguments)

    # --- making them --------------------------------------------------------------------------

    @classmethod
    def from_request(
        cls,
        user_id: str,
        thread_id: str,
        run_id: str,
        *positional: Any,
        **keywords: Unpack[RequestKeywords],
    ) -> Self:
        """
        A root context, in either vocabulary; see the class for the old words.

        >>> UserExecutionContext.from_request("u-17", "t-1", "r-1", "q-1").request_id
        'q-1'
        """
        refuse_unknown(keywords, RequestKeywords)
        arguments = canonical_arguments(positional, keywords, REQUEST_ORDER)
        return cls(user_id, thread_id, run_id, **arguments)

    @classmethod
    def from_supervisor_style_request(
        cls,
        user_id: str,
        thread_id: str,
        run_id: str,
        request_id: str | None = None,
        db_session: Any = None,
        websocket_connection_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """
        A context made of supervisor words: `from_request`.

        `operation_depth` and `parent_request_id` among the metadata are validated and become
        the fields; everything else becomes the `agent_context`.
        """
        deprecated("from_supervisor_style_request", 2)
        return cls._of_supervisor_words(
            user_id, thread_id, run_id, request_id, db_session, websocket_connection_id, metadata
        )

    @classmethod
    def from_request_supervisor(
        cls,
        user_id: str,
        thread_id: str,
        run_id: str,
        request_id: str | None = None,
        db_session: Any = None,
        websocket_connection_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """The same as `from_supervisor_style_request`."""
        deprecated("from_request_supervisor", 2)
        return cls._of_supervisor_words(
            user_id, thread_id, run_id, request_id, db_session, websocket_connection_id, metadata
        )

    @classmethod
    def _of_supervisor_words(
        cls,
        user_id: str,
        thread_id: str,
        run_id: str,
        request_id: str | None,
        db_session: Any,
        websocket_connection_id: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Self:
        given = {} if metadata is None else metadata
        lineage, rest = split_lineage(given, default_settings())
        return cls(
            user_id,
            thread_id,
            run_id,
            request_id=request_id,
            db_session=db_session,
            websocket_client_id=websocket_connection_id,
            agent_context=rest,
            **lineage,
        )

    def create_child_context(
        self,
        operation_name: str,
        additional_agent_context: dict[str, Any] | None = None,
        additional_audit_metadata: dict[str, Any] | None = None,
        **keywords: Unpack[ChildKeywords],
    ) -> Self:
        """
        A child, of this class; `additional_metadata` and `metadata` are additions in old words.

        Each of their keys goes to the dictionary that has it, else to `agent_context`. The
        child's own lineage wins.
        """
        refuse_unknown(keywords, ChildKeywords)
        agent, audit = additional_agent_context, additional_audit_metadata
        for name in keywords:
            deprecated(f"create_child_context({name}=)", 2)
        for additions in keywords.values():
            agent, audit = self._with_additions(agent, audit, additions)
        return super().create_child_context(operation_name, agent, audit)

    def create_supervisor_style_child_context(
        self, operation_name: str, additional_metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """A child made of supervisor words: `create_child_context`."""
        deprecated("create_supervisor_style_child_context", 2)
        additions = self._with_additions(None, None, additional_metadata)
        return super().create_child_context(operation_name, *additions)

    def create_child_context_supervisor(
        self, operation_name: str, additional_metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """The same as `create_supervisor_style_child_context`."""
        deprecated("create_child_context_supervisor", 2)
        additions = self._with_additions(None, None, additional_metadata)
        return super().create_child_context(operation_name, *additions)

    def with_websocket_connection_supervisor(self, connection_id: str) -> Self:
        """A copy with this connection id: `with_websocket_connection`."""
        deprecated("with_websocket_connection_supervisor", 2)
        return self.with_websocket_connection(connection_id)

    def _with_additions(
        self,
        agent: dict[str, Any] | None,
        audit: dict[str, Any] | None,
        additions: Any,
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        return child_additions(self.audit_metadata, agent, audit, additions, self._settings)

    # --- reading them -------------------------------------------------------------------------

    @property
    def websocket_connection_id(self) -> str | None:
        """The `websocket_client_id`."""
        deprecated("websocket_connection_id", 2)
        return self.websocket_client_id

    @property
    def session_id(self) -> Any:
        """What `agent_context` has as `session_id`, or `None`."""
        deprecated("session_id", 2)
        return self.agent_context.get("session_id")

    @property
    def metadata(self) -> Metadata:
        """
        A live view of both dictionaries, `audit_metadata` first; writes stick.

        To assign a mapping puts a copy of it into `agent_context` and empties `audit_metadata`.

        Raises:
            InvalidContextError: on assigning a lineage that is not the context's own.
        """
        deprecated("metadata", 2)
        return Metadata(self)

    @metadata.setter
    def metadata(self, metadata: Mapping[str, Any]) -> None:
        deprecated("metadata", 2)  # by `object.__setattr__`, which old code uses
        replace_metadata(self, metadata)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "metadata":
            raise _FrozenInstanceError
        deprecated("metadata", 2)
        replace_metadata(self, value)

    def __delattr__(self, name: str) -> None:
        raise _FrozenInstanceError

    def to_dict(self) -> dict[str, Any]:
        """The canonical dictionary, and `websocket_connection_id` and `metadata`."""
        return {
            **super().to_dict(),
            "websocket_connection_id": self.websocket_client_id,
            "metadata": json_ready(merged(self)),
        }
