"""A Python file as text, and back into the bytes that it was read from."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from pathlib import Path

import attrs

__all__ = ["Source", "UnreadableError", "decode", "read"]


class UnreadableError(Exception):
    """A file that cannot be dealt with: the rule that says so, the line, and the reason."""

    def __init__(self, code: str, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.code, self.reason, self.line = code, reason, line


@attrs.frozen
class Source:
    """
    A text and its encoding; `utf8` is what offsets count in.

    `encode(utf8)` gives the bytes of the file: byte order mark, line ends and encoding are kept.
    """

    utf8: bytes
    encoding: str

    def encode(self, utf8: bytes) -> bytes:
        """Text of this source, edited, as bytes of its file."""
        return utf8.decode().encode(self.encoding)


def read(path: Path) -> bytes:
    """
    The bytes of a file.

    Raises `UnreadableError` if there are none to be had.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError("RM902", error.strerror or str(error)) from None


def decode(data: bytes) -> Source:
    """
    The text of a file by its byte order mark and its PEP 263 cookie, which has to be Python.

    Raises `UnreadableError` if it is no text, or this Python cannot parse it.
    """
    if b"\0" in data:
        raise UnreadableError("RM902", "it holds null bytes")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UnreadableError("RM902", f"not decoded: {error}") from None
    if text.encode(encoding) != data:
        raise UnreadableError("RM903", f"its {encoding} does not encode to the same bytes")
    refuse_unparsed(data)
    return Source(text.encode(), encoding)


def refuse_unparsed(data: bytes) -> None:
    """
    Python's own parser first: it is fast, and says no where others would fall over.

    Raises `UnreadableError` if it says no.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in somebody else's strings
            ast.parse(data)
    except SyntaxError as error:
        reason = f"not parsed: {error.msg}"
        raise UnreadableError("RM901", reason, error.lineno or 1) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UnreadableError("RM901", f"not parsed: {error}") from None
