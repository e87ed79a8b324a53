"""MCP: one server and one connection for all users, by real HTTP; and what is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from mcp import Client
from mcp.client.caching import CacheConfig
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.caching import CacheHint
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import CompleteRequest, CompleteRequestParams, CompleteResult, Completion
from sqlalchemy import text

from ringfence import (
    ConfigurationError,
    ContextMismatchError,
    ForbiddenError,
    Identity,
    NoContextError,
    Ringfence,
    WrongTypeError,
    current_context,
    current_scope,
    current_scope_or_none,
)
from ringfence.agents import agent_run
from ringfence.events import subscribe
from ringfence.integrations.asgi import UserContextMiddleware
from ringfence.integrations.mcp import (
    RingfenceMiddleware,
    from_access_token,
    from_boundary,
    from_credential,
    outbound_auth,
    outbound_meta,
)
from ringfence.state import open_roots

from .crowd import Crowd, crowd_fence, tree_faults
from .mcp_servers import AUDIENCE, SECRET, Tokens, client_of, meta, served, sign, text_of, verify

WAYS = [(stateless, mode) for stateless in (False, True) for mode in ("legacy", "auto")]
WAY_IDS = [f"{'stateless' if stateless else 'stateful'}, {mode}" for stateless, mode in WAYS]
Call = Callable[[], Any]


@pytest.fixture
def anyio_backend() -> object:
    return ("asyncio", {})


@pytest.fixture
async def fence(anyio_backend: Any, tmp_path: Path) -> AsyncIterator[Ringfence]:
    async with crowd_fence(tmp_path) as fence:
        yield fence


BY_CREDENTIAL = from_credential(verify)


def _server(fence: Ringfence, identify: Any = BY_CREDENTIAL, **options: Any) -> MCPServer:
    required = options.pop("required", True)
    middleware = RingfenceMiddleware(fence=fence, identify=identify, required=required)
    return MCPServer("notes", middleware=[middleware], log_level="CRITICAL", **options)


def _told(context: Context[Any, Any]) -> str:
    """What the message itself says: whom its own credential is of."""
    said: Any = context.request_context.meta
    return verify(said["ringfence/credential"]).user_id


def _with_tools(server: MCPServer, crowd: Crowd) -> MCPServer:
    @server.tool()
    async def search(ctx: Context) -> str:
        return await crowd.look_up("search", _told(ctx))

    @server.tool()
    def read(ctx: Context) -> str:
        return crowd.note("read", _told(ctx))

    @server.tool()
    async def delegate(ctx: Context) -> str:
        async with agent_run("inner"):
            crowd.note("inner", _told(ctx))
        return crowd.note("delegate", _told(ctx))

    return server


# --- one server, one connection, fifty users ------------------------------------------------------

CALLED = ["search", "search", "read", "delegate", "inner"]
TOLD = ["tool_executing", "tool_completed"] * 4 + ["agent_started", "agent_completed"]


async def _all(client: Client) -> None:
    async with asyncio.TaskGroup() as tasks:
        for name in ("search", "search", "read", "delegate"):
            tasks.create_task(client.call_tool(name, {}, meta=meta()))


@pytest.mark.parametrize(("stateless", "mode"), WAYS, ids=WAY_IDS)
async def test_fifty_users_at_one_server_by_one_connection(
    fence: Ringfence, stateless: bool, mode: str
) -> None:
    crowd = Crowd.of(50)
    app = _with_tools(_server(fence), crowd).streamable_http_app(stateless_http=stateless)
    async with served(app) as url, client_of(url, mode=mode) as client:
        await crowd.run(fence, lambda: _all(client))
    # The thread of a conversation is no part of a message: the server's scopes have their own.
    faults = [fault for fault in crowd.faults(CALLED, TOLD) if ": heard of " not in fault]
    assert faults == []
    assert all(tree_faults(told) == [] for told in crowd.told.values())


async def test_without_the_middleware_the_crowd_finds_faults(fence: Ringfence) -> None:
    crowd = Crowd.of(2)
    server = _with_tools(MCPServer("notes", log_level="CRITICAL"), crowd)
    async with Client(server) as client:
        await crowd.run(fence, lambda: client.call_tool("read", {}, meta=meta()))
    assert "user-00: was not told of read" in crowd.faults(["read"])


async def test_an_identity_that_is_the_openers_is_found(fence: Ringfence) -> None:
    crowd = Crowd.of(2)
    server = _with_tools(_server(fence, lambda _: Identity("user-00")), crowd)
    async with served(server.streamable_http_app()) as url, client_of(url) as client:
        await crowd.run(fence, lambda: client.call_tool("read", {}, meta=meta()))
    assert "read: told user-01, ran as user-00" in crowd.faults(["read"])


# --- whose a message is ---------------------------------------------------------------------------


def _who(server: MCPServer) -> MCPServer:
    @server.tool()
    async def who() -> str:
        return _here()

    @server.tool()
    def who_plainly() -> str:
        return _here()

    @server.resource("notes://mine")
    async def mine() -> str:
        return _here()

    @server.resource("notes://{name}/of")
    async def of(name: str) -> str:
        return _here()

    @server.prompt()
    async def greet() -> str:
        return _here()

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Any:
        return Completion(values=[_here()])

    return server


def _here() -> str:
    scope = current_scope()
    return current_context().user_id if scope.has_user else "nobody"


async def _resource(client: Client, uri: str, **options: Any) -> str:
    result: Any = await client.read_resource(uri, **options)
    return str(result.contents[0].text)


async def _prompt(client: Client, **options: Any) -> str:
    result: Any = await client.get_prompt("greet", **options)
    return str(result.messages[0].content.text)


async def _completion(client: Client, **options: Any) -> str:
    """By hand: the client's `complete` takes no `meta`."""
    params = {
        "ref": {"type": "ref/resource", "uri": "notes://{name}/of"},
        "argument": {"name": "name", "value": "a"},
    } | ({"_meta": options["meta"]} if options else {})
    request = CompleteRequest(params=CompleteRequestParams.model_validate(params))
    result = await client.session.send_request(request, CompleteResult)
    return result.completion.values[0]


