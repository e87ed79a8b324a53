"""The servers that are tried, and what one is started with."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import attrs


@attrs.frozen
class Configuration:
    """One way to run a server."""

    server: str
    loop: str = "asyncio"
    http: str = "h11"
    ws: str = "auto"

    def __str__(self) -> str:
        parts = [self.server, self.loop]
        return " ".join([*parts, self.http, self.ws] if self.server == "uvicorn" else parts)

    @property
    def missing(self) -> list[str]:
        """What would have to be installed."""
        needed = {self.server, self.loop, self.http}
        if self.ws != "auto":
            needed.add(self.ws.partition("-")[0])
        if self.server != "uvicorn":
            needed.discard("h11")
        return sorted(name for name in needed if importlib.util.find_spec(name) is None)


CONFIGURATIONS = [
    *(
        Configuration("uvicorn", loop, http, ws)
        for loop in ("asyncio", "uvloop")
        for http in ("h11", "httptools")
        for ws in ("websockets", "websockets-sansio", "wsproto")
    ),
    *(Configuration("hypercorn", loop) for loop in ("asyncio", "uvloop", "trio")),
    *(Configuration("granian", loop) for loop in ("asyncio", "uvloop")),
    Configuration("daphne"),
]


@attrs.frozen
class Options:
    """
    What a server is started with.

    Attributes:
        journal: where its application writes down what it does.
        grace: seconds that the server is told to give to requests when it is stopped.
        drain: the fence's `drain_timeout`.
        is_control: whether the fence stays out of the application's lifespan.
    """

    configuration: Configuration
    journal: Path
    grace: int | None = None
    drain: float = 5
    is_control: bool = False

    def dump(self) -> str:
        return json.dumps(attrs.asdict(self), default=str)

    @staticmethod
    def load(line: str) -> Options:
        found = json.loads(line)
        configuration = Configuration(**found.pop("configuration"))
        return Options(configuration, Path(found.pop("journal")), **found)
