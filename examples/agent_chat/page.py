"""`/`: a page to try the WebSocket with. It belongs to nobody, and shows nobody's data."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; form-action 'self'"
)

router = APIRouter()


@router.get("/", response_class=FileResponse)
async def page() -> FileResponse:
    return FileResponse(PAGE, headers={"content-security-policy": POLICY})
