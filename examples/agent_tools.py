"""
One tool for two agent frameworks, which is given its user's session, context and memory.

The frameworks see `note(text)` and no more. A model may call it several times in one answer: the
calls run at once, each in a child context, and so with a session of its own. The memory is one for
each user, across requests; the models are offline ones. Needs pydantic-ai-slim, openai-agents and
sqlalchemy with aiosqlite.

    python examples/agent_tools.py
"""

import asyncio
import tempfile

from agents import Agent as OpenAIAgent
from agents import RunConfig, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from ringfence import Identity, Ringfence, UserExecutionContext, current_context, current_scope
from ringfence.agents import tool_call
from ringfence.injection import Container, Injected, Lifetime, inject
from ringfence.integrations.sqlalchemy import Database

NOTES = sql("SELECT text FROM notes WHERE user = :user ORDER BY text")


class Memory:
    """What one user's agents remember, as long as the user comes back."""

    def __init__(self, identity: Identity) -> None:
        self.whose = identity.user_id
        self.texts: list[str] = []


async def note(text: str) -> str:
    """Write a note."""
    async with tool_call("note"):
        return await write(text)


@inject
async def write(
    text: str,
    session: Injected[AsyncSession],
    ctx: Injected[UserExecutionContext],
    memory: Injected[Memory],
) -> str:
    await session.execute(
        sql("INSERT INTO notes VALUES (:user, :text)"), {"user": ctx.user_id, "text": text}
    )
    memory.texts.append(text)
    return f"{memory.whose} has {len(memory.texts)}"


async def with_pydantic_ai(text: str) -> str:
    model = TestModel()  # calls each tool that it is offered, with a text of its own
    await Agent(model, tools=[note]).run(text)
    assert model.last_model_request_parameters is not None
    (offered,) = model.last_model_request_parameters.function_tools
    return f"pydantic-ai sees note({', '.join(offered.parameters_json_schema['properties'])})"


async def with_openai_agents(*texts: str) -> str:
    calls = [function_call("note", {"text": text}, call_id=text) for text in texts]
    model = ScriptedModel([calls, [assistant_message("noted")]])
    offered = function_tool(note)
    agent = OpenAIAgent(name="clerk", model=model, tools=[offered])
    await Runner.run(agent, "Note this.", run_config=RunConfig(tracing_disabled=True))
    return f"openai-agents sees note({', '.join(offered.params_json_schema['properties'])})"


async def serve(fence: Ringfence, user: str, *texts: str) -> str:
    async with fence.user_context(user):
        await with_pydantic_ai("Note this.")
    async with fence.user_context(user):  # another request, and the same memory
        await with_openai_agents(*texts)
        memory = await current_scope().get(Memory)
        rows = await current_context().db_session.scalars(NOTES, {"user": user})
        return f"{user}: remembers {sorted(memory.texts)}, wrote {rows.all()}"


async def main(folder: str) -> None:
    container = Container()
    container.provide(Memory, lifetime=Lifetime.USER)
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/notes.db")
    async with engine.begin() as connection:
        await connection.execute(sql("CREATE TABLE notes (user, text)"))
    database = Database(async_sessionmaker(engine))
    async with Ringfence(services=container, database=database) as fence:
        async with fence.user_context("cleo"):
            print(await with_pydantic_ai("hello"))
            print(await with_openai_agents("hello"))
        served = serve(fence, "ann", "cup", "tea"), serve(fence, "bob", "milk", "mug")
        print(*await asyncio.gather(*served), sep="\n")
    await engine.dispose()


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
