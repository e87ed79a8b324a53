"""The boundary in process: one root per request, whatever the server leaked into it."""

from __future__ import annotations

import contextvars
import datetime as dt
import logging
import subprocess
import sys
from typing import Any

import anyio
import pytest

from ringfence import (
    CarrierError,
    ConfigurationError,
    ContextClosedError,
    ForbiddenError,
    Identity,
    InvalidContextError,
    NoContextError,
    OwnershipError,
    RequestScope,
    Ringfence,
    Settings,
    counters,
    current_context,
    current_context_or_none,
    current_scope,
    current_scope_or_none,
    nobody,
    task_group,
    user_context,
)
from ringfence.integrations import asgi
from ringfence.integrations.asgi import Connection, UserContextMiddleware

from .asgi_driver import Answer, call, fenced, identify, ok, request, respond

ORIGIN = [("origin", "https://a.example"), ("access-control-request-method", "POST")]


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    ctx = current_context_or_none()
    await respond(send, body=b"-" if ctx is None else ctx.user_id.encode())


async def never(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("the application was called")


def ask_nobody(connection: Connection) -> None:
    raise RuntimeError("identify was called")


# --- binding ----------------------------------------------------------------------------------


async def test_a_request_is_bound_to_its_user() -> None:
    seen: list[RequestScope] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_scope())
        assert scope["ringfence"] is current_scope()
        assert current_context().parent_request_id is None
        await respond(send, body=current_context().user_id.encode())

    answer = await ok(fenced(app), user="alice-1")
    assert (answer.status, answer.body) == (200, b"alice-1")
    assert answer.headers["x-request-id"] == seen[0].request_id
    assert seen[0].state == "closed"
    assert seen[0].parent is None


async def test_identify_may_be_async_or_any_callable() -> None:
    class Identify:
        async def __call__(self, connection: Connection) -> Identity | None:
            await anyio.sleep(0)
            return identify(connection)

    assert (await ok(fenced(whoami, identify=Identify()), user="alice-1")).body == b"alice-1"
    assert (await ok(fenced(never, identify=Identify()))).status == 401


async def test_all_facts_of_the_identity_arrive() -> None:
    until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ctx = current_context()
        assert (ctx.tenant_id, ctx.expires_at) == ("acme", until)
        assert current_scope().claims == {"roles": ("admin",)}
        await respond(send)

    who = Identity("alice-1", "acme", expires_at=until, claims={"roles": ["admin"]})
    assert (await ok(fenced(app, identify=lambda connection: who))).status == 200


async def test_many_users_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            await anyio.sleep(0)
        await whoami(scope, receive, send)

    app = fenced(app)
    wrong = []

    async def client(user: str) -> None:
        if (await ok(app, user=user)).body != user.encode():
            wrong.append(user)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(client, f"user-{number}")
    assert wrong == []


async def test_other_protocols_pass_untouched() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_scope_or_none() is None
        passed.append((scope, receive, send))

    passed: list[Any] = []
    parts = ({"type": "lifespan"}, object(), object())
    await fenced(app, identify=ask_nobody)(*parts)
    assert passed == [parts]
    assert parts[0] == {"type": "lifespan"}


