"""
Many users at one shared agent at once: what each of their tools saw, and what each was told.

A test gives its tools a `Crowd` to note in, and `run` a function that drives the agent for the
user who is current; `faults` are then what was wrong, in words, and nothing if all was right. So
a test of what should be wrong asks for the words.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from ringfence import Ringfence, current_context
from ringfence.events import EventHub, emit, subscribe
from ringfence.integrations.sqlalchemy import Database

from ..integrations.notes import checked_out, notes_engine

PATIENCE = 40
OVER = "crowd_over"
BEGINS = {"agent_started", "tool_executing"}
ENDS = {
    "agent_completed": "agent_started",
    "agent_failed": "agent_started",
    "tool_completed": "tool_executing",
}

Document = dict[str, Any]


@attrs.frozen(eq=False)
class Call:
    """What one tool saw. It keeps the session, so that no other can take its place in memory."""

    tool: str
    explicit: str | None
    ambient: str
    request_id: str
    session: Any


@attrs.define(eq=False)
class Crowd:
    """
    Users, what their tools saw, and what their connections were told. Lives as long as a test.

    Attributes:
        users: their ids.
        calls: what `note` and `look_up` were called with, by whomever.
        told: by user, the documents of that user's events, in order.
        raised: by user, what driving the agent raised.
    """

    users: tuple[str, ...]
    calls: list[Call] = attrs.field(factory=list)
    told: dict[str, list[Document]] = attrs.field(factory=dict)
    raised: dict[str, Exception] = attrs.field(factory=dict)
    _here: set[str] = attrs.field(factory=set)
    _all_are_here: anyio.Event = attrs.field(factory=anyio.Event)

    @classmethod
    def of(cls, count: int) -> Crowd:
        return cls(tuple(f"user-{number:02}" for number in range(count)))

    # --- in tools -----------------------------------------------------------------------------

    def note(self, tool: str, explicit: Any) -> str:
        """For tools of any kind, also in worker threads; `explicit` is what the framework says."""
        context = current_context()
        said = explicit if isinstance(explicit, str) else getattr(explicit, "user_id", None)
        self.calls.append(Call(tool, said, context.user_id, context.request_id, context.db_session))
        return f"{tool} for {context.user_id}"

    async def look_up(self, tool: str, explicit: Any) -> str:
        """Note, wait until all users have come as far, then ask the database."""
        answer = self.note(tool, explicit)
        await self.meet()
        count = await current_context().db_session.scalar(text("SELECT count(*) FROM note"))
        return f"{answer}: {count}"

    async def meet(self) -> None:
        """No connection is held here: there are fewer of them than users."""
        self._here.add(current_context().user_id)
        if self._here.issuperset(self.users):
            self._all_are_here.set()
        with anyio.fail_after(PATIENCE / 2):
            await self._all_are_here.wait()

    # --- around them --------------------------------------------------------------------------

    async def run(self, fence: Ringfence, drive: Callable[[], Awaitable[object]]) -> None:
        """Drive the agent for each user at once, and hear what each of them is told."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for user in self.users:
                    tasks.start_soon(self._run_one, fence, user, drive)

    async def _run_one(
        self, fence: Ringfence, user: str, drive: Callable[[], Awaitable[object]]
    ) -> None:
        async with fence.user_context(user, thread_id=thread_of(user)), subscribe() as events:
            start = events.position
            try:
                await drive()
            except Exception as error:
                self.raised[user] = error
        # An end may be told as late as at that of the scope.
        async with fence.user_context(user, thread_id=thread_of(user)), subscribe(start) as events:
            await emit(OVER)
            heard = self.told[user] = []
            async for event in events:
                if event.kind == OVER:
                    return
                heard.append(event.document)

    async def run_and_cancel(
        self, fence: Ringfence, drive: Callable[[], Awaitable[object]], seed: int
    ) -> None:
        """The same, but each run is cancelled at a moment of its own, or comes to its end first."""
        moments = random.Random(seed)

        async def drive_a_while() -> None:
            with anyio.move_on_after(moments.uniform(0, 0.6)):
                await drive()

        await self.run(fence, drive_a_while)

    # --- judging ------------------------------------------------------------------------------

    def faults(self, calls: Sequence[str], events: Sequence[str] | None = None) -> list[str]:
        """
        What was wrong, in words.

        Args:
            calls: the tools that each user's run calls, one name for each call.
            events: the kinds that each user is told; not compared if not given.
        """
        return [
            *(f"{user}: raised {error!r}" for user, error in self.raised.items()),
            *self._mix_ups(),
            *self._counts(calls),
            *(fault for user in self.users for fault in self._tree(user, events)),
        ]

    def faults_of_any_ending(self) -> list[str]:
        """What was wrong, however many calls there were before the runs ended."""
        raised = [f"{user}: raised {error!r}" for user, error in self.raised.items()]
        trees = [fault for user in self.users for fault in self._tree(user, None)]
        return raised + self._mix_ups() + trees

    def _mix_ups(self) -> list[str]:
        found = [
            f"{call.tool}: told {call.explicit}, ran as {call.ambient}"
            for call in self.calls
            if call.explicit != call.ambient
        ]
        sessions = Counter(id(call.session) for call in self.calls)
        shared = sum(count for count in sessions.values() if count > 1)
        if shared:
            found.append(f"{shared} calls shared a session")
        return found

    def _counts(self, calls: Sequence[str]) -> list[str]:
        wanted = Counter(calls)
        found = {user: Counter[str]() for user in self.users}
        for call in self.calls:
            found[call.ambient][call.tool] += 1
        return [f"{user}: {has} calls" for user, has in found.items() if has != wanted]

    def _tree(self, user: str, events: Sequence[str] | None) -> list[str]:
        told = self.told.get(user, [])
        found = [f"{user}: {fault}" for fault in tree_faults(told, thread_of(user))]
        kinds = Counter(document["kind"] for document in told)
        if events is not None and kinds != Counter(events):
            found.append(f"{user}: told {dict(kinds)}")
        known = {document["request_id"] for document in told}
        return found + [
            f"{user}: was not told of {call.tool}"
            for call in self.calls
            if call.ambient == user and call.request_id not in known
        ]


