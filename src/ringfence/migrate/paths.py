"""Path patterns: `*` within a folder's name, `**` across folders, as in `.gitignore`."""

from __future__ import annotations

import functools
import re

__all__ = ["matches", "shown"]

_WILD = re.compile(r"\*\*/|\*\*|\*|\?")
_MEANS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    parts, end = [], 0
    for wild in _WILD.finditer(pattern):
        parts += [re.escape(pattern[end : wild.start()]), _MEANS[wild[0]]]
        end = wild.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]), re.DOTALL)


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """
    Whether a path, written with `/`, fits one of the patterns.

    >>> matches("app/routes/chat.py", ("**/routes/**",)), matches("a/b.py", ("*.py",))
    (True, False)
    """
    return any(_expression(pattern).fullmatch(path) for pattern in patterns)


def shown(path: str) -> str:
    r"""
    A path for people, also where its name is no text.

    >>> shown("caf\udce9.py")
    'caf\\xe9.py'
    """
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
