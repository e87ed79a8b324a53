"""Bearer tokens: whoever did not sign, or meant somebody else, identifies nobody."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey
from joserfc.jws import JWSRegistry, serialize_compact

from ringfence import CarrierError, ConfigurationError, InvalidContextError, current_context
from ringfence.integrations.asgi import Connection
from ringfence.integrations.jwt import BearerToken

from .asgi_driver import fenced, ok, request, respond

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"fedcba9876543210fedcba9876543210"
RSA = RSAKey.generate_key(2048)
EC = ECKey.generate_key("P-256")
NOW = int(time.time())


def token(key: Any = SECRET, header: dict[str, Any] | None = None, /, **claims: Any) -> str:
    facts = {"sub": "alice-1", "exp": int(time.time()) + 3600, **claims}
    facts = {name: value for name, value in facts.items() if value is not None}
    key = OctKey.import_key(key) if isinstance(key, bytes) else key
    header = {"alg": "HS256", **(header or {})}
    return jwt.encode(header, facts, key, algorithms=[header["alg"]])


def b64(document: Any) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_good_token() -> None:
    end = int(time.time()) + 60
    identity = BearerToken(SECRET, leeway=0).identity(
        token(exp=end, tenant="acme", roles=["admin"])
    )
    assert (identity.user_id, identity.tenant_id) == ("alice-1", "acme")
    assert identity.expires_at == dt.datetime.fromtimestamp(end, tz=dt.UTC)
    assert identity.claims["roles"] == ("admin",)


def test_claims_have_the_names_you_say() -> None:
    read = BearerToken(SECRET, user_claim="uid", tenant_claim="org")
    identity = read.identity(token(uid="bob-22", org="acme", tenant="other"))
    assert (identity.user_id, identity.tenant_id) == ("bob-22", "acme")
    assert BearerToken(SECRET, tenant_claim=None).identity(token(tenant="x")).tenant_id is None


def test_how_long_a_token_may_be_can_be_said() -> None:
    text = token()
    assert BearerToken(SECRET, max_length=len(text)).identity(text).user_id == "alice-1"
    with pytest.raises(CarrierError) as refused:
        BearerToken(SECRET, max_length=len(text) - 1).identity(text)
    assert refused.value.reason == "TooLarge"


def test_text_is_a_secret_too() -> None:
    assert BearerToken(SECRET.decode()).identity(token()).user_id == "alice-1"


def test_public_keys_and_key_sets() -> None:
    read = BearerToken(RSA, algorithms=("RS256",))
    assert read.identity(token(RSA, {"alg": "RS256"})).user_id == "alice-1"
    first = OctKey.import_key(SECRET, {"kid": "k-1"})
    second = OctKey.import_key(OTHER, {"kid": "k-2"})
    read = BearerToken(KeySet([first, second]))
    for key in (first, second):
        assert read.identity(token(key, {"kid": key.kid})).user_id == "alice-1"
    with pytest.raises(CarrierError):
        read.identity(token(second, {"kid": "k-1"}))
    with pytest.raises(CarrierError):
        read.identity(token(second, {"kid": "k-3"}))


def test_header_parameters_that_mean_nothing_to_us_are_ignored() -> None:
    registry = JWSRegistry(algorithms=["HS256"], strict_check_header=False)
    payload = json.dumps({"sub": "alice-1", "exp": NOW + 3600})
    header = {"alg": "HS256", "nonce": "n"}
    signed = serialize_compact(header, payload, OctKey.import_key(SECRET), registry=registry)
    assert BearerToken(SECRET).identity(signed).user_id == "alice-1"


# --- what is refused --------------------------------------------------------------------------

HEADER, PAYLOAD, SIGNATURE = token().split(".")

BAD: dict[str, str] = {
    "forged": token(OTHER),
    "expired": token(exp=NOW - 11),
    "without an expiry": token(exp=None),
    "an expiry that is no number": token(exp="tomorrow"),
    "an expiry of NaN": token(exp=float("nan")),
    "an expiry beyond all calendars": token(exp=10**30),
    "not valid yet": token(nbf=NOW + 600),
    "issued in the future": token(iat=NOW + 600),
    "for an audience": token(aud="billing"),
    "without a user": token(sub=None),
    "a user that is no text": token(sub=17),
    "a user that is a list": token(sub=["alice-1"]),
    "a tenant that is no text": token(tenant=17),
    "too large": token(note="x" * 8192),
    "signed by none": f"{b64({'alg': 'none'})}.{PAYLOAD}.",
    "another algorithm": token(SECRET, {"alg": "HS512"}),
    "an algorithm that is no text": f"{b64({'alg': ['HS256']})}.{PAYLOAD}.{SIGNATURE}",
    "no algorithm": f"{b64({})}.{PAYLOAD}.{SIGNATURE}",
    "payload changed": f"{HEADER}.{b64({'sub': 'bob-22', 'exp': NOW + 3600})}.{SIGNATURE}",
    "signature cut": f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-4]}",
    "signature gone": f"{HEADER}.{PAYLOAD}.",
    "critical extension": f"{b64({'alg': 'HS256', 'crit': ['x'], 'x': 1})}.{PAYLOAD}.{SIGNATURE}",
    "header nested": f"{b64(b'[' * 300)}.{PAYLOAD}.{SIGNATURE}",
    "header nested deeply": f"{b64(b'[' * 3000)}.{PAYLOAD}.{SIGNATURE}",
    "header no object": f"{b64([])}.{PAYLOAD}.{SIGNATURE}",
    "five parts": f"{HEADER}.{PAYLOAD}.{SIGNATURE}.a.b",
    "no parts": "alice-1",
    "no text": "ä",
    "surrogate": "\ud800.a.b",
    "empty parts": "..",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tokens_are_refused_with_one_message(case: str) -> None:
    with pytest.raises(CarrierError) as caught:
        BearerToken(SECRET).identity(BAD[case])
    assert str(caught.value) == "The bearer token is refused. Sign in again."


def test_a_payload_that_is_no_object() -> None:
    for payload in (b"[]", b"x", b"[" * 4000, b'"alice-1"', b"null"):
        value = serialize_compact({"alg": "HS256"}, payload, OctKey.import_key(SECRET))
        with pytest.raises(CarrierError):
            BearerToken(SECRET).identity(value)


def test_the_reason_is_for_logs() -> None:
    for case, reason in {
        "expired": "ExpiredTokenError",
        "forged": "BadSignatureError",
        "too large": "TooLarge",
        "for an audience": "UnexpectedAudience",
    }.items():
        with pytest.raises(CarrierError) as caught:
            BearerToken(SECRET).identity(BAD[case])
        assert caught.value.reason == reason  # type: ignore[attr-defined]


def test_issuer_and_audience() -> None:
    read = BearerToken(SECRET, issuer="https://id.example", audience=["api", "admin"])
    assert read.identity(token(iss="https://id.example", aud="api"))
    assert read.identity(token(iss="https://id.example", aud=["x", "admin"]))
    for claims in (
        {"aud": "api"},
        {"iss": "https://evil.example", "aud": "api"},
        {"iss": ["https://id.example"], "aud": "api"},
        {"iss": "https://id.example"},
        {"iss": "https://id.example", "aud": "billing"},
        {"iss": "https://id.example", "aud": []},
        {"iss": "https://id.example", "aud": ["billing", "x"]},
    ):
        with pytest.raises(CarrierError):
            read.identity(token(**claims))


def test_leeway() -> None:
    late = token(exp=int(time.time()) - 5)  # not NOW: a whole suite may have run since
    identity = BearerToken(SECRET, leeway=60).identity(late)
    assert not identity.is_expired()
    with pytest.raises(CarrierError):
        BearerToken(SECRET, leeway=0).identity(late)


def test_an_expiry_may_be_waived() -> None:
    identity = BearerToken(SECRET, requires_expiry=False).identity(token(exp=None))
    assert identity.expires_at is None
    with pytest.raises(CarrierError):
        BearerToken(SECRET, requires_expiry=False).identity(token(exp=NOW - 60))


# --- construction -----------------------------------------------------------------------------


def test_short_secrets() -> None:
    for key in (b"", b"x" * 31, "x" * 31, OctKey.import_key(b"x" * 31)):
        with pytest.raises(ConfigurationError, match="less than 32 bytes"):
            BearerToken(key)


def test_a_short_secret_within_a_set() -> None:
    keys = KeySet([OctKey.import_key(SECRET), OctKey.import_key(b"x" * 31)])
    with pytest.raises(ConfigurationError, match="less than 32 bytes"):
        BearerToken(keys)


@pytest.mark.parametrize("is_private", [True, False])
def test_a_key_in_pem_format_is_no_secret(is_private: bool) -> None:
    pem = RSA.as_pem(private=is_private)
    for key in (pem, pem.decode()):
        with pytest.raises(ConfigurationError, match="PEM format"):
            BearerToken(key)


@pytest.mark.parametrize("algorithms", [(), ("none",), ("HS256", "none"), ("XX1",), "HS256"])
def test_algorithms_that_sign_nothing(algorithms: Any) -> None:
    with pytest.raises(ConfigurationError, match="`algorithms` cannot be"):
        BearerToken(SECRET, algorithms=algorithms)


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA, ("HS256",)),
        (RSA, ("RS256", "HS256")),
        (SECRET, ("RS256",)),
        (SECRET, ("HS256", "RS256")),
        (KeySet([RSA, OctKey.import_key(SECRET)]), ("RS256",)),
        (EC, ("HS256",)),
    ],
)
def test_algorithms_that_do_not_fit_the_key(key: Any, algorithms: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="do not all fit the key"):
        BearerToken(key, algorithms=algorithms)


def test_a_public_key_cannot_be_used_as_a_secret() -> None:
    """The classic: signed HS256 with the text of the public RSA key."""
    read = BearerToken(RSA, algorithms=("RS256",))
    signed = f"{b64({'alg': 'HS256'})}.{PAYLOAD}"
    mac = hmac.new(RSA.as_pem(private=False), signed.encode(), hashlib.sha256).digest()
    with pytest.raises(CarrierError):
        read.identity(f"{signed}.{b64(mac)}")


# --- where it is read -------------------------------------------------------------------------


async def _whoami(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "reason": current_context().user_id})
    else:
        await respond(send, body=current_context().user_id.encode())


APP = fenced(_whoami, identify=BearerToken(SECRET))
INVALID = 'Bearer realm="ringfence", error="invalid_token"'


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_authorization_header(scheme: str) -> None:
    answer = await ok(APP, headers=[("authorization", f"{scheme} {token()}")])
    assert (answer.status, answer.body) == (200, b"alice-1")


@pytest.mark.parametrize(
    ("value", "challenge"),
    [
        ("", 'Bearer realm="ringfence"'),
        ("Basic YWxpY2U6eA==", 'Bearer realm="ringfence"'),
        ("Bearer", INVALID),
        ("Bearer ", INVALID),
        ("Bearer  TOKEN", INVALID),
        ("Bearer TOKEN x", INVALID),
        ("Bearer TOKEN,Bearer TOKEN", INVALID),
        ("Bearer FORGED", INVALID),
    ],
)
async def test_other_credentials(value: str, challenge: str) -> None:
    value = value.replace("TOKEN", token()).replace("FORGED", token(OTHER))
    answer = await ok(APP, headers=[("authorization", value)])
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == challenge


async def test_never_the_query_string_nor_a_cookie() -> None:
    good = token()
    for options in (
        {"query_string": f"access_token={good}&token={good}".encode()},
        {"headers": [("cookie", f"access_token={good}")]},
        {"subprotocols": ["ringfence.bearer", good]},  # http
        {"headers": [("sec-websocket-protocol", f"ringfence.bearer, {good}")]},
    ):
        assert (await ok(APP, **options)).status == 401  # type: ignore[arg-type]


async def test_a_user_id_that_is_none() -> None:
    answer = await ok(APP, headers=[("authorization", f"Bearer {token(sub='anonymous')}")])
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == INVALID


def test_claims_that_are_no_plain_values_are_refused() -> None:
    deep: Any = "x"
    for _ in range(30):
        deep = [deep]
    with pytest.raises((CarrierError, InvalidContextError)):
        BearerToken(SECRET).identity(token(deep=deep))


@pytest.mark.parametrize(
    ("offered", "code"),
    [
        ("ringfence.bearer TOKEN", 1000),
        ("chat ringfence.bearer TOKEN", 1000),
        ("ringfence.bearer", 4401),
        ("ringfence.bearer chat TOKEN", 4401),
        ("TOKEN ringfence.bearer", 4401),
        ("chat TOKEN", 4401),
        ("", 4401),
    ],
)
async def test_the_subprotocols_of_a_websocket(offered: str, code: int) -> None:
    names = offered.replace("TOKEN", token()).split()
    answer = await ok(APP, type="websocket", subprotocols=names)
    assert answer.messages[-1].get("code", 1000) == code


async def test_the_header_of_a_websocket() -> None:
    scope = request(type="websocket", headers=[("authorization", f"Bearer {token()}")])
    identity = BearerToken(SECRET)(Connection(scope, dict(scope["headers"])))
    assert identity is not None
    assert identity.user_id == "alice-1"