def thread_of(user: str) -> str:
    return f"thread-of-{user}"


def tree_faults(told: Sequence[Document], thread_id: str | None = None) -> list[str]:
    """What is wrong with one user's events: of another thread, loose, or without one end each."""
    found = [
        f"heard of {document['thread_id']}"
        for document in told
        if thread_id is not None and document["thread_id"] != thread_id
    ]
    ends = Counter(
        (ENDS[each["kind"]], each["data"]["start_id"]) for each in told if each["kind"] in ENDS
    )
    begins = Counter((each["kind"], each["id"]) for each in told if each["kind"] in BEGINS)
    for kind, start in begins.keys() | ends.keys():
        if begins[kind, start] != 1 or ends[kind, start] != 1:
            found.append(f"{ends[kind, start]} ends of {begins[kind, start]} {kind}")
    return found + _loose(told)


def _loose(told: Sequence[Document]) -> list[str]:
    """All but the agents at the top stand beneath something that the user was told of before."""
    known: set[str] = set()
    found: list[str] = []
    for each in told:
        if each["kind"] in BEGINS and each["depth"] > 1 and each["parent_request_id"] not in known:
            found.append(f"{each['kind']} of {each['operation']} beneath nothing that is known")
        known.add(each["request_id"])
    return found


@contextlib.asynccontextmanager
async def crowd_fence(folder: Path, **options: Any) -> AsyncIterator[Ringfence]:
    """A fence with events and a real database; at the end every connection must be back."""
    async with notes_engine(folder) as engine:
        async with Ringfence(
            database=Database(async_sessionmaker(engine)), events=EventHub(), **options
        ) as fence:
            yield fence
        assert not held(engine), f"{held(engine)} connections are still held"


def held(engine: AsyncEngine) -> int:
    return checked_out(engine)
