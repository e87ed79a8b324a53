"""The connections of guarded sessions: checked at each statement, never waited for in silence."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.util import await_only

from ..errors import DatabasePolicyError

if TYPE_CHECKING:
    from ..scope import RequestScope
    from ._session_guard import SessionGuard

__all__ = ["check_out", "read_only", "unwatch", "watch"]

_OPTION = "ringfence_guard"
