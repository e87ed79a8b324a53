"""
Torture: try to mix up the users of your own ASGI application, over real sockets.

    torture        in pytest; the command is `ringfence torture`
    Request        what a scenario asks
    WebSocket      the same, over a WebSocket
    Answer         what a login is answered
    Report         what was found
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .report import Fault, Leak, Report
from .requests import Answer, Request, WebSocket

if TYPE_CHECKING:
    from .run import torture

__all__ = ["Answer", "Fault", "Leak", "Report", "Request", "WebSocket", "torture"]


def __getattr__(name: str) -> Any:
    """The run itself needs the extra `torture`; what a scenario is made of does not."""
    if name != "torture":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .run import torture
    except ImportError as error:
        raise ImportError(
            f"`torture` needs the extra `torture`: pip install 'ringfence[torture]' ({error})"
        ) from error
    return torture
