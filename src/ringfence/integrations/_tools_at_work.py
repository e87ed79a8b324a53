"""Tools that frameworks have cancelled, and whose clean-up they do not wait for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import anyio

from ..current import current_scope
from ..errors import ContextClosedError
from ..scope import RequestScope
from ..tasks import wait_out

__all__ = ["outlasting_tools"]


@contextlib.asynccontextmanager
async def outlasting_tools(cancel: Callable[[], None] | None = None) -> AsyncIterator[RequestScope]:
    """
    A block that stands in the current scope, and is left after the children of that scope.

    It waits as long as a finaliser may take, whatever cancels this task meanwhile. Else the
    clean-up of a tool would find its scope ended, and its session with it. `cancel` is called
    first, for what is not cancelled yet.
    """
    scope = current_scope()
    try:
        yield scope
    finally:
        if cancel is not None:
            cancel()
        await _wait_for_children(scope)


async def _wait_for_children(scope: RequestScope) -> None:
    cancelled: BaseException | None = None
    deadline = anyio.current_time() + scope.settings.finaliser_timeout
    for child in scope.children:
        over = anyio.Event()
        with contextlib.suppress(ContextClosedError):  # it is closing already
            child.callback(over.set)
            left = max(0, deadline - anyio.current_time())
            cancelled = await wait_out(over, left) or cancelled
    if cancelled is not None:
        raise cancelled