async def _tool(client: Client, name: str, **options: Any) -> str:
    result = await client.call_tool(name, {}, **options)
    assert not result.is_error, text_of(result)
    return text_of(result)


REQUESTS: dict[str, Callable[..., Any]] = {
    "tool": lambda client, **options: _tool(client, "who", **options),
    "plain tool": lambda client, **options: _tool(client, "who_plainly", **options),
    "resource": lambda client, **options: _resource(client, "notes://mine", **options),
    "template": lambda client, **options: _resource(client, "notes://x/of", **options),
    "prompt": _prompt,
    "completion": _completion,
}


@pytest.mark.parametrize(("stateless", "mode"), WAYS, ids=WAY_IDS)
async def test_a_session_that_another_opened_runs_as_who_calls(
    fence: Ringfence, stateless: bool, mode: str
) -> None:
    app = _who(_server(fence)).streamable_http_app(stateless_http=stateless)
    async with served(app) as url:
        async with fence.user_context("opener"), client_of(url, mode=mode) as client:
            assert await _tool(client, "who", meta=meta()) == "opener"
            for user in ("alice", "bob"):
                async with fence.user_context(user):
                    for request in REQUESTS.values():
                        assert await request(client, meta=meta()) == user
            for request in REQUESTS.values():
                with pytest.raises(MCPError, match="Unauthorized"):
                    await request(client)
            assert await _tool(client, "who", meta=meta()) == "opener"
        assert [root for root in open_roots() if root.has_user] == []


async def test_what_a_connection_needs_is_for_anybody(fence: Ringfence) -> None:
    for mode in ("legacy", "auto"):
        app = _who(_server(fence)).streamable_http_app()
        async with served(app) as url, client_of(url, mode=mode) as client:
            assert len((await client.list_tools()).tools) == 2
            assert (await client.list_resources()).resources
            assert (await client.list_resource_templates()).resource_templates
            assert (await client.list_prompts()).prompts


async def test_nobody_where_that_will_do(fence: Ringfence) -> None:
    server = _who(_server(fence, required=False))
    async with served(server.streamable_http_app()) as url, client_of(url) as client:
        async with fence.user_context("alice"):
            for request in REQUESTS.values():
                assert await request(client) == "nobody"
                assert await request(client, meta=meta()) == "alice"


def _headers(user: str) -> dict[str, str]:
    return {"authorization": f"Bearer {_token(sub=user)}"}


