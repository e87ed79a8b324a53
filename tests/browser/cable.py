"""A cable between browser and server that can be cut and mended: connections are lost for real."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any


class Cable:
    """Lives as long as the block of `laid`. Whoever plugs in at `port` is talking to `server`."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.port = 0
        self._is_cut = False
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def cut(self) -> None:
        """Reset what is connected, and refuse what comes, until it is mended."""
        self._is_cut = True
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._is_cut = False

    async def _plugged_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self.server)
        except OSError:  # the server is being restarted
            writer.transport.abort()
            return
        for source, target in ((reader, ours), (theirs, writer)):
            self._ends.add(target)
            task = asyncio.create_task(self._pass_on(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while content := await source.read(65536):
                target.write(content)
                await target.drain()
        self._ends.discard(target)
        target.close()


@contextlib.asynccontextmanager
async def laid(server: int) -> AsyncIterator[Cable]:
    cable = Cable(server)
    listener = await asyncio.start_server(cable._plugged_in, "127.0.0.1", 0)
    cable.port = listener.sockets[0].getsockname()[1]
    try:
        yield cable
    finally:
        cable.cut()
        listener.close()
        await asyncio.gather(*cable._tasks, return_exceptions=True)
