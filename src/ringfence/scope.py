"""RequestScope: the lifetime of one request, or of one operation within it."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, copy_context
from types import CodeType, MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from . import closing, generators, isolation
from .context import context_of
from .errors import (
    ConfigurationError,
    ContextClosedError,
    ContextIsolationError,
    OwnershipError,
    SessionIsolationError,
)
from .finalisers import EnteringStopped, FinaliserReport, Finalisers
from .generators import EXIT_STACK, GENERATOR_FLAGS, place
from .isolation import Claimant, Infrastructure
from .refusals import check_owner, draining, foreign_session, no_user, nothing_open
from .state import CLOSED, CLOSING, NEW, OPEN, State, _get, _set, roots
from .tasks import Signal, running_task

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from typing_extensions import TypeForm

    from .context import Facts, UserExecutionContext
    from .protocols import Held, Recipes, Resolver
    from .settings import Settings

__all__ = ["RequestScope"]

T = TypeVar("T")

_NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})
_getframe = sys._getframe
_growing = threading.Lock()  # threads of one scope may need its first extra at once


class _Extras:
    """What most scopes never have: made when the first of it is needed."""

    # Defaults of the class: setting seventeen slots took longer than opening the scope.
    finalisers: Finalisers | None = None
    claimant: Claimant | None = None
    claims: Mapping[str, Any] = _NO_CLAIMS
    closed_event: Signal | None = None
    connection: Any = None  # of a root of a boundary: what it answers, for its container
    deadline: float | None = None
    exc: BaseException | None = None
    held: Held | None = None  # the objects that the container made for it
    in_generator = False
    is_admitted = False  # although the fence is draining
    is_cut_short = False  # of a root: see the property
    parent_closed = False
    session: Any = None
    session_mode: str | None = None
    timeout: float | None = None
    timeout_block: Any = None  # `anyio.fail_after`
    cancel_scope: Any = None  # what that entered
    transaction: str | None = None

    def __init__(self) -> None:
        self.children: dict[RequestScope, None] = {}

    def is_let_go(self) -> bool:
        """Whether there was nothing but what a container made, and that is given up now."""
        return False

    def remains(self) -> _Extras:
        """What an ended scope keeps: nothing that leads back to it, or to what was made for it."""
        self.held = self.connection = None
        return self


class RequestScope(Infrastructure):
    """
    What is open now: the resources, children and objects of one request or operation.

    It is the async context manager that `user_context`, `child_context` and `nobody` return;
    it lives from entering that block to leaving it, and goes through the states `new`, `open`,
    `closing` and `closed`. Once closed, everything that still holds it is refused. Use the one
    that is open here::

        connection = await current_scope().enter(open_connection())

    Not made by hand. Leaving twice, out of order, or from another task is harmless.
    """

    __slots__ = (
        "__weakref__", "_below", "_closed_code", "_closed_instruction", "_context", "_extras",
        "_facts", "_opened_code", "_opened_instruction", "_parent", "_recipes", "_request_id",
        "_root", "_settings", "_state",
    )  # fmt: skip

    # Written on entering or on leaving, and read after that only.
    _below: RequestScope | None  # what was current here before
    _opened_code: CodeType
    _opened_instruction: int
    _closed_code: CodeType | None
    _closed_instruction: int
    # Only roots of a boundary have it: what their context is made of, when it is first read.
    _facts: Facts

    def __init__(
        self,
        request_id: str,
        parent: RequestScope | None,
        recipes: Recipes | None,
        settings: Settings,
    ) -> None:
        self._request_id = request_id
        self._context: UserExecutionContext | None = None  # until it has ended; nobody's has none
        self._parent = parent
        self._root: RequestScope | None = self if parent is None else parent._root
        self._recipes = recipes
        self._settings = settings
        self._state: State = NEW
        self._extras: _Extras | None = None

    # --- the block ----------------------------------------------------------------------------

    async def __aenter__(self) -> Any:
        frame = _getframe(1)
        code = frame.f_code
        opener = None  # for shutdown, which could not find it on a stack
        if code.co_flags & GENERATOR_FLAGS or code is EXIT_STACK:
            if self._extras is None or not self._extras.in_generator:
                generators.refuse_generators(frame, self._settings.block_drivers)
            opener = running_task()
        if self._state is not NEW:
            raise self._reentered()
        below = _get()
        if below is not None and below._state is CLOSED:
            below._below = None  # ended scopes make no chain
        parent = self._parent
        context = self._context
        if parent is not None:
            if parent._state is not OPEN:
                raise parent._closed_error()
            if below is not parent:
                parent._require_here()  # else whoever enters it becomes another user
            (parent._extras or parent._more()).children[self] = None
        else:
            if self._recipes is not None and self._recipes.is_draining:
                if self._extras is None or not self._extras.is_admitted:
                    raise draining()
            roots[self] = opener
        self._below = below
        self._opened_code = code
        self._opened_instruction = frame.f_lasti
        self._state = OPEN
        if self._extras is not None or (context is not None and context._session is not None):
            self._open_extras()
        _set(self)
        return self if context is None else context

    def _open_extras(self) -> None:
        try:
            context, extras = self._context, self._more()
            if context is not None and context._session is not None:
                self._claim_session(context._session)
            if extras.timeout is not None:
                self._start_timeout(extras, extras.timeout)
        except BaseException:
            closing.release(self)
            self._end(self._opened_code, self._opened_instruction)
            raise

    def _claim_session(self, session: Any) -> None:
        isolation.refuse_shared(session, "db_session")
        isolation.registry.claim(session, self.claimant, error=SessionIsolationError)
        database = self._recipes.database if self._recipes is not None else None
        if database is not None:
            database.adopt_session(self, session)

    def _start_timeout(self, extras: _Extras, timeout: float) -> None:
        own = anyio.current_time() + timeout
        inherited = self._parent.deadline if self._parent is not None else None
        extras.deadline = own if inherited is None else min(own, inherited)
        extras.timeout_block = anyio.fail_after(extras.deadline - anyio.current_time())
        extras.cancel_scope = extras.timeout_block.__enter__()

    def _open_unread(self, code: CodeType) -> None:
        """
        Enter a root whose context need not be made yet. For the middleware, which reads none.

        What `__aenter__` does, but for what a root of its making never has: a parent, a session
        that was given, a time-out, a generator around it. `code` is the caller's.
        """
        if self._recipes is not None and self._recipes.is_draining:
            raise draining()
        below = _get()
        if below is not None and below._state is CLOSED:
            below._below = None
        roots[self] = None
        self._below = below
        self._opened_code = code
        self._opened_instruction = 0
        self._state = OPEN
        _set(self)

    async def _close(self, exc: BaseException | None, code: CodeType) -> None:
        """Leave what `_open_unread` has entered, whose body ended with `exc`; may raise another."""
        await closing.leave(self, exc, code, 0)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: Any
    ) -> bool | None:
        frame = _getframe(1)
        code, instruction = frame.f_code, frame.f_lasti
        if (
            exc_type is None
            and self._state is OPEN
            and (self._extras is None or self._extras.is_let_go())
        ):
            # What most requests come to: nothing was registered. Written out from `_end`.
            if self._parent is None and _get() is self:
                below = self._below
                if below is None or below._state is not CLOSED:
                    self._state = CLOSED
                    self._context = self._root = None
                    self._closed_code = code
                    self._closed_instruction = instruction
                    del roots[self]
                    _set(below)
                    return None
            self._end(code, instruction)
            return None
        del frame  # a held frame keeps every local of its function alive
        return await closing.leave(self, exc, code, instruction)

    def _end(self, code: CodeType | None, instruction: int) -> None:
        """Closed: nothing of this scope answers any more, whatever still holds it."""
        self._state = CLOSED
        self._context = None  # not to be read any more; nor a cycle, so that both are freed at once
        self._closed_code = code
        self._closed_instruction = instruction
        if self._extras is not None:
            self._extras = self._extras.remains()
        parent = self._parent
        if parent is None:
            roots.pop(self, None)
            self._root = None  # nor one with itself
        else:
            (parent._extras or parent._more()).children.pop(self, None)
        below = self._below
        if below is not None and below._state is CLOSED:
            below._below = None
        here = _get()
        if here is self:
            # Back to what was here before. If that has ended meanwhile, its orphans stay
            # refused: falling further down would make them somebody else.
            _set(below)
        elif here is not None:
            self._unlink(here)

    def _unlink(self, top: RequestScope) -> None:
        """Left out of order: whoever was entered above, here, goes back past this one."""
        scope: RequestScope | None = top
        while scope is not None and scope._below is not self:
            scope = scope._below
        if scope is not None:
            scope._below = self._below

    # --- what it is ---------------------------------------------------------------------------

    @property
    def context(self) -> UserExecutionContext:
        """
        The facts.

        Raises:
            NoContextError: a scope of `nobody()`.
            ContextClosedError: it has ended.
        """
        context = self._context
        if context is None and self.has_user:
            context = context_of(self, self._facts)
        if context is not None:
            return context
        raise self._closed_error() if self._state is CLOSED else no_user()

    @property
    def has_user(self) -> bool:
        """Whether there is a context: while it is open, and not `nobody()`'s."""
        if self._context is not None:
            return True
        return self._state is not CLOSED and hasattr(self, "_facts")

    @property
    def request_id(self) -> str:
        """The id of this request or operation; `nobody()` has one too."""
        return self._request_id

    @property
    def root(self) -> RequestScope:
        """The scope that owns everything in this request tree."""
        return self._root or self

    @property
    def parent(self) -> RequestScope | None:
        """The scope this is a child of; `None` for a root."""
        return self._parent

    @property
    def children(self) -> tuple[RequestScope, ...]:
        """The children that are open, oldest first."""
        return () if self._extras is None else tuple(self._extras.children)

    @property
    def state(self) -> State:
        """`new`, `open`, `closing` or `closed`."""
        return self._state

    @property
    def is_parent_closed(self) -> bool:
        """Whether the parent closed it, while its own block was still running."""
        return self._extras is not None and self._extras.parent_closed

    @property
    def is_cut_short(self) -> bool:
        """Whether it could not come to its end: shutdown cancelled it, or its client left."""
        return self._extras is not None and self._extras.is_cut_short

    @property
    def ended_well(self) -> bool:
        """Whether its block ended without an exception. False while it is open."""
        if self._state not in (CLOSING, CLOSED):
            return False
        extras = self._extras
        return extras is None or not (extras.exc or extras.parent_closed or extras.is_cut_short)

    @property
    def deadline(self) -> float | None:
        """When it must have ended, on the clock of `anyio.current_time()`; `None` if never."""
        scope: RequestScope | None = self
        while scope is not None:
            if scope._extras is not None and scope._extras.deadline is not None:
                return scope._extras.deadline
            scope = scope._parent
        return None

    @property
    def claims(self) -> Mapping[str, Any]:
        """What the identity said for authorisation; read-only, the same in the whole tree."""
        extras = self.root._extras
        return _NO_CLAIMS if extras is None else extras.claims

    @property
    def settings(self) -> Settings:
        """The settings that hold here."""
        return self._settings

    @property
    def transaction(self) -> str | None:
        """The transaction policy asked for in this scope; `None` for the database's own."""
        return None if self._extras is None else self._extras.transaction

    @property
    def report(self) -> tuple[FinaliserReport, ...]:
        """What became of each finaliser, in the order they ran. Complete once it is closed."""
        finalisers = None if self._extras is None else self._extras.finalisers
        return () if finalisers is None else tuple(finalisers.report)

    @property
    def needs_event_loop(self) -> bool:
        """Whether closing it has something to await."""
        extras = self._extras
        return extras is not None and (
            bool(extras.children)
            or (extras.finalisers is not None and not extras.finalisers.is_plain)
        )

    def run_plain_finalisers(self, exc: BaseException | None) -> None:
        """Run the last finalisers, as far as they need no event loop. For `run_as`, on leaving."""
        extras = self._extras
        if extras is None or extras.finalisers is None or self._state is not OPEN:
            return
        self._state, extras.exc = CLOSING, exc
        extras.finalisers.run_inline()
        self._state = OPEN  # for `__aexit__`, which does the rest

    @property
    def claimant(self) -> Claimant:
        """Who owns, in the registry, what this request tree owns. For integrations."""
        root = self.root
        if root._state is CLOSED:
            raise root._closed_error()
        extras = root._more()
        if extras.claimant is None:
            extras.claimant = Claimant(root.request_id)
        return extras.claimant

    @property
    def opened_at(self) -> str:
        """Where its block began: `file:line in function`."""
        if self._state is NEW:
            return "nowhere yet"
        return place(self._opened_code, self._opened_instruction)

    @property
    def closed_at(self) -> str | None:
        """Where its block ended; `None` while it is open."""
        if self._state is not CLOSED:
            return None
        if self._closed_code is None:
            return "the end of its parent"
        return place(self._closed_code, self._closed_instruction)

    def __repr__(self) -> str:
        return f"<RequestScope {self.request_id} {self._state}>"

    # --- what it does -------------------------------------------------------------------------

    async def enter(self, manager: AbstractAsyncContextManager[T] | AbstractContextManager[T]) -> T:
        """
        Enter a context manager now, leave it when this scope ends, and return its value.

        Both halves run in one task of the manager's own, as cancel scopes, task groups and locks
        demand. ContextVars that it sets do not reach the body, and it cannot swallow the body's
        exception.

        Raises:
            WrongTypeError: no context manager.
            ContextClosedError: the scope is closing or has ended.
        """
        self._require_open()
        try:
            value: T = await self._finalisers().enter(manager)
        except EnteringStopped:
            raise self._closed_error() from None
        if self._state is not OPEN:
            raise self._closed_error()
        return value

    def callback(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[[], None]:
        """
        Call `fn`, sync or async, when this scope ends; returns a function that forgets it.

        Finalisers run last in first out, each once, each within `Settings.finaliser_timeout`.

        Raises:
            ContextClosedError: the scope is closing or has ended.
        """
        self._require_open()
        name = getattr(fn, "__qualname__", type(fn).__qualname__)
        finalisers = self._finalisers()
        handle = finalisers.add(functools.partial(fn, *args, **kwargs), name)
        return functools.partial(finalisers.discard, handle)

    def own(self, obj: T) -> T:
        """
        Make `obj` belong to this request tree until its root closes, and return it.

        Raises:
            OwnershipError: it belongs to another.
            WrongTypeError: a value, type, module or function.
            ContextLimitError: more than `Settings.max_owned` objects.
        """
        self._require_open()
        self.check(obj)
        owner = isolation.registry.owner_of(obj)
        if owner is not None and not owner.ends_before(self.claimant):
            return obj  # it is ours: else the check had refused it
        isolation.registry.claim(obj, self.claimant, limit=self._settings.max_owned)
        isolation.stamp(obj, self.root)
        return obj

    def check(self, obj: T) -> T:
        """
        Return `obj`, unless it belongs to another request tree. Costs one look-up.

        What was made for one request, and belongs to nobody any more, is looked for in what the
        fence's container keeps for the application.

        Raises:
            OwnershipError: it belongs to another; or an object of the application's has kept it.
            ContextClosedError: it belongs to one that has ended.
        """
        self._require_here()
        owner = isolation.stamp_of(obj)
        if owner is not None:
            check_owner(obj, owner, self)
        claimant = isolation.registry.owner_of(obj)
        if claimant is not None and claimant is not self.root._more().claimant:
            if claimant.admits(self) or claimant.is_shared(obj):
                return obj
            raise isolation.foreign_object(obj, claimant.request_id, self.request_id)
        if claimant is None and self._recipes is not None:
            self._refuse_kept(obj, self._recipes.services)
        return obj

    def get(self, wanted: TypeForm[T]) -> Coroutine[Any, Any, T]:
        """
        The object of this type that the fence's container provides here; to be awaited.

        It lives as its provider says: as long as this scope, its root, the user or the
        application::

            repository = await current_scope().get(OrderRepository)

        Raises:
            ProviderError: it cannot be provided.
            ContextClosedError: the scope is closing or has ended.
            ConfigurationError: the fence has no container.
        """
        recipes = self._recipes
        services = None if recipes is None else recipes.services
        if services is None:
            services = self._services()
        return services.resolve(self, wanted)

    def get_now(self, wanted: TypeForm[T]) -> T:
        """
        The same, for what needs no `await`, or is there already.

        Raises:
            UnreachableProviderError: making it needs an `await`.
        """
        value: T = self._services().resolve_now(self, wanted)
        return value

    async def release(self, wanted: TypeForm[Any]) -> None:
        """
        Finalise an object of this scope before its turn, and first what this made with it.

        Whoever asks afterwards gets another. What was never made is nothing to release.

        Raises:
            ProviderError: it does not live in this scope.
        """
        await self._services().release(self, wanted)

    @property
    def db_session(self) -> Any:
        """
        The session that was given, else this scope's own, opened on first use, else `None`.

        Raises:
            ContextClosedError: the scope has ended.
            SessionIsolationError: asked for from another request.
        """
        self._require_here(SessionIsolationError)
        if self._context is not None and self._context._session is not None:
            return self._context._session
        extras = self._more()
        database = None if self._recipes is None else self._recipes.database
        if extras.session is None and database is not None:
            if extras.session_mode == "share" and self._parent is not None:
                return self._parent.db_session
            if self._state is not OPEN:
                raise self._closed_error()
            extras.session = database.open_session(self)
        return extras.session

    @property
    def has_db_session(self) -> bool:
        """Whether `db_session` would give one; opens nothing."""
        if self._context is not None and self._context._session is not None:
            return True
        return self._recipes is not None and self._recipes.database is not None

    # --- inside -------------------------------------------------------------------------------

    def _more(self) -> _Extras:
        extras = self._extras
        if extras is None:
            with _growing:
                extras = self._extras
                if extras is None:
                    extras = self._extras = _Extras()
        return extras

    def _services(self) -> Resolver:
        services = None if self._recipes is None else self._recipes.services
        if services is None:
            raise ConfigurationError(
                "There is no container to get objects from.",
                "Give the fence one: `Ringfence(services=Container())`.",
            )
        return services

    def _finalisers(self) -> Finalisers:
        extras = self._more()
        if extras.finalisers is None:
            with _growing:
                if extras.finalisers is None:
                    limit = self._settings.finaliser_timeout
                    extras.finalisers = Finalisers(limit, self._own_context)
        return extras.finalisers

    def _own_context(self) -> Context:
        """A copy of the context that is current, in which this scope is."""
        context = copy_context()
        context.run(_set, self)
        return context

    def _refuse_kept(self, obj: object, services: Resolver | None) -> None:
        keeper = None if services is None else services.keeper_of(obj)
        if keeper is not None:
            raise OwnershipError(
                f"This `{type(obj).__name__}` is of a kind that is made for one request or user, "
                f"and the application's `{keeper}` keeps it.",
                "Keep what it says instead; to share it on purpose, provide it for the "
                "application's lifetime.",
                request_id=self.request_id,
            )

    def _require_open(self) -> None:
        if self._state is not OPEN:
            raise self._closed_error()
        self._require_here()

    def _require_here(self, error: type[ContextIsolationError] = OwnershipError) -> None:
        """Refuse a scope that has ended, and one that was captured and is used by another."""
        if self._state is CLOSED or self._state is NEW:
            raise self._closed_error()
        here = _get()
        if here is None:
            raise nothing_open()
        if here._state is CLOSED:
            raise here._closed_error()
        if here._root is not self._root:
            if error is SessionIsolationError:
                raise foreign_session(self.root, here)
            raise isolation.foreign_object(self, self.request_id, here.request_id, error)

    def _reentered(self) -> Exception:
        if self._state is CLOSED:
            return self._closed_error()
        return ConfigurationError(
            f"The block of request `{self.request_id}` is open already.",
            "Call `user_context(...)` or `child_context(...)` again for each block.",
        )

    def _closed_error(self) -> ContextClosedError:
        if self._state is NEW:
            return ContextClosedError(
                "This scope was never entered.",
                "Write `async with` in front of it.",
                request_id=self.request_id,
            )
        ended = "is closing" if self._state is CLOSING else f"ended at {self.closed_at}"
        return ContextClosedError(
            f"The scope of request `{self.request_id}`, opened at {self.opened_at}, {ended}.",
            "Take what you need from it before its block ends; for work that goes on, use "
            "`task_group()` inside it, `bind(fn)` for callbacks, or `fence.detach(fn)` for what "
            "outlives it.",
            request_id=self.request_id,
            opened_at=self.opened_at,
            closed_at=self.closed_at,
        )
