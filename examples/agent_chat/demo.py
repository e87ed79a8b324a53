"""`make demo`: tries to mix up two users of the agent chat, with and without ringfence."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from . import screen
from .app import create_app
from .database import sqlite_url
from .disconnect import f_disconnect
from .naive import create_naive_app
from .serving import serve
from .shutdown import g_shutdown
from .stage import Failed, Stage, nothing_left
from .steps import Steps
from .tokens import bearer

TIME_LIMIT = 30  # seconds; it takes about four


async def walk_through(folder: Path) -> None:
    stage = Stage(folder / "chat.db")
    steps = Steps(stage)
    identify = bearer(stage.key)
    screen.progress("serving a naive application ...")
    async with serve(create_naive_app(identify)) as port:
        await steps.a_naive(port)

    app = create_app(sqlite_url(stage.database), identify, steps.mistakes.router)
    screen.progress("serving the agent chat, behind ringfence ...")
    async with serve(app) as port:
        await steps.b_fenced(port)
        await steps.c_two_users(port)
        await steps.d_captured_session(port)
        await steps.e_late_work(port)
        await f_disconnect(stage, port, app.state.engine.pool)
    await g_shutdown(Stage(folder / "shutdown.db"))
    await nothing_left(app.state.engine.pool)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.agent_chat.demo",
        description="Try to mix up two users of the agent chat, with and without ringfence.",
        epilog="Exit code: 0 if every step showed what it claims, else 1 and the cause. Results "
        "go to stdout, progress to stderr; colour on a terminal only, never with NO_COLOR.",
    )
    parser.add_argument("--verbose", action="store_true", help="show what the server logs")
    options = parser.parse_args(arguments)
    level = logging.INFO if options.verbose else logging.CRITICAL
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="ringfence-demo-") as folder:
            asyncio.run(asyncio.wait_for(walk_through(Path(folder)), TIME_LIMIT))
    except KeyboardInterrupt:
        return 130
    except Failed as failed:
        screen.failed(str(failed))
        return 1
    except Exception as error:
        screen.failed(f"{type(error).__name__}: {error}")
        return 1
    print(f"demo ok in {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
