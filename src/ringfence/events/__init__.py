"""
Events to the right user: emitted by whatever runs for somebody, read by their own connections.

An `EventHub` keeps a log for each user and a bell that says that there is something new. Nothing
here takes a user id: whose events they are is what the current context says.
"""

from .envelope import Event, EventDocument, Resync
from .hub import EventHub
from .log import Entry, EventLog, Page, UserKey
from .memory import MemoryLog
from .position import Position
from .started import Started, started
from .subscription import Subscription
from .verbs import emit, subscribe

__all__ = [
    "Entry",
    "Event",
    "EventDocument",
    "EventHub",
    "EventLog",
    "MemoryLog",
    "Page",
    "Position",
    "Resync",
    "Started",
    "Subscription",
    "UserKey",
    "emit",
    "started",
    "subscribe",
]
