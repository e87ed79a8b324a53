"""Frameworks build their schemas without what is injected; each user's call gets its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from agents import Agent as OpenAIAgent
from agents import RunConfig, RunContextWrapper, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from fastapi import FastAPI
from fastapi.middleware import Middleware
from langchain_core.tools import StructuredTool, tool
from mcp import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context as MCPContext
from pydantic_ai import Agent, RunContext
from pydantic_ai.models.test import TestModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ringfence import (
    RequestScope,
    Ringfence,
    UserExecutionContext,
    child_context,
    current_scope,
)
from ringfence.injection import Container, Injected, Lifetime, inject
from ringfence.integrations.fastapi import UserContextMiddleware
from ringfence.integrations.sqlalchemy import Database

from ..integrations.asgi_driver import identify, ok
from ..integrations.notes import notes_engine

USERS = ("alice-1", "bob-2")
SHOWN = {"query", "limit"}
ASYNCIO = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])

Call = Callable[[], Awaitable[Any]]


class Desk:
    def __init__(self, ctx: UserExecutionContext, scope: RequestScope) -> None:
        self.ctx, self.scope = ctx, scope


class Seen:
    """What each user's call was given; nobody's call ends before all users are at work."""

    def __init__(self) -> None:
        self.given: dict[str, tuple[Desk, AsyncSession]] = {}
        self.are_here = anyio.Event()

    async def note(self, desk: Desk, session: AsyncSession) -> None:
        self.given[desk.ctx.user_id] = desk, session
        if self.given.keys() == set(USERS):
            self.are_here.set()
        with anyio.fail_after(5):
            await self.are_here.wait()


@inject
async def look_up(
    query: str,
    desk: Injected[Desk],
    session: Injected[AsyncSession],
    seen: Injected[Seen],
    limit: int = 3,
) -> str:
    """Look something up."""
    await seen.note(desk, session)
    return f"{query} for {desk.ctx.user_id}"


@inject
def look_up_at_once(query: str, desk: Injected[Desk], limit: int = 3) -> str:
    """Look something up, where there is no `await`."""
    return f"{query} for {desk.ctx.user_id}"


@pytest.fixture
async def fence(tmp_path: Path) -> AsyncIterator[Ringfence]:
    container = Container()
    container.provide(Desk)
    container.provide(Seen, lifetime=Lifetime.APP)
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(notes_engine(tmp_path))
        database = Database(async_sessionmaker(engine))
        yield await stack.enter_async_context(Ringfence(services=container, database=database))


async def each_is_answered(fence: Ringfence, call: Call, *, has_met: bool = False) -> None:
    """Two users call at once; who has met in the tool had the objects of its own scope there."""

    async def one(user: str) -> None:
        async with fence.user_context(user):
            assert f"for {user}" in str(await call())
            if has_met:
                await was_given_its_own(user)

    async with anyio.create_task_group() as tasks:
        for user in USERS:
            tasks.start_soon(one, user)


async def was_given_its_own(user: str) -> None:
    scope = current_scope()
    desk, session = (await scope.get(Seen)).given[user]
    assert desk is await scope.get(Desk)
    assert desk.scope is scope
    assert session is scope.db_session


# --- FastAPI ----------------------------------------------------------------------------------


@ASYNCIO
async def test_fastapi_routes(anyio_backend: Any, fence: Ringfence) -> None:
    app = FastAPI(middleware=[Middleware(UserContextMiddleware, fence=fence, identify=identify)])
    app.get("/")(look_up)
    app.get("/at-once")(look_up_at_once)
    answers: dict[tuple[str, str], Any] = {}

    async def ask(path: str, user: str) -> None:
        answers[path, user] = await ok(app, path, user=user, query_string=b"query=tea")

    async with anyio.create_task_group() as tasks:
        for user in USERS:
            tasks.start_soon(ask, "/", user)
            tasks.start_soon(ask, "/at-once", user)
    assert {key: answer.body for key, answer in answers.items()} == {
        (path, user): f'"tea for {user}"'.encode() for path in ("/", "/at-once") for user in USERS
    }
    for path in ("/", "/at-once"):
        operation = app.openapi()["paths"][path]["get"]
        assert {each["name"] for each in operation["parameters"]} == SHOWN
        assert "requestBody" not in operation


# --- pydantic-ai ------------------------------------------------------------------------------


@inject
async def look_up_in_a_run(
    run: RunContext[str],
    query: str,
    desk: Injected[Desk],
    session: Injected[AsyncSession],
    seen: Injected[Seen],
    limit: int = 3,
) -> str:
    """Look something up."""
    assert run.deps == desk.ctx.user_id
    return await look_up(query, limit=limit)


@ASYNCIO
@pytest.mark.parametrize("function", [look_up, look_up_in_a_run, look_up_at_once])
async def test_pydantic_ai_tools(anyio_backend: Any, fence: Ringfence, function: Any) -> None:
    model = TestModel()
    agent = Agent(model, deps_type=str)
    register = agent.tool if function is look_up_in_a_run else agent.tool_plain
    register(function)

    async def call() -> Any:
        return (await agent.run("tea?", deps=current_scope().context.user_id)).output

    await each_is_answered(fence, call, has_met=function is not look_up_at_once)
    assert model.last_model_request_parameters is not None
    (shown,) = model.last_model_request_parameters.function_tools
    assert shown.parameters_json_schema["properties"].keys() == SHOWN
    assert shown.parameters_json_schema["required"] == ["query"]


# --- openai-agents ----------------------------------------------------------------------------


@inject
async def look_up_with_a_wrapper(
    wrapper: RunContextWrapper[str],
    query: str,
    desk: Injected[Desk],
    limit: int = 3,
) -> str:
    """Look something up."""
    assert wrapper.context == desk.ctx.user_id
    return await look_up(query, limit=limit)


@ASYNCIO
@pytest.mark.parametrize("function", [look_up, look_up_with_a_wrapper, look_up_at_once])
async def test_openai_agents_tools(anyio_backend: Any, fence: Ringfence, function: Any) -> None:
    offered = function_tool(function, failure_error_function=None)
    assert offered.params_json_schema["properties"].keys() == SHOWN

    async def call() -> Any:
        asked = function_call(offered.name, {"query": "tea", "limit": 1}, call_id="c-1")
        model = ScriptedModel([[asked], [assistant_message("done")]])
        done = await Runner.run(
            OpenAIAgent(name="clerk", model=model, tools=[offered]),
            "tea?",
            context=current_scope().context.user_id,
            run_config=RunConfig(tracing_disabled=True),
        )
        assert done.final_output == "done"
        assert model.last_call is not None
        return model.last_call.input

    await each_is_answered(fence, call, has_met=function is not look_up_at_once)


class TwoAtOnce:
    """A tool each of whose calls has a session of its own, since it is a child that asks."""

    def __init__(self) -> None:
        self.sessions: list[AsyncSession] = []
        self.are_here = anyio.Event()

    def tool(self) -> Any:
        @in_a_child
        @inject
        async def count(query: str, session: Injected[AsyncSession], desk: Injected[Desk]) -> int:
            self.sessions.append(session)
            if len(self.sessions) == 2:
                self.are_here.set()
            with anyio.fail_after(5):
                await self.are_here.wait()
            found = await session.scalar(text("SELECT count(*) FROM note"))
            assert session is current_scope().db_session
            assert desk.scope is current_scope().root
            return int(found or 0)

        return count


def in_a_child(function: Any) -> Any:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        async with child_context(function.__name__):
            return await function(*args, **kwargs)

    return run


@ASYNCIO
async def test_two_calls_of_one_answer_have_a_session_each(
    anyio_backend: Any, fence: Ringfence
) -> None:
    both = TwoAtOnce()
    offered = function_tool(both.tool(), failure_error_function=None)
    assert offered.params_json_schema["properties"].keys() == {"query"}
    asked = [function_call("count", {"query": word}, call_id=word) for word in ("tea", "milk")]
    model = ScriptedModel([asked, [assistant_message("done")]])
    async with fence.user_context("alice-1"):
        agent = OpenAIAgent(name="clerk", model=model, tools=[offered])
        await Runner.run(agent, "?", run_config=RunConfig(tracing_disabled=True))
        assert model.last_call is not None
        outputs = [each["output"] for each in model.last_call.input if "output" in each]
        assert outputs == ["2", "2"]
    one, other = both.sessions
    assert one is not other


# --- langchain --------------------------------------------------------------------------------


@ASYNCIO
@pytest.mark.parametrize("make", [tool, lambda fn: StructuredTool.from_function(coroutine=fn)])
async def test_langchain_tools(anyio_backend: Any, fence: Ringfence, make: Any) -> None:
    made = make(look_up)
    assert made.args.keys() == SHOWN
    await each_is_answered(fence, lambda: made.ainvoke({"query": "tea"}), has_met=True)


@ASYNCIO
async def test_langchain_tools_that_are_not_async(anyio_backend: Any, fence: Ringfence) -> None:
    made = tool(look_up_at_once)
    assert made.args.keys() == SHOWN
    await each_is_answered(fence, lambda: made.ainvoke({"query": "tea"}))


# --- MCP --------------------------------------------------------------------------------------


@inject
async def look_up_with_a_context(
    query: str, desk: Injected[Desk], context: MCPContext, limit: int = 3
) -> str:
    """Look something up."""
    assert context.request_id
    return await look_up(query, limit=limit)


@ASYNCIO
@pytest.mark.parametrize("function", [look_up, look_up_with_a_context, look_up_at_once])
async def test_mcp_tools_over_one_client(
    anyio_backend: Any, fence: Ringfence, function: Any
) -> None:
    server = MCPServer("desk")
    server.tool()(function)
    async with Client(server, raise_exceptions=True) as client:
        (shown,) = (await client.list_tools()).tools
        assert shown.input_schema["properties"].keys() == SHOWN

        async def call() -> Any:
            return (await client.call_tool(shown.name, {"query": "tea"})).content

        await each_is_answered(fence, call, has_met=function is not look_up_at_once)
