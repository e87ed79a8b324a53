"""`python -m examples.agent_chat`: serve the agent chat."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

import uvicorn

from ringfence import ConfigurationError

from .app import create_app
from .tokens import KEY_VARIABLE, bearer

HELP = """
{where}
Get a token, and ask something (in another terminal, in this folder):

  {key}TOKEN=$({python} -m examples.agent_chat.tokens ann)
  curl http://{host}:{port}/agent/chat -H "Authorization: Bearer $TOKEN" \\
    -H "Content-Type: application/json" \\
    -d '{{"message": "what did I note today", "thread_id": "t-1", "run_id": "r-1"}}'
  curl http://{host}:{port}/notes -H "Authorization: Bearer $TOKEN"

Ctrl-C ends it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.agent_chat",
        description="Serve the agent chat: POST /agent/chat and GET /notes, for bearers of tokens.",
        epilog=f"{KEY_VARIABLE}: the key that tokens are signed with, of at least 32 characters; "
        "if it is not set, one is made and shown.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--database", metavar="FILE", type=Path, help="default: a temporary one")
    args = parser.parse_args()

    key = os.environ.get(KEY_VARIABLE, "")
    show_key = ""
    if not key:
        key = secrets.token_hex(32)
        show_key = f"export {KEY_VARIABLE}={key}\n  "
    try:
        identify = bearer(key)
    except ConfigurationError as error:
        parser.error(f"{KEY_VARIABLE}: {error}")
    with tempfile.TemporaryDirectory(prefix="ringfence-agent-chat-") as folder:
        database = args.database or Path(folder) / "chat.db"
        app = create_app(database, identify)
        where = f"Notes are kept in {database}" + ("." if args.database else " until it ends.")
        print(
            HELP.format(
                where=where, key=show_key, python=sys.executable, host=args.host, port=args.port
            ),
            flush=True,
        )
        # uvicorn starts a pipelined request in the previous one's context unless told not to.
        # ringfence does not need this; libraries with context variables of their own do.
        uvicorn.run(app, host=args.host, port=args.port, reset_contextvars=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
