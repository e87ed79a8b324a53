"""`python -m examples.agent_chat`: serve the agent chat."""

from __future__ import annotations

import argparse
import importlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

import uvicorn
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, InvalidRequestError

from ringfence import ConfigurationError

from . import sign_in, tools
from .agent import Work
from .app import create_app
from .database import URL_VARIABLE, sqlite_url
from .tokens import KEY_VARIABLE, bearer
from .users import Users, demo_users
from .validation import MAX_BODY

GRACE = 5  # seconds that a request may go on after Ctrl-C, before it is cancelled
AGENTS = {"built-in": "planner", "pydantic-ai": "pydantic_agent"}  # and the module that has it

ROUTES = """\
  POST /agent/chat      a question, answered as JSON
  POST /agent/stream    the same, word by word, as server-sent events
       /agent/ws        a WebSocket; each message is a question
  GET  /agent/messages  what the bearer of the token said, and was answered
       /events          what the agents do for the bearer of the token, as it happens: a
                        WebSocket, or server-sent events; ?last_event_id= resumes
  GET  /notes           what the agent noted for the bearer of the token
  POST /notes/summary   starts a job that summarises them; GET shows what came of it
  POST /sign-in         a token for a user and a password
  GET  /                a page to chat with, and to watch the agents at work

environment:
  {key}           the key that tokens are signed with, of at least 32
                                  characters; if it is not set, one is made and shown
  {url}  as --database-url

for example, with PostgreSQL:
  python -m examples.agent_chat --database-url postgresql://user:password@localhost/chat

with the agents of a framework, and an offline model:
  python -m examples.agent_chat --agent pydantic-ai
"""

HELP = """
{where}
Open http://{host}:{port}/ in two windows, and sign in as one of these in each:

{passwords}

Or get a token, and ask something (in another terminal, in this folder):

  {key}TOKEN=$({python} -m examples.agent_chat.tokens ann)
  ask() {{ curl -sN http://{host}:{port}$1 -H "Authorization: Bearer $TOKEN" \\
    -H "Content-Type: application/json" "${{@:2}}"; echo; }}
  SAID='{{"message": "what did I note today", "thread_id": "t-1", "run_id": "r-1"}}'

  ask /agent/chat -d "$SAID"
  ask /agent/stream -d "$SAID"
  ask /notes
  ask /notes/summary -X POST && sleep 1 && ask /notes/summary
  ask /events           # shows what the agents do, until you end it

Ctrl-C ends the service.
"""


def seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 60:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 60")
    return number


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.agent_chat",
        description="Serve the agent chat, for bearers of tokens:",
        epilog=ROUTES.format(key=KEY_VARIABLE, url=URL_VARIABLE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--database-url",
        metavar="URL",
        default=os.environ.get(URL_VARIABLE),
        help="sqlite:///FILE or postgresql://...; default: a temporary SQLite file",
    )
    parser.add_argument(
        "--agent",
        choices=AGENTS,
        default="built-in",
        help="what drives the tools; default: built-in",
    )
    parser.add_argument(
        "--pace",
        type=seconds,
        metavar="SECONDS",
        default=0.5,
        help="how long a tool takes, so that one can watch; default: 0.5",
    )
    args = parser.parse_args()
    tools.PACE = args.pace
    try:
        work: Work = importlib.import_module(f".{AGENTS[args.agent]}", __package__).work
    except ImportError as error:
        parser.error(f"--agent {args.agent}: {error}")

    key = os.environ.get(KEY_VARIABLE, "")
    show_key = ""
    if not key:
        key = secrets.token_hex(32)
        show_key = f"export {KEY_VARIABLE}={key}\n  "
    users = demo_users()
    with tempfile.TemporaryDirectory(prefix="ringfence-agent-chat-") as folder:
        url = args.database_url or sqlite_url(Path(folder) / "chat.db")
        try:
            app = create_app(url, bearer(key), sign_in.router_of(Users(*users), key), work=work)
        except ConfigurationError as error:
            parser.error(f"{KEY_VARIABLE}: {error}")
        except (ArgumentError, InvalidRequestError, ModuleNotFoundError) as error:
            parser.error(f"--database-url: {error}")
        where = f"Notes are kept in {make_url(url)}" + (
            "." if args.database_url else " until it ends."
        )
        print(
            HELP.format(
                where=where,
                passwords="\n".join(f"  {each.user_id}   {each.password}" for each in users),
                key=show_key,
                python=sys.executable,
                host=args.host,
                port=args.port,
            ),
            flush=True,
        )
        uvicorn.run(
            app,
            host=args.host,
            port=args.port,
            timeout_graceful_shutdown=GRACE,
            ws_max_size=MAX_BODY,
            # uvicorn starts a pipelined request in the previous one's context unless told not
            # to. ringfence does not need this; libraries with context variables of their own do.
            reset_contextvars=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
