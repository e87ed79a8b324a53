"""A user's scenario, checked: who logs in how, and what they ask."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError, RingfenceError
from .requests import Answer, Headers, Request, WebSocket, headers_of

__all__ = ["Scenario", "load_scenario"]

Send = Callable[[Request], Awaitable[Answer]]
MOST = 1000  # requests of one round; more is taken for a generator without an end
_WHAT_IT_NEEDS = (
    "A scenario has `async def login(n)`, which returns headers, and `def requests(n, canary)`, "
    "which yields `Request`s; `ringfence torture --init` writes one."
)


class Scenario:
    """
    An object or module with `login` and `requests`, wrapped so that its mistakes are named.

    Lives as long as the run.

    Raises:
        ConfigurationError: it lacks one of the two.
    """

    def __init__(self, given: Any) -> None:
        if inspect.isclass(given):
            given = given()
        for name in ("login", "requests"):
            if not callable(getattr(given, name, None)):
                raise ConfigurationError(
                    f"The scenario {_name(given)} has no `{name}`.", _WHAT_IT_NEEDS
                )
        self._given = given
        self._extras = _extras_of(given.login)

    @property
    def asks_as_nobody(self) -> bool:
        """Whether requests may be repeated without a login."""
        return bool(getattr(self._given, "anonymous", True))

    @property
    def has_rows(self) -> bool:
        """Whether it reads the database."""
        return callable(getattr(self._given, "rows", None))

    async def login(self, n: int, canary: str, send: Send) -> Headers:
        """The headers of user `n`."""
        extras = {"canary": canary, "send": send}
        try:
            headers = self._given.login(n, **{name: extras[name] for name in self._extras})
            return headers_of(await headers if inspect.isawaitable(headers) else headers)
        except (RingfenceError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise _failed(f"login({n})", error) from error

    def requests(self, n: int, canary: str) -> list[Request | WebSocket]:
        """A round of user `n`."""
        try:
            asked = list(itertools.islice(self._given.requests(n, canary), MOST + 1))
        except RingfenceError:
            raise
        except Exception as error:
            raise _failed(f"requests({n}, canary)", error) from error
        for one in asked:
            if not isinstance(one, (Request, WebSocket)):
                raise ConfigurationError(
                    f"`requests({n}, canary)` yielded {one!r:.80}.",
                    "It yields `Request` and `WebSocket` of `ringfence.testing.torture`.",
                )
        if not asked or len(asked) > MOST:
            raise ConfigurationError(
                f"`requests({n}, canary)` yielded "
                + ("no request." if not asked else f"more than {MOST} requests."),
                "It yields what a user does in one round; it is called again for each.",
            )
        return asked

    async def rows(self) -> list[tuple[int, str]]:
        """What the scenario has read from the database: the owner's number, and a text."""
        try:
            found: Any = self._given.rows()
            if hasattr(found, "__aiter__"):
                found = [row async for row in found]
            elif inspect.isawaitable(found):
                found = await found
            return [(int(owner), str(text)) for owner, text in _iterable(found)]
        except Exception as error:
            raise _failed("rows()", error) from error


def _iterable(found: Any) -> Iterable[Any]:
    return found if found is not None else ()


def _failed(what: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"The scenario's `{what}` raised {type(error).__name__}: {error!s:.300}",
        "Mend it, or what it asked of the application.",
    )


def _name(given: Any) -> str:
    return f"`{getattr(given, '__name__', None) or type(given).__name__}`"


def _extras_of(login: Callable[..., Any]) -> list[str]:
    """Which of `canary` and `send` it takes besides the number."""
    names = list(inspect.signature(login).parameters)[1:]
    unknown = set(names) - {"canary", "send"}
    if unknown or not inspect.signature(login).parameters:
        raise ConfigurationError(
            "The scenario's `login` takes "
            + (f"`{min(unknown)}`." if unknown else "nothing, not even the user's number."),
            "It takes the user's number `n`, and, if it has parameters of these names, `canary` "
            "and `send`.",
        )
    return names


def load_scenario(address: str) -> Any:
    """
    The scenario that `module:name` or `file.py:name` names; the module itself without a name.

    A module's `scenario` is taken, if it has one and nothing else is named.

    Raises:
        ConfigurationError: there is none.
    """
    where, _, name = address.partition(":")
    module = _module_of_file(Path(where)) if where.endswith(".py") else _module(where)
    if not name:
        return getattr(module, "scenario", module)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ConfigurationError(
            f"`{where}` has no `{name}`.", "Name what it has: `--scenario module:name`."
        ) from None


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"The scenario's module `{name}` cannot be imported: {error}.",
            "Start the command where `python -c 'import ...'` finds it, or give the path of a "
            "file: `--scenario tests/torture.py:scenario`.",
        ) from error


def _module_of_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise ConfigurationError(
            f"There is no file `{path}`.", "`ringfence torture --init` writes a scenario."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module
