"""The client's errors, in the shape that ringfence's own answers have (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ringfence.integrations.fastapi import exception_handlers


async def refused(request: Request, error: Any) -> Response:
    return problem(error.status_code, str(error.detail), error.headers)


async def invalid(request: Request, error: Any) -> Response:
    details = error.errors()
    is_json = all(detail["type"] != "json_invalid" for detail in details)
    return problem(422 if is_json else 400, why(details))


def why(details: Sequence[Any]) -> str:
    """What pydantic found, in words that do not repeat what was sent."""
    return "; ".join(
        f"{'.'.join(str(part) for part in detail['loc'])[:40] or 'body'}: {detail['msg']}"
        for detail in details[:3]
    )


def problem(status: int, detail: str, headers: Any = None) -> Response:
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return JSONResponse(document, status, headers, media_type="application/problem+json")


handlers: dict[Any, Any] = {
    **exception_handlers,
    HTTPException: refused,
    RequestValidationError: invalid,
}
