"""LangChain and LangGraph: one agent for all users, threads of one user, and every ending."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Annotated, Any, TypedDict

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain.tools import ToolRuntime, tool
from langchain_core.messages import AnyMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from sqlalchemy import text

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ContextMismatchError,
    InvalidContextError,
    NoContextError,
    Ringfence,
    UserExecutionContext,
    WrongTypeError,
    current_context,
    current_scope,
    run_as,
)
from ringfence.events import subscribe
from ringfence.integrations import _held_blocks
from ringfence.integrations._owned_threads import thread_key
from ringfence.integrations.langchain import (
    OwnedThreads,
    RingfenceMiddleware,
    node,
    owned_thread,
    run,
    run_sync,
    stream,
    tool_scope,
    tool_scope_sync,
)

from .crowd import Crowd, crowd_fence, tree_faults
from .graphs import Scripted, asking

Explicit = ToolRuntime[UserExecutionContext]
MIDDLEWARE: tuple[AgentMiddleware[Any, Any, Any], ...] = (RingfenceMiddleware(),)


@pytest.fixture
def anyio_backend() -> object:
    return ("asyncio", {})


@pytest.fixture
async def fence(anyio_backend: Any, tmp_path: Path) -> AsyncIterator[Ringfence]:
    async with crowd_fence(tmp_path) as fence:
        yield fence


def _agent(*tools: Any, middleware: Any = MIDDLEWARE, **options: Any) -> Any:
    options = {"name": "triage", "context_schema": UserExecutionContext} | options
    return create_agent(Scripted(), list(tools), middleware=middleware, **options)


# --- one agent, fifty users ---------------------------------------------------------------------


@attrs.frozen
class Tools:
    """Tools of every kind that note what they see."""

    crowd: Crowd
    run: Callable[..., Any] = run

    def all(self) -> list[Any]:
        crowd = self.crowd

        @tool
        async def search(runtime: Explicit) -> str:
            """Look something up."""
            return await crowd.look_up("search", runtime.context)

        @tool
        def read(runtime: Explicit) -> str:
            """Read something, in a thread."""
            return crowd.note("read", runtime.context)

        inner = _agent(search, read, name="inner")

        @tool
        async def delegate(runtime: Explicit) -> str:
            """Ask another agent."""
            await self.run(inner, asking("search", "read"))
            return crowd.note("delegate", runtime.context)

        @tool
        def delegate_plainly(runtime: Explicit) -> str:
            """Ask another agent, in a thread."""
            run_sync(_agent(read, name="plain"), asking("read"))
            return crowd.note("delegate_plainly", runtime.context)

        return [search, read, delegate, delegate_plainly]


ASKED = asking("search", "search", "read", "delegate", "delegate_plainly")
CALLED = ["search"] * 3 + ["read"] * 3 + ["delegate", "delegate_plainly"]
TOLD = (
    ["agent_started", "agent_completed", *["agent_thinking"] * 2] * 3
    + ["tool_executing", "tool_completed"] * 8
)  # fmt: skip


async def _streamed(agent: Any, **options: Any) -> None:
    async with stream(agent, ASKED, **options) as items:
        async for _ in items:
            await anyio.sleep(0)


DRIVES: dict[str, Callable[[Any], Any]] = {
    "run": lambda agent: run(agent, ASKED),
    "run, given a context": lambda agent: run(agent, ASKED, context=current_context()),
    "streamed": lambda agent: _streamed(agent, stream_mode="updates"),
    "messages streamed": lambda agent: _streamed(agent, stream_mode="messages"),
}


@pytest.mark.parametrize("way", DRIVES)
async def test_fifty_users_at_one_agent(fence: Ringfence, way: str) -> None:
    crowd = Crowd.of(50)
    agent = _agent(*Tools(crowd).all(), checkpointer=OwnedThreads(InMemorySaver()))
    await crowd.run(fence, lambda: DRIVES[way](agent))
    assert crowd.faults(CALLED, TOLD) == []


async def test_without_the_middleware_the_crowd_finds_faults(fence: Ringfence) -> None:
    crowd = Crowd.of(2)
    agent = _agent(*Tools(crowd).all(), middleware=())
    await crowd.run(fence, lambda: agent.ainvoke(asking("search", "read")))
    faults = crowd.faults(["search", "read"])
    assert "4 calls shared a session" in faults
    assert "user-00: was not told of search" in faults
    assert "search: told None, ran as user-01" in faults


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def _graph(crowd: Crowd, *, wrap: Any = node, **options: Any) -> Any:
    """Nodes of every kind, a subgraph, and a `ToolNode`."""

    async def plan(state: State, runtime: Runtime[UserExecutionContext]) -> dict[str, Any]:
        await crowd.look_up("plan", runtime.context)
        return {}

    def check(state: State, runtime: Runtime[UserExecutionContext]) -> dict[str, Any]:
        crowd.note("check", runtime.context)
        return {}

    def ask(state: State) -> dict[str, Any]:
        return {"messages": [Scripted().invoke(state["messages"])]}

    within = StateGraph(State, context_schema=UserExecutionContext)
    within.add_node("plan", wrap(plan))
    within.add_node("check", wrap(check))
    within.add_edge(START, "plan")
    within.add_edge(START, "check")
    builder = StateGraph(State, context_schema=UserExecutionContext)
    builder.add_node("plan", wrap(plan))
    builder.add_node("check", wrap(check))
    builder.add_node("within", within.compile())
    builder.add_node("ask", ask)
    tools = Tools(crowd).all()[:2]
    builder.add_node("tools", ToolNode(tools, awrap_tool_call=tool_scope if wrap is node else None))
    builder.add_edge(START, "plan")
    builder.add_edge(START, "check")
    builder.add_edge(["plan", "check"], "within")
    builder.add_edge("within", "ask")
    builder.add_conditional_edges("ask", tools_condition, {"tools": "tools", END: END})
    builder.add_edge("tools", "ask")
    return builder.compile(name="graph", **options)


GRAPH_CALLED = ["plan", "check"] * 2 + ["search", "search", "read"]


async def test_fifty_users_at_one_plain_graph(fence: Ringfence) -> None:
    crowd = Crowd.of(50)
    graph = _graph(crowd, checkpointer=OwnedThreads(InMemorySaver()))
    await crowd.run(fence, lambda: run(graph, asking("search", "search", "read")))
    # Nodes have no events of their own: the events of their kind are those of agents and tools.
    faults = [fault for fault in crowd.faults(GRAPH_CALLED) if "was not told of" not in fault]
    assert faults == []
    assert {call.tool for call in crowd.calls} == {"plan", "check", "search", "read"}


async def test_without_nodes_of_ours_they_share_a_session(fence: Ringfence) -> None:
    crowd = Crowd.of(2)
    graph = _graph(crowd, wrap=lambda fn: fn)
    await crowd.run(fence, lambda: graph.ainvoke(asking("read"), context=current_context()))
    assert "10 calls shared a session" in crowd.faults([])


# --- what a run is given ------------------------------------------------------------------------


@tool
def read() -> str:
    """Read something."""
    return current_context().user_id


ALICE = UserExecutionContext("alice", "t-1", "r-1")
GIVEN = {
    "a context": {"context": ALICE},
    "a dictionary": {"context": {"user_id": "alice"}},
    "a configurable": {"config": {"configurable": {"user_id": "alice"}}},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
async def test_a_run_for_another_user_is_refused(fence: Ringfence, given: dict[str, Any]) -> None:
    agent = _agent(read, context_schema=None)
    async with fence.user_context("mallory"):
        for refused in (
            lambda: run(agent, asking("read"), **given),
            lambda: anext(stream(agent, asking("read"), **given)),
            lambda: agent.ainvoke(asking("read"), **given),
            lambda: asyncio.to_thread(agent.invoke, asking("read"), **given),
            lambda: agent.ainvoke(asking(), **given),  # a model alone
            lambda: asyncio.to_thread(agent.invoke, asking(), **given),
        ):
            with pytest.raises(ContextMismatchError):
                await refused()
    async with fence.user_context("alice"):
        assert await run(agent, asking("read"), **given)


async def test_a_tool_node_and_a_node_check_it_themselves(fence: Ringfence) -> None:
    crowd = Crowd.of(1)
    graph, config = _graph(crowd), {"configurable": {"thread_id": "ringfence1::alice:t-1"}}
    plain = StateGraph(State, context_schema=UserExecutionContext)
    plain.add_node("tools", ToolNode([read], awrap_tool_call=tool_scope))
    plain.add_edge(START, "tools")
    calls = {"messages": [Scripted().invoke(asking("read")["messages"])]}
    async with fence.user_context("mallory"):
        for told in ({"context": ALICE}, {"config": config}):
            with pytest.raises(ContextMismatchError):
                await graph.ainvoke(asking("read"), **told)
            with pytest.raises(ContextMismatchError):
                await plain.compile().ainvoke(calls, **told)
    assert crowd.calls == []


async def test_without_a_scope_nothing_runs() -> None:
    agent = _agent(read)
    for refused in (
        lambda: run(agent, asking("read")),
        lambda: agent.ainvoke(asking("read")),
        lambda: asyncio.to_thread(run_sync, agent, asking("read")),
    ):
        with pytest.raises(NoContextError):
            await refused()


# --- threads ------------------------------------------------------------------------------------


@tool
def ask() -> str:
    """Ask somebody."""
    return f"{current_context().user_id} got {interrupt('May I?')}"


def _said(result: Any) -> list[str]:
    return [message.content for message in result["messages"] if message.type == "tool"]


async def test_without_the_check_mallory_answers_for_alice(fence: Ringfence) -> None:
    agent = _agent(ask, middleware=(), checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t-1"}}
    async with fence.user_context("alice"):
        await agent.ainvoke(asking("ask"), config)
    async with fence.user_context("mallory"):
        result = await agent.ainvoke(Command(resume="yes"), config)
    assert _said(result) == ["mallory got yes"]


async def test_an_interrupted_run_is_resumed_by_its_user(fence: Ringfence) -> None:
    agent = _agent(ask, checkpointer=OwnedThreads(InMemorySaver()))
    async with fence.user_context("alice", thread_id="t-1"), subscribe() as events:
        result = await run(agent, asking("ask"))
        assert result["__interrupt__"]
        ends = [await anext(events) for _ in range(5)][-2:]
        assert [end.data["interrupted"] for end in ends] == [True, True]
        assert [end.data["outcome"] for end in ends] == ["failed", "completed"]
    async with fence.user_context("alice", thread_id="t-2"):
        result = await run(agent, Command(resume="yes"), config=owned_thread("t-1"))
    assert _said(result) == ["alice got yes"]


async def test_an_agent_within_a_tool_is_interrupted_too(fence: Ringfence) -> None:
    @tool
    async def delegate() -> str:
        """Ask another agent."""
        return _said(await run(_agent(ask, name="inner"), asking("ask")))[0]

    agent = _agent(delegate, checkpointer=OwnedThreads(InMemorySaver()))
    async with fence.user_context("alice", thread_id="t-1"), subscribe() as events:
        assert (await run(agent, asking("delegate")))["__interrupt__"]
        told = [await anext(events) for _ in range(10)]
        ends = [event.data["interrupted"] for event in told if "outcome" in event.data]
        assert ends == [True] * 4
        assert _said(await run(agent, Command(resume="yes"))) == ["alice got yes"]


FORGED = [
    "ringfence1::alice:t-1",
    "t-1",
    "mallory:t-1",
    "ringfence1::mallory",
    "ringfence1::mallory:",
    "ringfence1::mallory:../alice",
    "ringfence1::mallory:t%2d1",
    "ringfence1::mallory:%ff",
    "ringfence1:alice:mallory:t-1",
    " ringfence1::mallory:t-1",
    "",
    0,
    17,
    ["ringfence1::mallory:t-1"],
    b"ringfence1::mallory:t-1",
]


@pytest.mark.parametrize("forged", FORGED, ids=repr)
async def test_a_thread_of_another_is_refused_everywhere(fence: Ringfence, forged: Any) -> None:
    # The checkpointer has no check of its own: each place has to refuse by itself.
    agent = _agent(ask, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": forged}}
    async with fence.user_context("alice", thread_id="t-1"):
        await run(agent, asking("ask"))
    async with fence.user_context("mallory", thread_id="t-1"):
        for refused in (
            lambda: run(agent, Command(resume="yes"), config=config),
            lambda: anext(stream(agent, Command(resume="yes"), config=config)),
            lambda: asyncio.to_thread(run_sync, agent, asking("ask"), config=config),
        ):
            with pytest.raises(ContextMismatchError):
                await refused()
        with pytest.raises(ContextMismatchError):
            owned_thread(config=config)
    async with fence.user_context("alice", thread_id="t-1"):
        assert _said(await run(agent, Command(resume="yes"))) == ["alice got yes"]


@pytest.mark.parametrize("forged", [*FORGED[:4], ""])
async def test_the_middleware_refuses_what_comes_past_run(fence: Ringfence, forged: str) -> None:
    saver = InMemorySaver()
    agent, config = _agent(ask, checkpointer=saver), {"configurable": {"thread_id": forged}}
    async with fence.user_context("mallory"):
        with pytest.raises(ContextMismatchError):
            await agent.ainvoke(asking("ask"), config)
        with pytest.raises(ContextMismatchError):
            await asyncio.to_thread(agent.invoke, asking("ask"), config)
    # LangGraph keeps the input before it asks anybody: what `OwnedThreads` is for.
    assert saver.get_tuple(config) is not None


STATES: dict[str, Callable[[Any, Any], Any]] = {
    "state": lambda agent, config: agent.aget_state(config),
    "history": lambda agent, config: anext(agent.aget_state_history(config)),
    "update": lambda agent, config: agent.aupdate_state(config, {"messages": []}),
    "run": lambda agent, config: agent.ainvoke(Command(resume="yes"), config),
    "tuple": lambda agent, config: agent.checkpointer.aget_tuple(config),
    "write": lambda agent, config: agent.checkpointer.aput_writes(config, [], "task"),
    "delete": lambda agent, config: agent.checkpointer.adelete_thread(_key(config)),
    "copy": lambda agent, config: agent.checkpointer.acopy_thread(_key(config), _key(config)),
    "prune": lambda agent, config: agent.checkpointer.aprune([_key(config)]),
    "everything": lambda agent, config: anext(agent.checkpointer.alist(None)),
}
PLAIN_STATES: dict[str, Callable[[Any, Any], Any]] = {
    "state": lambda agent, config: agent.get_state(config),
    "history": lambda agent, config: next(agent.get_state_history(config)),
    "update": lambda agent, config: agent.update_state(config, {"messages": []}),
    "tuple": lambda agent, config: agent.checkpointer.get_tuple(config),
    "write": lambda agent, config: agent.checkpointer.put_writes(config, [], "task"),
    "delete": lambda agent, config: agent.checkpointer.delete_thread(_key(config)),
    "copy": lambda agent, config: agent.checkpointer.copy_thread(_key(config), _key(config)),
    "prune": lambda agent, config: agent.checkpointer.prune([_key(config)]),
    "everything": lambda agent, config: next(agent.checkpointer.list(None)),
}


def _key(config: Any) -> str:
    key: str = config["configurable"]["thread_id"]
    return key


@pytest.mark.parametrize("reach", STATES)
async def test_a_checkpointer_that_gives_threads_to_their_user_alone(
    fence: Ringfence, reach: str
) -> None:
    agent = _agent(ask, middleware=(), checkpointer=OwnedThreads(InMemorySaver()))
    async with fence.user_context("alice"):
        config = owned_thread("t-1")
        await agent.ainvoke(asking("ask"), config)
        assert (await agent.aget_state(config)).next
    async with fence.user_context("mallory"):
        with pytest.raises(ContextMismatchError):
            await STATES[reach](agent, config)
        if reach in PLAIN_STATES:
            with pytest.raises(ContextMismatchError):
                PLAIN_STATES[reach](agent, config)
    with pytest.raises(NoContextError):
        await STATES[reach](agent, config)
    async with fence.user_context("alice"):
        assert (await agent.aget_state(config)).next == ("tools",)
        await agent.checkpointer.adelete_thread(_key(config))
        assert (await agent.aget_state(config)).next == ()


async def test_a_list_of_checkpoints_is_read_by_its_user_alone(fence: Ringfence) -> None:
    """Savers read as they are iterated: what was begun is not gone on with by somebody else."""
    saver = OwnedThreads(InMemorySaver())
    agent = _agent(ask, checkpointer=saver)
    async with fence.user_context("alice", thread_id="t-1"):
        await run(agent, asking("ask"))
        config = owned_thread()
        fresh, begun = saver.alist(config), saver.alist(config)
        plain_fresh, plain_begun = saver.list(config), saver.list(config)
        assert next(plain_begun).config == (await anext(begun)).config
        assert len([each async for each in saver.alist(config)]) == len(list(saver.list(config)))
    async with fence.user_context("mallory", thread_id="t-1"):
        for late in (fresh, begun):
            with pytest.raises(ContextMismatchError):
                await anext(late)
        for plain in (plain_fresh, plain_begun):
            with pytest.raises(ContextMismatchError):
                next(plain)


async def test_a_plain_run_writes_from_threads_in_which_nobody_is(fence: Ringfence) -> None:
    saver = OwnedThreads(InMemorySaver())
    agent = _agent(ask, checkpointer=saver)
    async with fence.user_context("alice", thread_id="t-1"):
        await asyncio.to_thread(run_sync, agent, asking("ask"))
        config: Any = getattr(saver.get_tuple(owned_thread()), "config", None)
        answered = await asyncio.to_thread(run_sync, agent, Command(resume="yes"))
        assert _said(answered) == ["alice got yes"]
        clone = saver.with_allowlist([("tests", "Note")])  # LangGraph makes one for each run
        Context().run(clone.put_writes, config, [], "task")
    with pytest.raises(NoContextError):  # nobody has it open any more
        saver.put_writes(config, [], "task")


def test_what_is_no_checkpointer() -> None:
    with pytest.raises(ConfigurationError, match="`dict` is no checkpointer"):
        OwnedThreads({})  # type: ignore[arg-type]


IDS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._:@|+=/-]{19,30}", fullmatch=True)
PERSONS = st.tuples(st.none() | IDS, IDS, IDS)


def _key_of(tenant: str | None, user: str, thread: str) -> str:
    return thread_key(UserExecutionContext(user, thread, "r-1", tenant_id=tenant), thread)


@given(PERSONS, PERSONS)
def test_two_threads_never_have_one_key(
    one: tuple[Any, str, str], other: tuple[Any, str, str]
) -> None:
    assert (_key_of(*one) == _key_of(*other)) is (one == other)


def test_separators_in_ids_make_no_key_of_another() -> None:
    persons = [
        (None, "a", "b:c"), (None, "a:b", "c"), ("a:b", "c", "d"), ("a", "b:c", "d"),
        ("a", "b", "c:d"), ("a", "b", "c"), ("z", "b", "c"), (None, "b", "c"),
    ]  # fmt: skip
    assert len({_key_of(*person) for person in persons}) == len(persons)


async def test_what_an_owned_thread_keeps_of_a_config(fence: Ringfence) -> None:
    async with fence.user_context("alice", thread_id="t-1", tenant_id="acme"):
        before: Any = {"tags": ["a"], "configurable": {"checkpoint_id": "c-1"}}
        config = owned_thread(config=before)
        assert config["configurable"] == {
            "checkpoint_id": "c-1",
            "thread_id": "ringfence1:acme:alice:t-1",
        }
        assert (config["tags"], before["configurable"]) == (["a"], {"checkpoint_id": "c-1"})
        assert owned_thread("t-1", config=config) == config
        assert owned_thread(config={"configurable": {"thread_id": None}}) == owned_thread()
        plain: Any = {"configurable": {}}
        assert owned_thread(config=plain) != plain == {"configurable": {}}
        with pytest.raises(ContextMismatchError, match="names another thread"):
            owned_thread("t-2", config=config)
        for wrong in ("", "t 1", 17):
            with pytest.raises(InvalidContextError):
                owned_thread(wrong)  # type: ignore[arg-type]


async def test_a_run_knows_the_thread_that_it_is_in(fence: Ringfence) -> None:
    @tool
    async def where() -> str:
        """Tell where this is."""
        await run(_agent(here, name="inner"), asking("here"))
        return current_context().thread_id

    seen: list[str] = []

    @tool
    def here() -> str:
        """Tell where this is."""
        seen.append(current_context().thread_id)
        return ""

    agent = _agent(where, checkpointer=OwnedThreads(InMemorySaver()))
    async with fence.user_context("alice", thread_id="t-1"):
        result = await run(agent, asking("where"), config=owned_thread("t:2"))
        assert (_said(result), seen) == (["t:2"], ["t:2"])
        await agent.ainvoke(asking("where"), owned_thread("t:3"))  # not by `run`
        assert seen == ["t:2", "t:3"]


# --- ends -----------------------------------------------------------------------------------------


@tool
async def write() -> str:
    """Write, then fail."""
    session = current_context().db_session
    await session.execute(text("INSERT INTO note (body) VALUES ('half')"))
    raise ValueError("no")


@tool
async def linger() -> str:
    """Take for ever."""
    await anyio.sleep_forever()
    return ""


@tool
def leave() -> str:
    """Exit."""
    raise SystemExit(3)


def _answering_errors(tool: Any) -> Any:
    """An agent that answers the model with what its tools raise."""
    retry = ToolRetryMiddleware(max_retries=0, on_failure="continue")
    return _agent(tool, middleware=(retry, RingfenceMiddleware()))


def _node_answering_errors(tool: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", lambda state: {"messages": [Scripted().invoke(state["messages"])]})
    builder.add_node(
        "tools",
        ToolNode(
            [tool],
            handle_tool_errors=True,
            awrap_tool_call=tool_scope,
            wrap_tool_call=tool_scope_sync,
        ),
    )
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "tools")
    return builder.compile(name="triage")


async def _cancelled(agent: Any) -> None:
    task = asyncio.create_task(run(agent, asking("linger", "linger")))
    await anyio.sleep(0.05)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _left(agent: Any) -> None:
    async with stream(agent, asking("read"), stream_mode="updates") as items:
        await anext(items)


ENDINGS: dict[str, tuple[Callable[[], Any], str, list[str]]] = {
    # how: what is done, the end of the run, the ends of its tools
    "well": (lambda: run(_agent(read), asking("read")), "completed", ["completed"]),
    "tool error": (lambda: run(_agent(write), asking("write")), "failed", ["failed"]),
    "tool error, answered outside": (
        lambda: run(_answering_errors(write), asking("write")),
        "completed",
        ["failed"],
    ),
    "tool error, answered inside": (
        lambda: run(_node_answering_errors(write), asking("write")),
        "completed",
        ["failed"],
    ),
    "one of two fails": (
        lambda: run(_agent(write, linger), asking("write", "linger")),
        "failed",
        ["cancelled", "failed"],
    ),
    "time-out": (
        lambda: run(_agent(linger), asking("linger"), timeout=0.05),
        "timed_out",
        ["timed_out"],
    ),
    "cancelled": (lambda: _cancelled(_agent(linger)), "cancelled", ["cancelled"] * 2),
    "recursion limit": (
        lambda: run(_agent(read), asking("read"), config={"recursion_limit": 2}),
        "failed",
        ["completed"],
    ),
    "stream left early": (lambda: _left(_agent(read)), "cancelled", []),
    "no such tool": (lambda: run(_agent(read), asking("unheard")), "completed", ["failed"]),
    "plain": (
        lambda: asyncio.to_thread(run_sync, _node_answering_errors(read), asking("read")),
        "completed",
        ["completed"],
    ),
}


@pytest.mark.parametrize("how", ENDINGS)
async def test_every_beginning_has_one_end(fence: Ringfence, how: str) -> None:
    drive, run_end, tool_ends = ENDINGS[how]
    async with fence.user_context("alice"), subscribe() as events:
        with suppress(ValueError, TimeoutError, GraphRecursionError):
            await drive()
        assert current_scope().children == ()
        count = await current_context().db_session.scalar(text("SELECT count(*) FROM note"))
        assert count == 2, "what a failed tool wrote is there"
        told = []
        with anyio.move_on_after(0.2):
            async for event in events:
                told.append(event.document)
    assert tree_faults(told) == []
    ends = [(each["kind"], each["data"]["outcome"]) for each in told if "outcome" in each["data"]]
    assert sorted(end for kind, end in ends if kind == "tool_completed") == tool_ends
    assert [end for kind, end in ends if kind != "tool_completed"] == [run_end]


async def test_an_exit_in_a_plain_tool_ends_its_block_and_no_event_loop(fence: Ringfence) -> None:
    graph = _node_answering_errors(leave)

    @tool
    def survive() -> str:
        """Outlive an exit."""
        with pytest.raises(SystemExit):
            run_sync(graph, asking("leave"))
        return "here"

    async with fence.user_context("alice"), subscribe() as events:
        assert _said(await run(_agent(survive), asking("survive"))) == ["here"]
        told = [(await anext(events)).document for _ in range(10)]
    assert tree_faults(told) == []
    assert sorted(each["data"].get("outcome", "") for each in told) == [
        *[""] * 6, "cancelled", "cancelled", "completed", "completed",
    ]  # fmt: skip


async def test_a_stream_that_outlives_its_scope_is_refused(fence: Ringfence) -> None:
    agent = _agent(read)
    async with fence.user_context("alice"):
        unstarted = stream(agent, asking("read"), stream_mode="updates")
        begun = stream(agent, asking("read"), stream_mode="updates")
        await anext(begun)
        own = agent.astream(asking("read"), context=current_context())
    for items in (unstarted, begun, own):
        with pytest.raises((ContextClosedError, NoContextError)):
            async for _ in items:
                pass
        await items.aclose()


async def test_a_stream_in_the_hands_of_another_user_stays_its_own(fence: Ringfence) -> None:
    async with fence.user_context("alice"):
        items = stream(_agent(read), asking("read"), stream_mode="updates")
        async with fence.user_context("bob"):
            said = [item async for item in items]
    assert _said(said[1]["tools"]) == ["alice"]


# --- plain code -----------------------------------------------------------------------------------


async def test_a_plain_run_as_another_user_in_a_thread_of_its_own(fence: Ringfence) -> None:
    result = await asyncio.to_thread(
        run_as, "bob", run_sync, _agent(read), asking("read"), fence=fence
    )
    assert _said(result) == ["bob"]


@pytest.mark.parametrize("where", ["here", "in a thread"])
async def test_who_blocks_the_event_loop_is_told_so(
    fence: Ringfence, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(_held_blocks, "LOOP_TIMEOUT", 0.1)

    @tool
    async def block() -> str:
        """Block the event loop."""
        inner = _agent(read)
        if where == "here":
            return str(run_sync(inner, asking("read")))
        thread = asyncio.to_thread(run_sync, inner, asking("read"))
        return str(_waited_for(thread))

    async with fence.user_context("alice"):
        with pytest.raises(ConfigurationError, match="is blocked"):
            await run(_agent(block), asking("block"))


def _waited_for(awaitable: Any) -> Any:
    """The result of a thread, waited for as no async code should."""
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    context = copy_context()
    awaitable.close()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(context.run, run_sync, _agent(read), asking("read")).result()


async def test_a_thread_that_outlives_its_request_is_refused_and_told_once(
    fence: Ringfence,
) -> None:
    begun, released = threading.Event(), threading.Event()
    seen: list[Exception] = []

    @tool
    def late() -> str:
        """Come back when the request is over."""
        begun.set()
        released.wait(10)
        with pytest.raises(ContextClosedError) as refused:
            current_context()
        seen.append(refused.value)
        return ""

    async with fence.user_context("alice"), subscribe() as events:
        async with fence.user_context("alice"):
            task = asyncio.create_task(
                asyncio.to_thread(run_sync, _node_answering_errors(late), asking("late"))
            )
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        told = [(await anext(events)).document for _ in range(4)]
        released.set()
        with anyio.fail_after(10):
            while not seen:  # noqa: ASYNC110 (a thread that nobody waits for)
                await anyio.sleep(0.01)
        with suppress(TimeoutError):
            with anyio.fail_after(0.1):
                told.append((await anext(events)).document)
    assert tree_faults(told) == []
    assert {each["data"]["outcome"] for each in told[2:]} == {"closed"}


def test_what_is_no_node() -> None:
    def items(state: State) -> Any:
        yield {}

    async def async_items(state: State) -> Any:
        yield {}

    for generator in (items, async_items):
        with pytest.raises(WrongTypeError, match="not a generator"):
            node(generator)


async def test_a_node_may_be_an_object(fence: Ringfence) -> None:
    class Plan:
        async def __call__(self, state: State) -> dict[str, Any]:
            seen.append(current_context().operation_depth)
            return {}

    seen: list[int] = []
    builder = StateGraph(State)
    builder.add_node("plan", node(Plan()))
    builder.add_edge(START, "plan")
    async with fence.user_context("alice"):
        await run(builder.compile(), asking())
    assert seen == [2]


# --- what models invent ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", "x" * 100_000, "a\nb", "\x00"])
async def test_names_that_models_invent_end_nothing(fence: Ringfence, name: str) -> None:
    async with fence.user_context("alice"), subscribe() as events:
        result = await run(_agent(read), asking(name, "read"))
        assert _said(result)[-1] == "alice"
        kinds = [await anext(events) for _ in range(8)]
    names = {event.data["name"] for event in kinds if event.kind == "tool_executing"}
    assert names == {"unknown", "read"}


# --- who has no LangChain -------------------------------------------------------------------------


def test_without_langchain_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['langchain.agents.middleware'] = None\n"
        "import ringfence.integrations.langchain"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install "ringfence[langchain]"' in done.stderr
