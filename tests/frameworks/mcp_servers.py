"""Real MCP servers on the loopback, credentials that are signed, and one client for all users."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx2
import uvicorn
from joserfc import jwt
from joserfc.jwk import OctKey
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken

from ringfence import CarrierError, UserExecutionContext
from ringfence.integrations.jwt import BearerToken
from ringfence.integrations.mcp import outbound_meta

SECRET = "a secret of tests, of thirty-two bytes"
KEY = OctKey.import_key(SECRET)
AUDIENCE = "notes"


def sign(context: UserExecutionContext, *, seconds: float = 60, audience: str = AUDIENCE) -> str:
    """A token that says who is current, for the server of notes, for a minute."""
    ends = int(time.time() + seconds)
    claims = {"sub": context.user_id, "tid": context.tenant_id, "aud": audience, "exp": ends}
    return jwt.encode({"alg": "HS256"}, claims, KEY)


verify = BearerToken(SECRET, audience=AUDIENCE, tenant_claim="tid").identity
meta = outbound_meta(sign)


class Tokens:
    """A token verifier of the SDK that knows tokens signed by `sign`."""

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            identity = verify(token)
        except CarrierError:
            return None
        return AccessToken(
            token=token, client_id="tests", scopes=["read"], subject=identity.user_id
        )


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The application on the loopback, by uvicorn; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [bound])
            while not server.started:  # noqa: ASYNC110 (it says so in no other way)
                await anyio.sleep(0.01)
            try:
                yield f"http://127.0.0.1:{bound.getsockname()[1]}"
            finally:
                server.should_exit = True


@contextlib.asynccontextmanager
async def client_of(
    url: str, *, auth: Callable[..., Any] | None = None, **options: Any
) -> AsyncIterator[Client]:
    """One connection, for everybody."""
    async with httpx2.AsyncClient(auth=auth, timeout=30) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, **options) as client:
            yield client


def text_of(result: Any) -> str:
    """What a tool has answered."""
    return "".join(part.text for part in result.content)