def _token(key: Any = SECRET, **claims: Any) -> str:
    said = {"sub": "alice", "aud": AUDIENCE, "exp": int(time.time() + 60)} | claims
    return jwt.encode({"alg": "HS256"}, said, OctKey.import_key(key))


FORGED: dict[str, Any] = {
    "a user id": "alice",
    "a number": 7,
    "a mapping": {"user_id": "alice"},
    "nothing": "",
    "null": None,
    "very long": "x" * 9000,
    "no signature": _token().rpartition(".")[0] + ".",
    "another key": _token("another secret of thirty-two bytes..."),
    "expired": _token(exp=1),
    "another audience": _token(aud="mail"),
    "no user": _token(sub=""),
    "a user that cannot be": _token(sub="a b\n"),
    "not text": _token(sub=["alice"]),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_forged_credential_is_refused_and_nothing_lost(
    fence: Ringfence, forged: Any
) -> None:
    app = _who(_server(fence)).streamable_http_app()
    async with served(app) as url, client_of(url) as client:
        async with fence.user_context("mallory"):
            for request in REQUESTS.values():
                with pytest.raises(MCPError, match="Unauthorized") as refused:
                    await request(client, meta={"ringfence/credential": forged})
                assert refused.value.data["status"] == 401
                assert refused.value.data["type"].startswith("urn:ringfence:error:RF")
        async with fence.user_context("bob"):
            assert await _tool(client, "who", meta=meta()) == "bob"


async def test_a_forged_credential_is_refused_on_lists_too(fence: Ringfence) -> None:
    async with Client(_who(_server(fence))) as client:
        with pytest.raises(MCPError, match="Unauthorized"):
            await client.list_tools(meta={"ringfence/credential": "alice"})  # type: ignore[misc]


async def test_meta_says_nothing_where_the_token_decides(fence: Ringfence) -> None:
    server = _who(_server(fence, from_access_token, **_authorised()))
    async with served(server.streamable_http_app(stateless_http=True)) as url, _start_up(fence):
        async with client_of(url, auth=outbound_auth(_token_of)) as client:
            async with fence.user_context("mallory"):
                said = {"ringfence/credential": _token(sub="alice"), "user_id": "alice"}
                assert await _tool(client, "who", meta=said) == "mallory"


def _authorised() -> dict[str, Any]:
    auth = AuthSettings(
        issuer_url="https://issuer.example",  # type: ignore[arg-type]
        resource_server_url=None,
    )
    return {"token_verifier": Tokens(), "auth": auth}


def _token_of(context: Any) -> str:
    return sign(context)


@asynccontextmanager
async def _start_up(fence: Ringfence) -> AsyncIterator[None]:
    """Whoever opens a connection to a server that asks for tokens."""
    async with fence.user_context("start-up"):
        yield


async def test_the_token_of_each_http_request(fence: Ringfence) -> None:
    server = _who(_server(fence, from_access_token, **_authorised()))
    for mode in ("legacy", "auto"):
        async with served(server.streamable_http_app(stateless_http=True)) as url:
            async with _start_up(fence):
                auth = outbound_auth(_token_of)
                async with client_of(url, auth=auth, mode=mode, cache=None) as client:

                    async def ask(user: str, client: Client = client) -> list[str]:
                        async with fence.user_context(user):
                            return [await ask(client) for ask in REQUESTS.values()]

                    users = [f"user-{number}" for number in range(10)]
                    answers = await asyncio.gather(*map(ask, users))
                    assert answers == [[user] * len(REQUESTS) for user in users]
        server = _who(_server(fence, from_access_token, **_authorised()))


async def test_a_session_of_another_token_is_not_found(fence: Ringfence) -> None:
    server = _who(_server(fence, from_access_token, **_authorised()))
    async with served(server.streamable_http_app()) as url:
        async with _start_up(fence):
            auth = outbound_auth(_token_of)
            async with client_of(url, auth=auth, mode="legacy") as client:
                assert await _tool(client, "who") == "start-up"
                async with fence.user_context("alice"):
                    with pytest.raises(MCPError):
                        await _tool(client, "who")
                assert await _tool(client, "who") == "start-up"


def test_a_token_without_a_subject_is_an_applications() -> None:
    def request_of(**said: Any) -> Any:
        token = AccessToken(token="t", client_id="app", scopes=["read"], **said)
        return SimpleNamespace(request=SimpleNamespace(scope={"user": AuthenticatedUser(token)}))

    assert from_access_token(request_of()) is None
    assert from_access_token(SimpleNamespace(request=None)) is None  # type: ignore[arg-type]
    identity = from_access_token(request_of(subject="alice", expires_at=100))
    assert identity is not None
    assert (identity.user_id, identity.is_expired()) == ("alice", True)
    assert identity.claims == {"client_id": "app", "scopes": ("read",)}


# --- beside a scope that is open already ----------------------------------------------------------


async def _by_header(connection: Any) -> Identity:
    return Identity(connection.headers["x-user"])


@asynccontextmanager
async def _behind_a_boundary(fence: Ringfence, identify: Any) -> AsyncIterator[Any]:
    """A function that asks the server, by HTTP and in one session, who a user is."""
    app = _who(_server(fence, identify)).streamable_http_app()
    behind = UserContextMiddleware(app, fence=fence, identify=_by_header)
    async with served(behind) as url, httpx2.AsyncClient(headers={"x-user": "opener"}) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, mode="legacy") as client:

            async def ask(user: str, **options: Any) -> str:
                http.headers["x-user"] = user
                return await _tool(client, "who", **options)

            yield ask


