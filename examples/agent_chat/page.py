"""`/`: a page to chat and watch agents. It belongs to nobody, and shows nobody's data."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html").read_text("utf-8")


def only(element: str) -> str:
    """A source that allows this page's own `<script>` or `<style>`, and no other."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {only('script')}",
            f"style-src {only('style')}",
            "connect-src 'self'",
            "img-src data:",  # the icon, which is empty
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

router = APIRouter()


@router.get("/", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE, headers=HEADERS)