def test_it_needs_no_framework() -> None:
    code = (
        "import sys, ringfence.integrations.asgi, ringfence.integrations.logging\n"
        "sys.exit(any(m in sys.modules for m in ('starlette', 'joserfc', 'sqlalchemy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- nobody -----------------------------------------------------------------------------------


async def test_without_an_identity_the_answer_is_401() -> None:
    answer = await ok(fenced(never))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="ringfence"'
    assert answer.problem == {
        "type": "urn:ringfence:error:RF101",
        "title": "Unauthorized",
        "status": 401,
        "instance": f"urn:uuid:{answer.headers['x-request-id']}",
    }
    assert counters.value("refused.RF101") == 1


async def test_or_the_request_belongs_to_nobody() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not current_scope().has_user
        with pytest.raises(NoContextError, match="belongs to nobody"):
            current_context()
        current_scope().callback(ran.append, True)
        await respond(send)

    ran: list[bool] = []
    answer = await ok(fenced(app, required=False))
    assert answer.status == 200
    assert answer.headers["x-request-id"] == answer.scope["ringfence"].request_id
    assert ran == [True]


EXCLUDED = ("/", "/health", "/static/", "/v1/open/")


@pytest.mark.parametrize(
    ("path", "root_path", "is_excluded"),
    [
        ("/", "", True),
        ("/health", "", True),
        ("/healthy", "", False),
        ("/health/", "", False),
        ("/static/", "", True),
        ("/static/app.js", "", True),
        ("/static", "", False),
        ("/statics/app.js", "", False),
        ("/other/static/app.js", "", False),
        ("/static/../admin", "", False),
        ("/static/..", "", False),
        ("/static/./x", "", False),
        ("/static/..\\admin", "", False),
        ("/static/..x", "", True),
        ("//static/app.js", "", False),
        ("/api/health", "/api", True),
        ("/api/static/x", "/api", True),
        ("/health", "/api", True),  # a server that leaves root_path out of the path
        ("/apihealth", "/api", False),
        ("/api", "/api", False),
    ],
)
def test_excluded_paths(path: str, root_path: str, is_excluded: bool) -> None:
    middleware = fenced(never, exclude=EXCLUDED)
    assert middleware._is_exempt(request(path, root_path=root_path)) is is_excluded


def test_a_mount_point_is_left_out_of_the_path() -> None:
    for path, root_path, expected in [
        ("/api/chat", "/api", "/chat"),
        ("/api", "/api", ""),
        ("/apichat", "/api", "/apichat"),
        ("/chat", "", "/chat"),
    ]:
        connection = Connection(request(path, root_path=root_path), {})
        assert connection.path == expected


async def test_an_excluded_path_belongs_to_nobody_without_asking() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not current_scope().has_user
        await respond(send)

    app = fenced(app, identify=ask_nobody, exclude=("/health", "/static/"))
    for path in ("/health", "/static/a"):
        assert (await ok(app, path, user="alice-1")).status == 200


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("OPTIONS", ORIGIN, True),
        ("OPTIONS", ORIGIN[:1], False),
        ("OPTIONS", ORIGIN[1:], False),
        ("POST", ORIGIN, False),
    ],
)
async def test_preflights_belong_to_nobody(
    method: str, headers: list[tuple[str, str]], passes: bool
) -> None:
    answer = await ok(fenced(whoami), method=method, headers=headers)
    assert (answer.status, answer.body) == (200, b"-") if passes else answer.status == 401


@pytest.mark.parametrize("paths", ["/health", ["health"], [b"/health"], [""]])
def test_exclusions_are_checked(paths: Any) -> None:
    with pytest.raises(ConfigurationError, match="begin with `/`"):
        fenced(never, exclude=paths)


@pytest.mark.parametrize("realm", ['a"b', "a\\b", "a\r\nb", "ä"])
def test_the_realm_is_checked(realm: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be quoted"):
        fenced(never, realm=realm)


# --- what leaks in ----------------------------------------------------------------------------


async def _context_of_an_open_scope(held: anyio.Event, done: list[contextvars.Context]) -> None:
    async with user_context("alice-1"):
        done.append(contextvars.copy_context())
        await held.wait()


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "_has_warned", False)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_open_scope_is_not_inherited(kind: str, unwarned: None) -> None:
    """The server begins bob's request in the context of alice's, which is still running."""

    def look(connection: Connection) -> Identity | None:
        found.append(current_context_or_none())  # not even identify sees alice
        return identify(connection)

    async def look_later(connection: Connection) -> Identity | None:
        await anyio.sleep(0)
        return look(connection)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_scope().parent is None
        assert current_scope() is scope["ringfence"]
        await whoami(scope, receive, send)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)
        after.append(current_scope_or_none())

    inner = fenced(app, identify=look if kind == "sync" else look_later, required=False)
    found: list[Any] = []
    after: list[Any] = []
    held, contexts = anyio.Event(), list[contextvars.Context]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_context_of_an_open_scope, held, contexts)
        await anyio.wait_all_tasks_blocked()
        bob = await ok(outer, user="bob-22", context=contexts[0].copy())
        anonymous = await ok(outer, context=contexts[0].copy())
        leaked = contexts[0].run(current_scope)
        held.set()
    assert (bob.body, anonymous.body) == (b"bob-22", b"-")
    assert found == [None] * 2
    assert after == [leaked] * 2  # what the server left here is back: it may be a caller's own
    assert counters.value("inherited_scope.open") == 2


async def test_a_closed_scope_is_not_inherited(unwarned: None) -> None:
    async with user_context("alice-1"):
        leaked = contextvars.copy_context()
    bob = await ok(fenced(whoami), user="bob-22", context=leaked.copy())
    anonymous = await ok(fenced(whoami, required=False), context=leaked.copy())
    excluded = await ok(fenced(whoami, exclude=("/",)), context=leaked.copy())
    refused = await ok(fenced(never), context=leaked.copy())
    assert [a.body for a in (bob, anonymous, excluded)] == [b"bob-22", b"-", b"-"]
    assert refused.status == 401
    assert counters.value("inherited_scope.closed") == 4
    assert counters.value("inherited_scope.open") == 0


async def test_what_leaks_in_is_said_once(unwarned: None, caplog: pytest.LogCaptureFixture) -> None:
    async with user_context("alice-1") as alice:
        leaked = contextvars.copy_context()
    for _ in range(3):
        await ok(fenced(whoami), user="bob-22", context=leaked.copy())
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [r.name for r in warnings] == ["ringfence.asgi"]
    assert alice.request_id in warnings[0].getMessage()
    assert "alice-1" not in warnings[0].getMessage()