async def test_behind_the_boundary_it_is_whom_that_identified(fence: Ringfence) -> None:
    async with _behind_a_boundary(fence, from_boundary) as ask:
        for user in ("opener", "alice", "bob", "opener"):
            assert await ask(user) == user


async def test_a_message_of_another_user_than_its_request_is_refused(fence: Ringfence) -> None:
    async with _behind_a_boundary(fence, from_credential(verify)) as ask:
        async with fence.user_context("alice"):
            assert await ask("alice", meta=meta()) == "alice"
            with pytest.raises(MCPError, match="Internal Server Error") as refused:
                await ask("mallory", meta=meta())
            assert refused.value.data["type"] == "urn:ringfence:error:RF205"
            with pytest.raises(MCPError, match="Unauthorized"):
                await ask("alice")


async def test_the_scope_of_the_request_is_the_parent(fence: Ringfence) -> None:
    depths: list[tuple[int, bool]] = []
    server = _server(fence, lambda _: Identity("alice"))

    @server.tool()
    async def deep() -> str:
        parent = current_scope().parent
        depths.append((current_context().operation_depth, parent is here))
        return ""

    async with fence.user_context("alice"):
        here = current_scope()
        async with Client(server) as client:
            await _tool(client, "deep")
    async with Client(server) as client:
        await _tool(client, "deep")
    assert depths == [(1, True), (1, False)]


async def test_in_one_process_the_clients_user_is_not_the_servers(fence: Ringfence) -> None:
    async with Client(_who(_server(fence))) as client:
        async with fence.user_context("alice"):
            credential = meta()
            assert await _tool(client, "who", meta=credential) == "alice"
        async with fence.user_context("mallory"):
            with pytest.raises(MCPError) as refused:
                await _tool(client, "who", meta=credential)
            assert refused.value.data["type"] == "urn:ringfence:error:RF205"
            with pytest.raises(MCPError, match="Unauthorized"):
                await _tool(client, "who")


async def test_a_server_of_another_application_has_a_root_of_its_own(
    fence: Ringfence, tmp_path: Path
) -> None:
    other = Ringfence()
    server, roots = _server(other), []

    @server.tool()
    async def root() -> str:
        roots.append(current_scope().root._recipes)
        return _here()

    async with fence.user_context("alice"), Client(server) as client:
        assert await _tool(client, "root", meta=meta()) == "alice"
    assert roots == [other]


async def test_identify_does_not_see_who_is_current(fence: Ringfence) -> None:
    seen: list[Any] = []

    async def identify(request: Any) -> Identity:
        scope = current_scope_or_none()
        seen.append(scope is not None and scope.has_user)
        return Identity("alice")

    async with fence.user_context("alice"), Client(_who(_server(fence, identify))) as client:
        assert await _tool(client, "who") == "alice"
    assert set(seen) == {False}


