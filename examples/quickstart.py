"""Two users at once, and nobody passes the user along. Run: `python examples/quickstart.py`"""

import asyncio

from ringfence import NoContextError, current_context, user_context


async def handle(user_id: str) -> None:
    async with user_context(user_id):
        await asyncio.gather(tool("search", 0.01), tool("summary", 0.02))


async def tool(name: str, seconds: float) -> None:
    await asyncio.sleep(seconds)  # meanwhile the other user's tools run
    say(name)


def say(text: str) -> None:
    print(current_context().user_id, text)


async def main() -> None:
    await asyncio.gather(handle("ann"), handle("bob"))
    try:
        say("outside")
    except NoContextError as error:
        print(f"{error.code} {error}")


asyncio.run(main())
