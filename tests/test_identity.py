"""Identity: what authentication found, as a value that cannot change."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs
import pytest

from ringfence import (
    ConfigurationError,
    ContextLimitError,
    Identity,
    InvalidContextError,
    UserExecutionContext,
    WrongTypeError,
    current_scope,
    user_context,
)

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


def test_it_is_frozen() -> None:
    identity = Identity("alice-1", "acme")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        identity.user_id = "bob-22"  # type: ignore[misc]
    assert (identity.user_id, identity.tenant_id, identity.expires_at) == ("alice-1", "acme", None)
    assert identity.claims == {}


def test_equal_facts_make_it_equal_and_it_can_be_a_key() -> None:
    one = Identity("alice-1", "acme", claims={"roles": ["a"]})
    two = Identity("alice-1", "acme", claims={"roles": ("a",)})
    assert one == two
    assert len({one, two}) == 1
    assert one != Identity("alice-1", "acme", claims={"roles": ["b"]})
    assert one != Identity("alice-1", "other", claims={"roles": ["a"]})


def test_claims_are_not_in_the_repr() -> None:
    assert "hunter2" not in repr(Identity("alice-1", claims={"pin": "hunter2"}))


def test_claims_are_copied_and_read_only_at_every_depth() -> None:
    mine: dict[str, Any] = {"roles": ["a", {"deep": [1]}], "org": {"ids": {1, 2}}, "at": NOON}
    claims = Identity("alice-1", claims=mine).claims
    mine["roles"].append("root")
    mine["org"]["ids"].add(3)
    mine["new"] = 1
    assert claims["roles"][0] == "a"
    assert len(claims["roles"]) == 2
    assert claims["roles"][1]["deep"] == (1,)
    assert claims["org"]["ids"] == frozenset({1, 2})
    assert claims["at"] is NOON
    assert set(claims) == {"roles", "org", "at"}
    for target, key in ((claims, "x"), (claims["org"], "ids"), (claims["roles"][1], "deep")):
        with pytest.raises(TypeError):
            target[key] = 1


@pytest.mark.parametrize(
    "value", [object(), print, Identity, bytearray(b"x"), [object()], {"k": {"deep": object()}}]
)
def test_claims_are_plain_values(value: object) -> None:
    with pytest.raises(WrongTypeError, match=r"`claims\['bad'\]` holds a `\w+`"):
        Identity("alice-1", claims={"good": 1, "bad": value})


@pytest.mark.parametrize("claims", ["admin", ["admin"], None, 5, {"admin"}])
def test_claims_are_a_mapping(claims: Any) -> None:
    with pytest.raises(WrongTypeError, match="`claims` must be a mapping, not `"):
        Identity("alice-1", claims=claims)


def test_claims_have_a_depth_limit_and_may_not_be_cyclic() -> None:
    nested: Any = 1
    for _ in range(19):
        nested = [nested]
    assert Identity("alice-1", claims={"x": nested}).claims["x"]
    with pytest.raises(ContextLimitError, match=r"`claims\['x'\]` is nested more than 20 deep"):
        Identity("alice-1", claims={"x": [nested, [nested]]})
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ContextLimitError, match="more than 20 deep"):
        Identity("alice-1", claims={"x": cycle})


def test_a_scalar_of_a_kind_of_its_own_is_refused() -> None:
    """It may be mutable, or answer differently each time."""

    class Role(str):
        pass

    with pytest.raises(WrongTypeError, match="holds a `Role`"):
        Identity("alice-1", claims={"role": Role("admin")})


@pytest.mark.parametrize("time", [dt.datetime(2030, 1, 1), "2030-01-01", 1_900_000_000])
def test_expiry_is_an_aware_time(time: Any) -> None:
    with pytest.raises(WrongTypeError, match="`expires_at` must be a `datetime` with a time zone"):
        Identity("alice-1", expires_at=time)


def test_it_is_expired_from_that_moment_on() -> None:
    identity = Identity("alice-1", expires_at=NOON)
    assert not identity.is_expired(NOON - dt.timedelta(microseconds=1))
    assert identity.is_expired(NOON)
    assert identity.is_expired(NOON.astimezone(dt.timezone(dt.timedelta(hours=5))))
    assert not Identity("alice-1").is_expired(NOON)
    assert Identity("alice-1", expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)).is_expired()
    assert not Identity("alice-1", expires_at=dt.datetime(2999, 1, 1, tzinfo=dt.UTC)).is_expired()


async def test_a_scope_opens_with_all_of_it() -> None:
    identity = Identity("alice-1", "acme", expires_at=NOON, claims={"roles": ["admin"]})
    async with user_context(identity, thread_id="t-9") as ctx:
        assert (ctx.user_id, ctx.tenant_id, ctx.expires_at) == ("alice-1", "acme", NOON)
        assert ctx.thread_id == "t-9"
        assert current_scope().claims == {"roles": ("admin",)}
        assert "roles" not in str(ctx.to_dict())


def test_its_ids_are_validated_when_a_scope_opens() -> None:
    with pytest.raises(InvalidContextError, match="`user_id`"):
        user_context(Identity("test"))
    with pytest.raises(InvalidContextError, match="`tenant_id`"):
        user_context(Identity("alice-1", tenant_id="placeholder "))
    with pytest.raises(InvalidContextError, match="`tenant_id` is empty"):
        user_context(Identity("alice-1", tenant_id=""))


@pytest.mark.parametrize(
    "beside",
    [
        {"thread_id": "t-2"}, {"run_id": "r-2"}, {"request_id": "q-2"}, {"db_session": object},
        {"websocket_client_id": "w-2"}, {"agent_context": {"k": 1}}, {"audit_metadata": {"k": 1}},
        {"tenant_id": "other"}, {"expires_at": NOON}, {"client_request_id": "c-2"},
    ],
    ids=lambda beside: next(iter(beside)),
)  # fmt: skip
def test_a_context_takes_no_facts_beside_it(beside: dict[str, Any]) -> None:
    """They would be dropped, or swap an identity."""
    with pytest.raises(ConfigurationError, match="Pass the context alone, or the ids"):
        user_context(UserExecutionContext("alice-1", "t-1", "r-1"), **beside)