async def test_what_identify_meets_is_not_told(fence: Ringfence) -> None:
    async def identify(request: Any) -> Identity:
        if request.method == "tools/call":
            raise LookupError("secret")
        return Identity("alice")

    async def refuse(request: Any) -> Identity:
        if request.method == "tools/call":
            raise MCPError(-32000, "Not you")
        return Identity("alice")

    async with Client(_who(_server(fence, identify)), mode="legacy") as client:
        with pytest.raises(MCPError, match="Internal Server Error") as told:
            await _tool(client, "who")
    assert "secret" not in repr(told.value)
    async with Client(_who(_server(fence, refuse))) as client:
        with pytest.raises(MCPError, match="Not you"):
            await _tool(client, "who")


async def test_what_is_no_identity_is_named_in_the_log_alone(
    fence: Ringfence, caplog: pytest.LogCaptureFixture
) -> None:
    def identify(request: Any) -> Any:
        return "alice" if request.method == "tools/call" else None

    async with Client(_who(_server(fence, identify))) as client:
        with pytest.raises(MCPError, match="Internal Server Error"):
            await _tool(client, "who")
    assert "`identify` answered with a `str`. Return an `Identity`" in caplog.text


async def test_an_identity_that_has_expired(fence: Ringfence) -> None:
    ended = Identity("alice", expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))

    def identify(request: Any) -> Identity | None:
        return ended if request.method == "tools/call" else None

    async with Client(_who(_server(fence, identify))) as client:
        with pytest.raises(MCPError, match="Unauthorized"):
            await _tool(client, "who")
    async with Client(_who(_server(fence, identify, required=False))) as client:
        assert await _tool(client, "who") == "nobody"


# --- ends -----------------------------------------------------------------------------------------


def _with_endings(server: MCPServer) -> MCPServer:
    @server.tool()
    async def well() -> str:
        return ""

    @server.tool()
    async def write() -> str:
        await current_context().db_session.execute(text("INSERT INTO note (body) VALUES ('half')"))
        raise ValueError("no")

    @server.tool()
    async def refuse() -> str:
        raise MCPError(-32000, "Not now")

    @server.tool()
    async def forbid() -> str:
        raise ForbiddenError("It is not yours.")

    @server.tool()
    async def linger() -> str:
        await anyio.sleep_forever()
        return ""

    return server


async def _time_out(client: Client) -> None:
    await client.call_tool("linger", {}, meta=meta(), read_timeout_seconds=0.2)


async def _cancel(client: Client) -> None:
    with anyio.move_on_after(0.2):
        await client.call_tool("linger", {}, meta=meta())


ENDINGS: dict[str, tuple[Callable[[Client], Any], list[str]]] = {
    "well": (lambda client: client.call_tool("well", {}, meta=meta()), ["completed"]),
    "error": (lambda client: client.call_tool("write", {}, meta=meta()), ["failed"]),
    "protocol error": (lambda client: client.call_tool("refuse", {}, meta=meta()), ["failed"]),
    "forbidden": (lambda client: client.call_tool("forbid", {}, meta=meta()), ["failed"]),
    "time-out": (_time_out, ["cancelled"]),
    "cancelled": (_cancel, ["cancelled"]),
    "no such tool": (lambda client: client.call_tool("x" * 999, {}, meta=meta()), ["failed"]),
}


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_every_beginning_has_one_end(fence: Ringfence, how: str, mode: str) -> None:
    drive, ends = ENDINGS[how]
    app = _with_endings(_server(fence)).streamable_http_app()
    async with served(app) as url, client_of(url, mode=mode) as client:
        async with fence.user_context("alice"), subscribe() as events:
            with suppress(MCPError, TimeoutError):
                await drive(client)
            told = []
            with anyio.move_on_after(2):
                async for event in events:
                    told.append(event.document)
                    if event.kind == "tool_completed":
                        break
            assert tree_faults(told) == []
            assert [each["data"]["outcome"] for each in told[1:]] == ends
            count = await current_context().db_session.scalar(text("SELECT count(*) FROM note"))
            assert count == 2, "what a failed tool wrote is there"
            with anyio.fail_after(5):
                while open_roots() != [current_scope()]:  # noqa: ASYNC110
                    await anyio.sleep(0.01)