async def test_a_nested_user_context_is_no_fault() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with user_context("bob-22"), nobody():
            pass
        await whoami(scope, receive, send)

    assert (await ok(fenced(app), user="alice-1")).body == b"alice-1"
    assert [name for name in counters.snapshot() if name.startswith("inherited")] == []


# --- mounted twice ----------------------------------------------------------------------------


async def test_mounted_twice_it_passes() -> None:
    inner = fenced(whoami, identify=ask_nobody)
    answer = await ok(fenced(inner), user="alice-1")
    assert answer.body == b"alice-1"
    assert counters.value("request.completed") == 1
    assert counters.value("inherited_scope.open") == 0


async def test_inside_a_user_context_of_the_application_it_passes_as_that() -> None:
    async def on_behalf(scope: Any, receive: Any, send: Any) -> None:
        async with user_context("bob-22"):
            await fenced(whoami, identify=ask_nobody)(scope, receive, send)

    assert (await ok(fenced(on_behalf), user="alice-1")).body == b"bob-22"


async def test_within_a_middleware_of_another_fence_it_refuses_to_guess(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its own `identify` would be passed by."""
    answer = await ok(fenced(fenced(never, fence=Ringfence())), user="alice-1")
    assert answer.status == 500
    assert answer.problem["type"] == "urn:ringfence:error:RF801"
    assert "Give both the same `fence`" in caplog.text


async def test_the_request_id_that_is_shown_is_that_of_the_users_own_root() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_context().request_id)
        await respond(send)

    seen: list[str] = []
    for spec_version in ("2.3", "2.4"):
        asgi = {"version": "3.0", "spec_version": spec_version}
        answer = await ok(
            fenced(fenced(app), required=False, exclude=("/",)), user="a-1", asgi=asgi
        )
        assert answer.headers["x-request-id"] == seen.pop()
    refused = await ok(fenced(fenced(never), exclude=("/",)))
    assert refused.problem["instance"] == f"urn:uuid:{refused.headers['x-request-id']}"


async def test_a_fence_is_made_and_identify_is_a_function() -> None:
    for options in ({"fence": Ringfence}, {"identify": None}):
        with pytest.raises(ConfigurationError, match="Write `UserContextMiddleware"):
            fenced(never, **options)


async def test_nobody_outside_is_not_enough_where_a_user_is_required() -> None:
    outer_open = {"exclude": ("/", "/v1/")}
    assert (await ok(fenced(fenced(never), **outer_open))).status == 401
    assert (await ok(fenced(fenced(whoami), **outer_open), user="bob-22")).body == b"bob-22"
    assert (await ok(fenced(fenced(whoami, required=False), **outer_open))).body == b"-"
    assert (await ok(fenced(fenced(whoami, **outer_open), **outer_open))).body == b"-"
    assert counters.value("inherited_scope.open") == 0


async def test_a_carried_scope_that_has_ended_does_not_pass() -> None:
    """A middleware that calls the application again, with the same dict."""

    async def retry(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, lambda message: anyio.sleep(0))
        await app(scope, receive, send)

    app = fenced(whoami)
    assert (await ok(retry, user="bob-22")).body == b"bob-22"


async def test_a_carried_scope_does_not_let_a_foreign_one_pass(unwarned: None) -> None:
    """The dict is bob's, but a worker with alice's context serves it."""

    async def hand_over(scope: Any, receive: Any, send: Any) -> None:
        answers.append(await ok(inner, user="bob-22", context=leaked, ringfence=scope["ringfence"]))
        await respond(send)

    answers: list[Answer] = []
    inner = fenced(whoami)
    held, contexts = anyio.Event(), list[contextvars.Context]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_context_of_an_open_scope, held, contexts)
        await anyio.wait_all_tasks_blocked()
        leaked = contexts[0].copy()
        await ok(fenced(hand_over), user="bob-22")
        held.set()
    assert answers[0].body == b"bob-22"
    assert counters.value("inherited_scope.open") == 1


# --- refused credentials ----------------------------------------------------------------------

EXPIRED = Identity("alice-1", expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))


def _raise(error: Exception) -> Any:
    def identify(connection: Connection) -> Identity | None:
        raise error

    return identify


REFUSALS = {
    "expired": (lambda connection: EXPIRED, "RF101"),
    "carrier": (_raise(CarrierError("The token is refused.")), "RF401"),
    "invalid": (_raise(InvalidContextError("`user_id` is empty.")), "RF701"),
    "placeholder": (lambda connection: Identity("anonymous"), "RF701"),
    "no text": (lambda connection: Identity(17), "RF702"),  # type: ignore[arg-type]
    "long": (lambda connection: Identity("alice-" * 40), "RF703"),
    "tenant": (lambda connection: Identity("alice-1", "a b"), "RF701"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_refused_credentials(case: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    who, code = REFUSALS[case]
    answer = await ok(fenced(never, identify=who))
    assert answer.status == 401
    expected = 'Bearer realm="ringfence", error="invalid_token"'
    assert answer.headers["www-authenticate"] == expected
    assert answer.problem["type"] == f"urn:ringfence:error:{code}"
    assert set(answer.problem) == {"type", "title", "status", "instance"}
    assert answer.headers["x-request-id"] in caplog.text
    assert "alice" not in caplog.text + answer.body.decode()


@pytest.mark.parametrize("case", REFUSALS)
async def test_refused_credentials_are_nobody_s_where_none_are_required(case: str) -> None:
    assert (await ok(fenced(whoami, identify=REFUSALS[case][0], required=False))).body == b"-"


async def test_other_errors_of_identify_pass_untouched() -> None:
    error = OSError("the database is away")
    answer = await call(fenced(never, identify=_raise(error), required=False))
    assert answer.error is error
    assert answer.messages == []


async def test_errors_of_ringfence_out_of_identify_are_faults_that_the_log_explains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = NoContextError("a bug")
    answer = await ok(fenced(never, identify=_raise(error), required=False))
    assert answer.status == 500
    assert answer.problem["type"] == "urn:ringfence:error:RF101"
    assert [r.exc_info[1] for r in caplog.records if r.exc_info] == [error]


@pytest.mark.parametrize("required", [True, False])
async def test_ids_that_no_context_may_hold_are_explained_in_the_log(
    required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = fenced(never if required else whoami, identify=lambda _: Identity(17), required=required)  # type: ignore[arg-type]
    assert (await ok(app)).status == (401 if required else 200)
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "str(user.id)" in record.getMessage()


@pytest.mark.parametrize("wrong", ["alice-1", {"sub": "alice-1"}, True, 0])
async def test_identify_answers_with_an_identity(
    wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def later(connection: Connection) -> Any:
        return wrong

    for who in (later, lambda connection: wrong):
        caplog.clear()
        answer = await ok(fenced(never, identify=who, required=False))
        assert answer.status == 500
        [error] = [r.exc_info[1] for r in caplog.records if r.exc_info]
        assert isinstance(error, ConfigurationError)
        assert "alice" not in str(error)


# --- the connection ---------------------------------------------------------------------------


async def test_what_identify_is_shown() -> None:
    def look(connection: Connection) -> Identity:
        headers = connection.headers
        assert headers["X-Tag"] == headers.get("x-tag") == "one"
        assert headers.getlist("X-TAG") == ["one", "two"]
        assert headers.get("absent") is None
        assert headers.get("absent", "?") == "?"
        assert headers.get("ключ") is None
        assert "x-tag" in headers
        assert "absent" not in headers
        with pytest.raises(KeyError):
            headers["absent"]
        assert headers["x-latin"] == "ä"
        assert sorted(headers) == ["authorization", "cookie", "x-latin", "x-tag"]
        assert len(headers) == 4
        assert "secret" not in repr(headers) + repr(connection)
        assert connection.cookies == {"a": "1", "b": "x=y", "c": "3"}
        assert connection.query_params == {"q": "2", "empty": ""}
        assert connection.path == "/chat"
        assert connection.client == ("127.0.0.1", 1234)
        assert connection.scope["method"] == "GET"
        return Identity("alice-1")

    headers = [
        ("x-tag", "one"), ("authorization", "secret"), ("x-tag", "two"), ("x-latin", "ä"),
        ("cookie", 'a="1"; b=x=y; broken'), ("cookie", "c=3"),
    ]  # fmt: skip
    await ok(
        fenced(whoami, identify=look),
        "/api/chat",
        root_path="/api",
        headers=headers,
        query_string=b"q=1&q=2&empty=",
    )


@pytest.mark.parametrize("make", [tuple, iter, list])
async def test_headers_may_come_in_any_iterable(make: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert list(scope["headers"]) == raw  # still there for the application
        await whoami(scope, receive, send)

    raw = [(b"x-user", b"alice-1"), (b"x-tag", b"1")]
    assert (await ok(fenced(app), raw_headers=make(raw))).body == b"alice-1"


# --- request ids ------------------------------------------------------------------------------


async def _client_id(*values: str) -> str | None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_context().client_request_id)
        await respond(send)

    seen: list[str | None] = []
    headers = [("x-request-id", value) for value in values]
    answer = await ok(fenced(app), user="alice-1", headers=headers)
    assert answer.status == 200
    assert answer.headers["x-request-id"] not in values
    return seen[0]


async def test_what_the_client_calls_the_request_is_kept_beside_ours() -> None:
    for value in ("3f2b8f4e-0000-4000-8000-3f2b8f4e0000", "req.17", "a" * 128):
        assert await _client_id(value) == value


@pytest.mark.parametrize(
    "values",
    [
        ("a" * 129,), ("",), ("a b",), ("a\x1b[1m",), ("ä",), ("a/b",), ("a;b",), ("a\n",),
        ("test",), ("req-1", "req-2"), ("req-1", "req-1"), (),
    ],
)  # fmt: skip
async def test_or_dropped(values: tuple[str, ...]) -> None:
    assert await _client_id(*values) is None


@pytest.mark.parametrize("own", [(), ((b"x-request-id", b"mine"),)], ids=["none", "one"])
async def test_our_request_id_replaces_the_application_s(own: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body"})

    shared = [*own, (b"x-tag", b"1")]
    before = list(shared)
    start = {"type": "http.response.start", "status": 200, "headers": shared}
    first = await ok(fenced(app), user="alice-1")
    second = await ok(fenced(app), user="bob-22")
    ids = {first.headers["x-request-id"], second.headers["x-request-id"]}
    assert len(ids - {"mine"}) == 2
    assert first.headers["x-tag"] == "1"
    # One list for many responses must not carry one request's id into another's.
    assert start["headers"] is shared
    assert shared == before


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(f"h-{n}", "1") for n in range(199)], 200),
        ([(f"h-{n}", "1") for n in range(200)], 431),
        ([("h", "1")] * 200, 431),
        ([("h", "1" * 65_000)], 200),
        ([("h", "1" * 65_536)], 431),
        ([("h", "1" * 33_000)] * 2, 431),
        ([("authorization", "Bearer a")], 200),
        ([("authorization", "Bearer a")] * 2, 400),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], 400),
        ([("host", "a.example")], 200),
        ([("host", "a.example"), ("host", "b.example")], 400),
    ],
)
async def test_headers_are_bounded(headers: list[tuple[str, str]], status: int) -> None:
    app = fenced(whoami if status == 200 else never, identify=identify)
    answer = await ok(app, headers=headers, user="alice-1")
    assert answer.status == status
    if status != 200:
        code = {431: "RF703", 400: "RF701"}[status]
        assert answer.problem["type"] == f"urn:ringfence:error:{code}"
        assert "www-authenticate" not in answer.headers
        assert counters.value(f"refused.{code}") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([("a", "1"), ("b", "1")], 431),
        ([("a", "1")] * 2, 431),
        ([("a", "1" * 20)], 431),
        ([("a", "1" * 9)], 200),
    ],
)
async def test_the_bounds_of_headers_are_settings(
    headers: list[tuple[str, str]], status: int
) -> None:
    fence = Ringfence(settings=Settings(max_headers=2, max_header_bytes=16))
    app = fenced(whoami if status == 200 else never, fence=fence)
    assert (await ok(app, headers=headers, user="alice-1")).status == status


# --- shutdown ---------------------------------------------------------------------------------


async def test_while_draining_the_answer_is_503(unwarned: None) -> None:
    fence = Ringfence()
    fence.is_draining = True
    async with user_context("alice-1"):
        leaked = contextvars.copy_context()

    async def with_a_scope(connection: Connection) -> Identity:
        async with fence.nobody():
            return Identity("alice-1")

    for app, context in [
        (fenced(never, fence=fence), None),
        (fenced(never, fence=fence, exclude=("/",)), None),
        (fenced(never, fence=fence), leaked),
        (fenced(never, fence=fence, identify=with_a_scope), None),
    ]:
        answer = await ok(app, user="alice-1", context=context)
        assert answer.status == 503
        assert answer.headers["retry-after"].isdigit()
        assert answer.problem["type"] == "urn:ringfence:error:RF103"


# --- errors of the application ----------------------------------------------------------------


async def _failing(error: Exception, **options: Any) -> Answer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    return await call(fenced(app, required=False), **options)


async def test_no_context_is_401_for_nobody_and_a_fault_for_a_user() -> None:
    error = NoContextError("No scope is open here.")
    assert (await _failing(error)).status == 401
    assert (await _failing(error)).headers["www-authenticate"] == 'Bearer realm="ringfence"'
    assert (await _failing(error, user="alice-1")).status == 500


async def test_errors_of_ringfence_become_problems(caplog: pytest.LogCaptureFixture) -> None:
    error = OwnershipError("Object of request `r`, user `bob-22`.")
    answer = await _failing(error, user="alice-1")
    assert answer.error is None
    assert answer.status == 500
    assert answer.problem == {
        "type": "urn:ringfence:error:RF202",
        "title": "Internal Server Error",
        "status": 500,
        "instance": f"urn:uuid:{answer.headers['x-request-id']}",
    }
    assert answer.outcome == "error"
    assert [r.exc_info[1] for r in caplog.records if r.exc_info] == [error]


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([ForbiddenError("A.")], 403),
        ([ForbiddenError("A."), ForbiddenError("B.")], 403),
        ([ExceptionGroup("inner", [OwnershipError("A.")]), OwnershipError("B.")], 500),
        ([ForbiddenError("A."), OwnershipError("B.")], None),
        ([OwnershipError("A."), KeyError("B")], None),
        ([KeyError("B")], None),
    ],
    ids=["one", "two alike", "nested", "two statuses", "with another", "another"],
)
async def test_what_tools_in_a_task_group_raise(
    errors: list[Exception], status: int | None
) -> None:
    """A group of refusals is answered as one of them; any other passes to the server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def tool(error: Exception) -> None:
            raise error  # at once: the first error cancels what waits

        async with task_group() as tools:
            for error in errors:
                tools.start_soon(tool, error)

    answer = await call(fenced(app), user="alice-1")
    if status is None:
        assert isinstance(answer.error, ExceptionGroup)
        assert answer.messages == []
    else:
        assert answer.error is None
        assert answer.status == status
    assert answer.scope["ringfence.outcome"] == "error"


async def test_a_failed_clean_up_before_any_answer_is_a_problem() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_scope().callback(_raise(ValueError("x")), None)

    answer = await ok(fenced(app), user="alice-1")
    assert answer.problem["type"] == "urn:ringfence:error:RF302"


async def test_other_errors_pass_untouched() -> None:
    error = ValueError("mine")
    answer = await _failing(error, user="alice-1")
    assert answer.error is error
    assert answer.messages == []
    assert answer.scope["ringfence"].state == "closed"
    assert answer.outcome == "error"


async def test_once_the_response_has_started_every_error_passes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise error

    error = ContextClosedError("It has ended.")
    answer = await call(fenced(app), user="alice-1")
    assert answer.error is error
    assert len(answer.messages) == 1


# --- outcomes ---------------------------------------------------------------------------------

GONE = {"type": "http.disconnect"}


async def _until_gone(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _after_the_response(scope: Any, receive: Any, send: Any) -> None:
    await respond(send)
    await _until_gone(scope, receive, send)


async def _within_the_response(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "more_body": True})
    await _until_gone(scope, receive, send)


async def _raising(scope: Any, receive: Any, send: Any) -> None:
    await _until_gone(scope, receive, send)
    raise ConnectionError("they left")


@pytest.mark.parametrize(
    ("app", "outcome"),
    [
        (whoami, "completed"),
        (_until_gone, "client_disconnect"),
        (_within_the_response, "client_disconnect"),
        (_raising, "client_disconnect"),
        (_after_the_response, "completed"),
    ],
)
async def test_how_a_request_ended(app: Any, outcome: str) -> None:
    answer = await call(fenced(app), user="alice-1", incoming=[GONE])
    assert answer.outcome == outcome
    assert counters.value(f"request.{outcome}") == 1


@pytest.mark.parametrize("version", ["2.3", "2.4"])
async def test_a_server_may_say_that_all_is_over_before_its_last_send_returns(version: str) -> None:
    """As hypercorn does: whoever listens meanwhile hears it, and nobody has left early."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_gone, scope, receive, send)
            await respond(send)

    async def receive() -> Any:
        await is_over.wait()
        return GONE

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            is_over.set()
            await anyio.wait_all_tasks_blocked()

    is_over = anyio.Event()
    scope = request(user="alice-1", asgi={"version": "3.0", "spec_version": version})
    await fenced(app)(scope, receive, send)
    assert scope["ringfence.outcome"] == "completed"


async def test_a_client_that_left_may_show_in_send_alone() -> None:
    def lost(message: Any) -> OSError | None:
        return OSError("gone") if message["type"] == "http.response.body" else None

    asgi = {"version": "3.0", "spec_version": "2.4"}
    answer = await call(fenced(whoami), user="alice-1", send_error=lost, asgi=asgi)
    assert isinstance(answer.error, OSError)
    assert answer.outcome == "client_disconnect"


async def test_a_cancelled_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_scope().callback(ran.append, True)
        started.set()
        await anyio.sleep_forever()

    started, ran = anyio.Event(), list[bool]()
    answer = await call(fenced(app), user="alice-1", cancel_on=started)
    assert answer.error is not None
    assert not isinstance(answer.error, Exception)
    assert answer.outcome == "cancelled"
    assert answer.messages == []
    assert ran == [True]


async def test_an_outer_handler_reads_the_scope() -> None:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ValueError, match="mine"):
            await fenced(app)(scope, receive, send)
        await respond(send, 500, scope["ringfence"].request_id.encode())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_context().request_id)
        raise ValueError("mine")

    seen: list[str] = []
    assert (await ok(outer, user="alice-1")).body.decode() == seen[0]


# --- the database -----------------------------------------------------------------------------


class IntegrityError(Exception):
    """As SQLAlchemy's, by its name."""


class UniqueViolation(IntegrityError):
    pass


class Ledger:
    """A session source that writes down what it is asked."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, int]] = []

    def serve(self, root: RequestScope) -> None: ...

    async def before_response(self, root: RequestScope, status: int) -> None:
        assert current_scope() is root
        await anyio.sleep(0)
        self.asked.append((root.state, status))
        if self.error is not None:
            raise self.error


def _with(database: Any, app: Any, **options: Any) -> UserContextMiddleware:
    return fenced(app, fence=Ringfence(database=database), **options)


async def test_the_tree_is_settled_before_the_response_starts() -> None:
    def before(message: Any) -> None:
        order.append((message["type"], list(ledger.asked)))

    ledger, order = Ledger(), list[Any]()
    for status in (201, 404):
        ledger.asked.clear()
        order.clear()

        async def app(scope: Any, receive: Any, send: Any, status: int = status) -> None:
            await respond(send, status)

        await ok(_with(ledger, app, required=False), send_error=before)
        asked = [("open", status)]
        assert order == [("http.response.start", asked), ("http.response.body", asked)]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ValueError("full"), 500, "about:blank"),
        (UniqueViolation("dup"), 409, "about:blank"),
        (OwnershipError("x"), 500, "urn:ringfence:error:RF202"),
    ],
)
async def test_if_that_fails_the_middleware_answers(
    error: Exception, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(current_scope())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-it", b"is")]})
        await send({"type": "http.response.body", "body": b"saved", "more_body": True})
        await send({"type": "http.response.body", "body": b"!"})
        await send({"type": "http.response.start", "status": 200})
        assert (await receive())["type"] == "http.disconnect"
        reached.append(True)

    scopes: list[RequestScope] = []
    reached: list[bool] = []
    answer = await ok(_with(Ledger(error), app), user="alice-1")
    assert answer.status == status
    assert answer.problem["type"] == kind
    assert b"saved" not in answer.body
    assert len(answer.messages) == 2
    assert answer.headers["x-request-id"] == scopes[0].request_id
    assert reached == [True]
    assert answer.outcome == "error"
    assert not scopes[0].ended_well
    assert counters.value("commit.failed") == 1
    logged = [r.exc_info[1] for r in caplog.records if r.exc_info]
    assert logged == ([] if status == 409 else [error])  # a conflict is the client's


async def test_after_that_an_endless_stream_ends() -> None:
    """Where the server's version of ASGI tells of a lost client by `send`, so do we."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    with anyio.fail_after(5):
        answer = await ok(
            _with(Ledger(ValueError("full")), app),
            user="alice-1",
            asgi={"version": "3.0", "spec_version": "2.4"},
        )
    assert answer.status == 500
    assert answer.outcome == "error"


async def test_after_that_a_stream_that_never_waits_does_not_stop_the_loop() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        started.set()
        for _ in range(10_000):  # endless, but for the test's sake
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    started = anyio.Event()
    app = _with(Ledger(ValueError("full")), app)
    answer = await call(app, user="alice-1", cancel_on=started)
    assert answer.status == 500
    assert answer.error is not None
    assert not isinstance(answer.error, Exception)


async def test_after_that_the_application_s_own_error_passes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)
        raise own

    own = RuntimeError("mine")
    answer = await call(_with(Ledger(ValueError("full")), app), user="alice-1")
    assert answer.status == 500
    assert answer.error is own


