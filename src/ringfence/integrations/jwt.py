"""Bearer tokens: an identity from a signed JSON Web Token."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

try:
    from joserfc import jwt
    from joserfc.jwk import Key, KeySet, OctKey
    from joserfc.jws import JWSRegistry
except ImportError as missing:
    raise ImportError(
        'This needs joserfc. Install it with `pip install "ringfence[jwt]"`.'
    ) from missing

from ..errors import CarrierError, ConfigurationError
from ..identity import Identity
from ._exchange import BEARER_SUBPROTOCOL

__all__ = ["BearerToken"]

MIN_SECRET = 32
"""Bytes. RFC 7518, section 3.2: a key of the size of the hash, at least."""


class _Connection(Protocol):
    """What is asked of a request; ours and Starlette's have it."""

    @property
    def scope(self) -> Any: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class BearerToken:
    """
    An `identify` that takes the identity from a signed token. Lives as long as the application.

    Reads `Authorization: Bearer <token>`; of a WebSocket also the subprotocols
    `ringfence.bearer, <token>`, since browsers cannot send that header; never the query string,
    which ends up in logs::

        identify = BearerToken(secret, audience="https://api.example.com")
        UserContextMiddleware(app, fence=fence, identify=identify)

    No token, or other credentials: nobody. A token that is forged, expired, too large, meant for
    another audience or without an expiry is refused with one and the same message. A token that
    names an audience is refused if none is expected.

    Args:
        key: a secret of at least 32 bytes, or a key or key set of joserfc, as for RS256.
        algorithms: those that may have signed; a token cannot choose beyond them.
        issuer: the `iss` that a token must have.
        audience: the `aud`, or one of them, that a token must be meant for.
        user_claim: which claim is the user id.
        tenant_claim: which claim is the tenant id; `None` if there are no tenants.
        leeway: seconds that clocks may differ by.
        max_length: characters of a token; a longer one is refused unread.
        requires_expiry: whether a token must have an `exp`.

    Raises:
        ConfigurationError: a short secret, or algorithms that do not fit the key.
    """

    def __init__(
        self,
        key: str | bytes | Key | KeySet,
        *,
        algorithms: Collection[str] = ("HS256",),
        issuer: str | None = None,
        audience: str | Sequence[str] | None = None,
        user_claim: str = "sub",
        tenant_claim: str | None = "tenant",
        leeway: int = 10,
        max_length: int = 8 * 1024,
        requires_expiry: bool = True,
    ) -> None:
        self.algorithms = _checked_algorithms(algorithms)
        self.user_claim = user_claim
        self.tenant_claim = tenant_claim
        self._key = _checked_key(key, self.algorithms)
        self._leeway = leeway
        self._max_length = max_length
        self._accepts_audience = audience is not None
        self._registry = JWSRegistry(algorithms=self.algorithms, strict_check_header=False)
        rules: dict[str, Any] = {"exp": {"essential": requires_expiry}}
        if issuer is not None:
            rules["iss"] = {"essential": True, "value": issuer}
        if audience is not None:
            values = [audience] if isinstance(audience, str) else list(audience)
            rules["aud"] = {"essential": True, "values": values}
        self._rules = jwt.JWTClaimsRegistry(leeway=leeway, **rules)

    def __call__(self, connection: _Connection) -> Identity | None:
        """The identity of a request, `None` if it has no token; `identify` is this."""
        token = _header_token(connection) or _subprotocol_token(connection.scope)
        return None if token is None else self.identity(token)

    def identity(self, token: str) -> Identity:
        """
        The identity that a token carries.

        Raises:
            CarrierError: the token is refused; `reason` is for logs.
        """
        if len(token) > self._max_length:
            raise _refused("TooLarge")
        try:
            claims = jwt.decode(token, self._key, registry=self._registry).claims
            self._rules.validate(claims)
            if "aud" in claims and not self._accepts_audience:
                raise _refused("UnexpectedAudience")
            return self._identity(claims)
        except CarrierError:
            raise
        except Exception as error:  # whatever a hostile token makes a parser raise
            raise _refused(type(error).__name__) from error

    def _identity(self, claims: dict[str, Any]) -> Identity:
        user_id = claims[self.user_claim]
        tenant_id = None if self.tenant_claim is None else claims.get(self.tenant_claim)
        if type(user_id) is not str or not (tenant_id is None or type(tenant_id) is str):
            raise _refused("IdIsNoText")
        expires_at = None
        if "exp" in claims:
            end = claims["exp"] + self._leeway
            expires_at = dt.datetime.fromtimestamp(end, tz=dt.UTC)
        return Identity(user_id, tenant_id, expires_at=expires_at, claims=claims)


def _header_token(connection: _Connection) -> str | None:
    scheme, _, token = (connection.headers.get("authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    if not token:
        raise _refused("Missing")
    return token


def _subprotocol_token(scope: Mapping[str, Any]) -> str | None:
    offered = list(scope.get("subprotocols") or ())
    if scope["type"] != "websocket" or BEARER_SUBPROTOCOL not in offered:
        return None
    following = offered[offered.index(BEARER_SUBPROTOCOL) + 1 :]
    if not following:
        raise _refused("Missing")
    token: str = following[0]
    return token


def _refused(reason: str) -> CarrierError:
    return CarrierError("The bearer token is refused.", "Sign in again.", reason=reason)


def _checked_algorithms(algorithms: Collection[str]) -> tuple[str, ...]:
    names = () if isinstance(algorithms, str) else tuple(algorithms)
    unknown = [name for name in names if name == "none" or name not in JWSRegistry.algorithms]
    if not names or unknown:
        raise ConfigurationError(
            f"`algorithms` cannot be {algorithms!r}.", "Name those that sign, as `('RS256',)`."
        )
    return names


def _checked_key(key: str | bytes | Key | KeySet, algorithms: tuple[str, ...]) -> Key | KeySet:
    if isinstance(key, (str, bytes)):
        key = _secret(key.encode() if isinstance(key, str) else key)
    keys = key.keys if isinstance(key, KeySet) else [key]
    for each in keys:
        is_secret = isinstance(each, OctKey)
        if isinstance(each, OctKey) and len(each.raw_value) < MIN_SECRET:
            raise _short_secret()
        if any(name.startswith("HS") is not is_secret for name in algorithms):
            # With both kinds, a public key could pass for a secret.
            raise ConfigurationError(
                f"The algorithms {', '.join(algorithms)} do not all fit the key.",
                "HS256 and the like need a secret, and all others a public key.",
            )
    return key


def _secret(secret: bytes) -> OctKey:
    if len(secret) < MIN_SECRET:
        raise _short_secret()
    if b"-----BEGIN" in secret:
        raise ConfigurationError(
            "The key is in PEM format, which is no secret.",
            "Import it as `joserfc.jwk.RSAKey.import_key(pem)`, and name `algorithms`.",
        )
    return OctKey.import_key(secret)


def _short_secret() -> ConfigurationError:
    return ConfigurationError(
        f"The secret has less than {MIN_SECRET} bytes.",
        "Make one with `secrets.token_bytes(32)`.",
    )
