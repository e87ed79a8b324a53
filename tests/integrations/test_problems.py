"""Problems say what kind of error it is, and nothing of what an error says."""

from __future__ import annotations

import json

import pytest

import ringfence
from ringfence import (
    AgentLimitError,
    CarrierError,
    ConfigurationError,
    DrainingError,
    ForbiddenError,
    NoContextError,
    OwnershipError,
    RingfenceError,
    ScopeCloseError,
    UnknownAgentError,
    UnknownRunError,
)
from ringfence.integrations.problems import Problem, problem_of, problem_within, send_problem

ERRORS = [
    kind
    for kind in vars(ringfence).values()
    if isinstance(kind, type) and issubclass(kind, RingfenceError)
]
NOT_500 = {
    NoContextError: 401,
    CarrierError: 401,
    DrainingError: 503,
    ForbiddenError: 403,
    UnknownAgentError: 404,
    UnknownRunError: 404,
    AgentLimitError: 429,
}
SECRET = "bob-22 of /srv/app.py"


def _make(kind: type[RingfenceError]) -> RingfenceError:
    if issubclass(kind, ScopeCloseError):
        return kind(SECRET, [ValueError(SECRET)], SECRET)
    return kind(SECRET, SECRET, owner_request_id=SECRET, field=SECRET)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_status_and_its_own_type(kind: type[RingfenceError]) -> None:
    problem = problem_of(_make(kind))
    assert problem.status == NOT_500.get(kind, 500)
    assert problem.type == f"urn:ringfence:error:{kind.code}"


@pytest.mark.parametrize("kind", ERRORS)
def test_no_word_of_the_error_is_told(kind: type[RingfenceError]) -> None:
    problem = problem_of(_make(kind))
    told = problem.body("r-1").decode() + repr(problem.headers("r-1"))
    assert SECRET not in told
    assert "bob" not in told
    assert set(json.loads(problem.body())) == {"type", "title", "status"}


def test_a_subclass_has_the_status_of_the_nearest_class() -> None:
    class TokenError(CarrierError):
        pass

    assert problem_of(TokenError("x")).status == 401


def test_foreign_errors() -> None:
    class IntegrityError(Exception):
        pass

    class Duplicate(IntegrityError):
        pass

    assert problem_of(KeyError(SECRET)) == Problem(500)
    assert problem_of(Duplicate(SECRET)) == Problem(409)
    assert json.loads(problem_of(Duplicate(SECRET)).body()) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
    }


def test_the_place_may_know_better() -> None:
    assert problem_of(ConfigurationError("x"), 401, challenge="Bearer").challenge == "Bearer"


def test_headers() -> None:
    unidentified = problem_of(NoContextError("x"), challenge='Bearer realm="a"').headers("r-1")
    assert unidentified == {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        "www-authenticate": 'Bearer realm="a"',
        "x-request-id": "r-1",
    }
    assert problem_of(NoContextError("x")).headers()["www-authenticate"] == "Bearer"
    assert problem_of(DrainingError("x")).headers()["retry-after"].isdigit()
    plain = problem_of(OwnershipError("x"), challenge="Bearer").headers()
    assert set(plain) == {"content-type", "cache-control"}


def test_who_is_identified_and_meets_no_context_has_met_a_fault() -> None:
    assert problem_within(NoContextError("x"), "r-1", has_user=True).status == 500
    assert problem_within(NoContextError("x"), "r-1", has_user=False).status == 401
    assert problem_within(CarrierError("x"), "r-1", has_user=True).status == 401


async def test_sending_one() -> None:
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await send_problem(send, Problem(409), "r-1", prefix="websocket.http.response")
    start, body = sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 409)
    assert (b"x-request-id", b"r-1") in start["headers"]
    assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["instance"] == "urn:uuid:r-1"
