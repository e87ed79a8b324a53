"""Keys: what an annotation is looked up by, and how it is written in messages."""

from __future__ import annotations

import typing
from typing import Annotated, Any

import pytest

from ringfence.injection import Injected, Qualifier
from ringfence.injection.keys import is_injected, key_of, label_of, without_none

MAIN, SPARE = Qualifier("main"), Qualifier("spare")


@pytest.mark.parametrize(
    ("annotation", "key"),
    [
        (int, int),
        (Annotated[int, "words", []], int),
        (Annotated[int, "words", MAIN], Annotated[int, MAIN]),
        (Annotated[int, MAIN, SPARE], Annotated[int, MAIN, SPARE]),
        (Injected[int], int),
        (Injected[Annotated[int, MAIN]], Annotated[int, MAIN]),
        (list[int], list[int]),
    ],
    ids=repr,
)
def test_only_qualifiers_are_part_of_a_key(annotation: Any, key: Any) -> None:
    assert key_of(annotation) == key


@pytest.mark.parametrize(
    ("annotation", "wanted", "is_optional"),
    [
        (int, int, False),
        (int | None, int, True),
        (typing.Optional[int], int, True),  # noqa: UP045 - what is tried
        (int | str | None, int | str, True),
        (int | str, int | str, False),
        (Annotated[int | None, MAIN], Annotated[int, MAIN], True),
        (Injected[int | None], Injected[int], True),
    ],
    ids=repr,
)
def test_what_may_be_missing(annotation: Any, wanted: Any, is_optional: bool) -> None:
    assert without_none(annotation) == (wanted, is_optional)


def test_what_is_marked() -> None:
    assert is_injected(Injected[int])
    assert is_injected(Injected[Annotated[int, MAIN]])
    assert not is_injected(Annotated[int, MAIN])
    assert not is_injected(int)


@pytest.mark.parametrize(
    ("key", "label"),
    [
        (int, "int"),
        (type(None), "None"),
        (list[int], "list[int]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (int | str, "int | str"),
        (Annotated[int, MAIN], 'Annotated[int, Qualifier("main")]'),
        (Qualifier, "Qualifier"),
    ],
    ids=repr,
)
def test_how_a_key_is_written(key: Any, label: str) -> None:
    assert label_of(key) == label
