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
from .disconnect import f_disconnect
from .naive import create_naive_app
from .serving import serve
from .shutdown import g_shutdown
from .stage import Failed, Stage
from .steps import Steps
from .watching import h_watching

TIME_LIMIT = 30  # seconds; it takes about five


async def walk_through(stage: Stage, only: str | None) -> None:
    if only in (None, "a-e"):
        await mix_up(stage)
    if only in (None, "f"):
        await f_disconnect(stage)
    if only in (None, "g"):
        await g_shutdown(stage)
    if only in (None, "h"):
        await h_watching(stage)
    screen.title("end", "what is left of all that")
    screen.good(str(await stage.nothing_left()))


async def mix_up(stage: Stage) -> None:
    steps = Steps(stage)
    screen.progress("serving a naive application ...")
    async with serve(create_naive_app(stage.identify)) as port:
        await steps.a_naive(port)

    screen.progress("serving the agent chat, behind ringfence ...")
    async with serve(stage.app("chat", steps.mistakes.router)) as port:
        await steps.b_fenced(port)
        await steps.c_two_users(port)
        await steps.d_captured_session(port)
        await steps.e_late_work(port)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.agent_chat.demo",
        description="Try to mix up two users of the agent chat, with and without ringfence.",
        epilog="Exit code: 0 if every step showed what it claims, else 1 and the cause. Results "
        "go to stdout, progress to stderr; colour on a terminal only, never with NO_COLOR.",
    )
    parser.add_argument("--verbose", action="store_true", help="show what the server logs")
    parser.add_argument("--only", choices=("a-e", "f", "g", "h"), help="these steps alone")
    options = parser.parse_args(arguments)
    level = logging.INFO if options.verbose else logging.CRITICAL
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="ringfence-demo-") as folder:
            asyncio.run(
                asyncio.wait_for(walk_through(Stage(Path(folder)), options.only), TIME_LIMIT)
            )
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
