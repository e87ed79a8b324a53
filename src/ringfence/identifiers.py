"""Identifiers: generating them, and refusing those that name nobody."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable

import attrs

from .errors import ContextLimitError, InvalidContextError, WrongTypeError

__all__ = ["IdRules", "generate_id"]

logger = logging.getLogger("ringfence.identifiers")

PLACEHOLDERS = frozenset(
    "registry placeholder default temp none null undefined 0 1 xxx yyy example test demo sample "
    "template mock fake dummy anonymous todo".split()
)
PLACEHOLDER_PREFIXES = frozenset(
    "placeholder registry default temp test example demo sample template mock fake".split()
)
PATTERN = r"[A-Za-z0-9_-][A-Za-z0-9._:@|+=/-]*"
_MAX_KNOWN = 4096
SHORT = 20
"""Values of this length or longer are never taken for placeholders."""

_SETTINGS = {"characters": "id_pattern", "placeholder": "id_placeholders", "prefix": "id_prefixes"}
_head = re.compile(r"([a-z0-9]+)[-_.:]").match
_POOL_SIZE = 512
_VERSION = bytes(0x40 | (byte & 0x0F) for byte in range(256))
_VARIANT = bytes(0x80 | (byte & 0x3F) for byte in range(256))
_COLUMNS = [column for column in range(36) if column not in (8, 13, 18, 23)]
_pool: list[str] = []
os.register_at_fork(after_in_child=_pool.clear)


def generate_id() -> str:
    """
    A new random UUID (version 4) as text, 36 characters.

    Taken from a pool that one call of `os.urandom` fills, which costs a tenth of
    `uuid.uuid4`; the pool is dropped in a forked child.

    >>> len(generate_id())
    36
    """
    try:
        return _pool.pop()
    except IndexError:
        fresh = _random_uuids(_POOL_SIZE)
        _pool.extend(fresh[1:])
        return fresh[0]


def _random_uuids(count: int) -> list[str]:
    """
    Write the ids column by column, so that the work is done by strided copies.

    Source of the layout: RFC 9562, sections 4.1 and 5.4.
    """
    raw = bytearray(os.urandom(16 * count))
    raw[6::16] = raw[6::16].translate(_VERSION)
    raw[8::16] = raw[8::16].translate(_VARIANT)
    digits = raw.hex().encode()
    text = bytearray(b"-" * (37 * count))
    for digit, column in enumerate(_COLUMNS):
        text[column::37] = digits[digit::32]
    text[36::37] = b"\n" * count
    return text.decode().split()


@attrs.frozen
class IdRules:
    """
    What an id must look like; belongs to `Settings` and lives as long.

    An id is a non-empty `str` (no subclass) that matches `pattern` as a whole, is at most
    `max_length` characters long and is no placeholder: not one of `placeholders`, and, below
    20 characters, not one of `prefixes` followed by `_ - .` or `:`, in any case. Values are
    refused, never normalised.

    Args:
        mode: `strict` raises; `warning` logs what strict would refuse by the placeholder rules
            or the pattern, as long as the value is printable, and accepts it.
    """

    mode: str = "strict"
    pattern: str = PATTERN
    max_length: int = 128
    placeholders: frozenset[str] = PLACEHOLDERS
    prefixes: frozenset[str] = PLACEHOLDER_PREFIXES
    is_plainly_valid: Callable[[str], object] = attrs.field(init=False, eq=False, repr=False)
    are_plainly_valid: Callable[[str], object] = attrs.field(init=False, eq=False, repr=False)
    """Of three ids joined by newlines. A look that decides most ids; no answer means `check`."""
    known: set[str] = attrs.field(init=False, eq=False, repr=False, factory=set)
    """Ids that `learn` found valid, a bounded number of them."""
    _is_match: Callable[[str], object] = attrs.field(init=False, eq=False, repr=False)
    _is_prefixed: Callable[[str], object] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            whole = re.compile(f"(?:{self.pattern})")
            # Long enough that no placeholder rule applies: one look decides most ids.
            if self.max_length < SHORT:
                long, three = "(?!)", re.compile("(?!)")
            elif self.pattern == PATTERN:
                long = f"{PATTERN[:-1]}{{{SHORT - 1},{self.max_length - 1}}}"
                three = re.compile("\n".join([long] * 3))  # PATTERN matches no newline
            else:
                long = rf"(?=[!-~]{{{SHORT},{self.max_length}}}\Z)(?:{self.pattern})"
                three = re.compile(r"(?!)")
            plain = re.compile(long)
        except re.error as error:
            raise InvalidContextError(
                f"The pattern for ids is not a regular expression: {error}.",
                "Correct `Settings.id_pattern`.",
                field="id_pattern",
                rule="pattern",
            ) from None
        object.__setattr__(self, "_is_match", whole.fullmatch)
        words = "|".join(re.escape(word) for word in sorted(self.prefixes)) or "(?!)"
        object.__setattr__(self, "_is_prefixed", re.compile(f"(?:{words})[-_.:]").match)
        object.__setattr__(self, "is_plainly_valid", plain.fullmatch)
        object.__setattr__(self, "are_plainly_valid", three.fullmatch)

    def learn(self, field: str, value: object) -> None:
        """`check`, and keep a valid value in `known`, for the next look: users come back."""
        valid = self.check(field, value)
        if self.mode == "strict":  # else it may have been warned of, and will be again
            if len(self.known) >= _MAX_KNOWN:
                self.known.clear()
            self.known.add(valid)

    def check(self, field: str, value: object) -> str:
        """
        Return `value` if it may be the id called `field`.

        Raises:
            InvalidContextError: naming the field and the rule (`WrongTypeError` for another
                type, `ContextLimitError` if too long).
        """
        if type(value) is not str:
            raise WrongTypeError(
                f"`{field}` must be a `str`, not `{type(value).__name__}`.",
                "Pass text, for example `str(user.id)`.",
                field=field,
                rule="type",
            )
        is_plain, is_match, is_prefixed = self.is_plainly_valid, self._is_match, self._is_prefixed
        if len(value) >= SHORT and is_plain(value):
            return value
        lowered = value.lower()
        if (
            lowered not in self.placeholders
            and is_match(value)
            and value.isprintable()
            and not is_prefixed(lowered)
            and len(value) <= self.max_length
        ):
            return value
        self._refuse_by_rule(field, value, lowered)
        return value

    def _refuse_by_rule(self, field: str, value: str, lowered: str) -> None:
        if not value or value.isspace():
            raise InvalidContextError(
                f"`{field}` is empty.", "Pass the id itself.", field=field, rule="blank"
            )
        if len(value) > self.max_length:
            raise ContextLimitError(
                f"`{field}` has {len(value)} characters, {self.max_length} are allowed.",
                "Pass the id itself, or raise `Settings.id_max_length`.",
                field=field,
                rule="length",
            )
        if not self._is_match(value) or not value.isprintable():
            self._refuse_characters(field, value)
        elif lowered in self.placeholders:
            self._refuse(field, value, "placeholder", "is a placeholder, not an id")
        elif len(value) < SHORT and (head := _head(lowered)) and head[1] in self.prefixes:
            self._refuse(field, value, "prefix", "begins like a placeholder")

    def _refuse_characters(self, field: str, value: str) -> None:
        odd = next((char for char in value if not self._is_match(f"x{char}x")), value[0])
        what = f"holds the character U+{ord(odd):04X}, or has it in a place, that ids may not have"
        if not value.isprintable():
            raise InvalidContextError(
                f"`{field}` {what}.",
                "Ids are never cleaned up: pass the right one.",
                field=field,
                rule="characters",
            )
        self._refuse(field, value, "characters", what)

    def _refuse(self, field: str, value: str, rule: str, what: str) -> None:
        if self.mode == "warning":
            logger.warning("`%s` %s (rule %s): %r", field, what, rule, value)
            return
        raise InvalidContextError(
            f"`{field}` {what}.",
            "Pass the id of a real user or run; if yours look like this, set "
            f"`Settings.{_SETTINGS[rule]}`.",
            field=field,
            rule=rule,
        )