async def test_if_the_client_left_too_nothing_is_raised_into_send() -> None:
    answer = await ok(
        _with(Ledger(ValueError("full")), whoami),
        user="alice-1",
        send_error=lambda message: OSError("gone"),
    )
    assert answer.messages == []
    assert answer.outcome == "error"


async def test_a_cancellation_while_settling_stays_one() -> None:
    class Slow(Ledger):
        async def before_response(self, root: RequestScope, status: int) -> None:
            started.set()
            await anyio.sleep_forever()

    started = anyio.Event()
    answer = await call(_with(Slow(), whoami), user="alice-1", cancel_on=started)
    assert answer.messages == []
    assert answer.outcome == "cancelled"
    assert counters.value("commit.failed") == 0


async def test_an_error_of_the_application_is_answered_after_clean_up() -> None:
    """What it wrote is rolled back, and its answer is not settled again."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_scope().callback(lambda: ended.append(scope["ringfence"].ended_well))
        raise OwnershipError("x")

    ledger, ended = Ledger(), list[bool]()
    answer = await ok(_with(ledger, app), user="alice-1")
    assert answer.status == 500
    assert ended == [False]
    assert ledger.asked == []


# --- WebSockets -------------------------------------------------------------------------------

DENIAL = {"extensions": {"websocket.http.response": {}}}


async def talk(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": current_context().user_id})
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _types(answer: Answer) -> list[str]:
    return [message["type"].removeprefix("websocket.") for message in answer.messages]


async def test_a_websocket_is_bound_to_its_user() -> None:
    bye = {"type": "websocket.disconnect", "code": 1000}
    answer = await ok(fenced(talk), type="websocket", user="alice-1", incoming=[bye])
    accept, said = answer.messages
    assert said["text"] == "alice-1"
    assert accept["headers"] == [(b"x-request-id", answer.scope["ringfence"].request_id.encode())]
    assert accept.get("subprotocol") is None
    assert answer.outcome == "completed"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(1000, "completed"), (1001, "completed"), (1005, "completed"), (1006, "client_disconnect")],
)
async def test_how_a_websocket_ended(code: int, outcome: str) -> None:
    bye = {"type": "websocket.disconnect", "code": code}
    answer = await ok(fenced(talk), type="websocket", user="alice-1", incoming=[bye])
    assert answer.outcome == outcome


async def test_a_websocket_that_we_closed_was_not_left() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000})
        await receive()

    bye = {"type": "websocket.disconnect", "code": 1006}
    answer = await ok(fenced(app), type="websocket", user="alice-1", incoming=[bye])
    assert answer.outcome == "completed"


async def test_a_websocket_is_refused_before_it_is_accepted() -> None:
    answer = await ok(fenced(never), type="websocket", **DENIAL)
    assert _types(answer) == ["http.response.start", "http.response.body"]
    assert answer.status == 401
    assert answer.problem["type"] == "urn:ringfence:error:RF101"
    assert "www-authenticate" in answer.headers


async def test_or_accepted_and_closed_where_the_server_cannot_say_why() -> None:
    for extensions in ({}, None):
        answer = await ok(fenced(never), type="websocket", extensions=extensions)
        accept, close = answer.messages
        assert _types(answer) == ["accept", "close"]
        assert (close["code"], close["reason"]) == (4401, "Unauthorized")
        assert accept["headers"][0][0] == b"x-request-id"


async def test_a_websocket_may_belong_to_nobody() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not current_scope().has_user
        await send({"type": "websocket.close"})

    answer = await ok(fenced(app, required=False), type="websocket")
    assert _types(answer) == ["close"]


async def test_a_websocket_inherits_nobody(unwarned: None) -> None:
    async with user_context("alice-1"):
        leaked = contextvars.copy_context()
    answer = await ok(fenced(never), type="websocket", context=leaked.copy())
    assert _types(answer) == ["accept", "close"]
    assert counters.value("inherited_scope.closed") == 1


async def test_browsers_need_a_subprotocol_of_those_they_offered() -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": "chat"})

    offered = {"subprotocols": ["ringfence.bearer", "token"], "type": "websocket"}
    bye = [{"type": "websocket.disconnect", "code": 1000}]
    chosen = await ok(fenced(talk), user="alice-1", incoming=bye, **offered)
    assert chosen.messages[0]["subprotocol"] == "ringfence.bearer"
    theirs = await ok(fenced(other), user="alice-1", **offered)
    assert theirs.messages[0]["subprotocol"] == "chat"
    refused = await ok(fenced(never), **offered)
    assert refused.messages[0]["subprotocol"] == "ringfence.bearer"


async def test_errors_in_a_websocket() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if accepts:
            await send({"type": "websocket.accept"})
        raise error

    error, accepts = OwnershipError("x"), False
    answer = await ok(fenced(app), type="websocket", user="alice-1", **DENIAL)
    assert answer.status == 500
    answer = await ok(fenced(app), type="websocket", user="alice-1")
    assert answer.messages[-1]["code"] == 1011
    accepts = True
    answer = await call(fenced(app), type="websocket", user="alice-1", **DENIAL)
    assert answer.error is error
    assert _types(answer) == ["accept"]


async def test_a_websocket_that_was_closed_already_is_not_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 4000})
        raise error

    error = OwnershipError("x")
    answer = await call(fenced(app), type="websocket", user="alice-1")
    assert answer.error is error
    assert _types(answer) == ["close"]


async def test_the_database_is_not_asked_about_websockets() -> None:
    ledger = Ledger()
    bye = [{"type": "websocket.disconnect", "code": 1000}]
    await ok(_with(ledger, talk), type="websocket", user="alice-1", incoming=bye)
    assert ledger.asked == []


async def test_a_caller_in_process_keeps_its_own_context() -> None:
    """Alice's handler calls the application as bob, in her own task."""
    app = fenced(whoami)
    async with user_context("alice-1") as alice:
        context = contextvars.copy_context()
        bob = await ok(app, user="bob-22", context=context)
        assert bob.body == b"bob-22"
        assert context.run(current_context) is alice