async def test_a_failure_on_leaving_tells_the_client_nothing(fence: Ringfence) -> None:
    server = _server(fence, lambda _: Identity("alice"))

    @server.tool()
    async def spoil() -> str:
        current_scope().callback(_fail)
        return ""

    @server.resource("notes://spoilt")
    async def spoilt() -> str:
        current_scope().callback(_fail)
        return ""

    async with Client(server, mode="legacy") as client:
        for ask in (lambda: _tool(client, "spoil"), lambda: _resource(client, "notes://spoilt")):
            with pytest.raises(MCPError, match="Internal Server Error") as told:
                await ask()
            assert "secret" not in repr(told.value)
            assert told.value.data["type"] == "urn:ringfence:error:RF302"


def _fail() -> None:
    raise LookupError("secret")


# --- the client -----------------------------------------------------------------------------------


async def test_what_nobody_can_sign_is_not_sent(fence: Ringfence) -> None:
    with pytest.raises(NoContextError):
        meta()
    for wrong in (None, "", b"x", "x" * 9000):
        async with fence.user_context("alice"):
            with pytest.raises(WrongTypeError):
                outbound_meta(lambda _, wrong=wrong: wrong)()  # type: ignore[misc]
            with pytest.raises(WrongTypeError):
                outbound_auth(lambda _, wrong=wrong: wrong)(  # type: ignore[misc]
                    httpx2.Request("GET", "http://localhost")
                )


async def test_a_request_of_nobody_bears_nothing(fence: Ringfence) -> None:
    bear = outbound_auth(lambda context: context.user_id)
    assert "authorization" not in bear(httpx2.Request("GET", "http://localhost")).headers
    async with fence.user_context("alice"):
        held = current_scope()._own_context()
        borne = bear(httpx2.Request("GET", "http://localhost")).headers
    assert borne["authorization"] == "Bearer alice"
    after = held.run(bear, httpx2.Request("GET", "http://localhost"))
    assert "authorization" not in after.headers


async def test_the_openai_agents_sdk_asks_for_meta(fence: Ringfence) -> None:
    from agents import RunContextWrapper
    from agents.mcp import MCPToolMetaContext

    def asked(context: Any) -> Any:
        return MCPToolMetaContext(
            run_context=RunContextWrapper(context), server_name="s", tool_name="t", arguments={}
        )

    resolve = outbound_meta(lambda context: context.user_id)
    async with fence.user_context("alice") as alice:
        assert resolve(asked(alice)) == {"ringfence/credential": "alice"}
        assert resolve(asked(None)) == {"ringfence/credential": "alice"}
    async with fence.user_context("bob"):
        with pytest.raises(ContextMismatchError):
            resolve(asked(alice))


async def test_a_cache_that_users_share(fence: Ringfence) -> None:
    """Why the page says `cache=None`: the SDK's cache knows one user for each client."""
    hints = {"resources/read": CacheHint(ttl_ms=60_000)}
    app = _who(
        _server(fence, from_access_token, cache_hints=hints, **_authorised())
    ).streamable_http_app(stateless_http=True)
    got: dict[bool, list[str]] = {}
    async with served(app) as url, _start_up(fence):
        for cache in (CacheConfig(), None):
            auth = outbound_auth(_token_of)
            async with client_of(url, auth=auth, cache=cache) as client:
                got[cache is None] = []
                for user in ("alice", "bob"):
                    async with fence.user_context(user):
                        got[cache is None].append(await _resource(client, "notes://mine"))
    assert got == {False: ["alice", "alice"], True: ["alice", "bob"]}


# --- set-up ---------------------------------------------------------------------------------------


def test_what_cannot_work() -> None:
    for wrong in ({"fence": Ringfence}, {"identify": None}):
        options: Any = {"fence": Ringfence(), "identify": from_boundary} | wrong
        with pytest.raises(ConfigurationError):
            RingfenceMiddleware(**options)


@pytest.mark.parametrize(
    ("version", "said"),
    [("1.30.0", "runs a request as whoever opened its session"), (None, "ringfence[mcp]")],
)
def test_an_older_mcp_is_refused(version: str | None, said: str) -> None:
    code = (
        "import importlib.metadata as metadata\n"
        "def version(name):\n"
        f"    if {version!r} is None: raise metadata.PackageNotFoundError(name)\n"
        f"    return {version!r}\n"
        "metadata.version = version\n"
        "import ringfence.integrations.mcp"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said in done.stderr
    assert "ImportError" in done.stderr
