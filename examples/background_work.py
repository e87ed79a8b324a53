"""
Work that ends with the request, work that outlives it, and work that is refused.

`task_group()` is for tasks that the request waits for; `fence.detach` for those it does not.
A plain `create_task` keeps the request's context after the request: it is refused.

    python examples/background_work.py
"""

import asyncio

from ringfence import ContextClosedError, Ringfence, current_context, task_group

fence = Ringfence()


async def index(document: str) -> None:
    await asyncio.sleep(0.02)
    ctx = current_context()
    print(f"indexed {document} for {ctx.user_id} in request {ctx.request_id[:4]}")


async def main() -> None:
    async with fence:  # in a web application: lifespan=fence.lifespan
        async with fence.user_context("ann") as ctx:
            print(f"request {ctx.request_id[:4]} begins")
            async with task_group() as tasks:
                tasks.start_soon(index, "a.txt")  # done before the block ends
            work = fence.detach(index, "b.txt")  # a new root scope, same user
            orphan = asyncio.create_task(index("c.txt"))  # nobody waits for this one
        print(f"request {ctx.request_id[:4]} ended")

        await work.wait()  # only so that the output is in order; the fence waits anyway
        try:
            await orphan
        except ContextClosedError as error:
            print(f"{error.code} refused c.txt: {error.fact.partition(', opened')[0]} has ended")


asyncio.run(main())
