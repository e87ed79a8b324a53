"""What a callable asks for is read wherever it was written, and named where it cannot be."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import attrs
import pytest

from ringfence.injection.signatures import (
    Namespace,
    Unresolved,
    code_of,
    function_of,
    resolve,
    signature_of,
)

T = TypeVar("T")


class Pool:
    def fetch(self, query: str) -> str:
        return query

    @classmethod
    def made(cls, address: str) -> Pool:
        return cls()

    def __call__(self, query: str) -> str:
        return query


class Made:
    def __new__(cls, pool: Pool) -> Made:
        return super().__new__(cls)


class Repository:
    def __init__(self, pool: Pool) -> None: ...


def plain(pool: Pool) -> None: ...


@functools.wraps(plain)
def wrapped(*args: Any, **kwargs: Any) -> None: ...


# --- the function beneath ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "function"),
    [
        (plain, plain),
        (wrapped, plain),
        (functools.partial(plain, None), plain),
        (functools.partial(functools.partial(wrapped)), plain),
        (Pool().fetch, Pool.fetch),
        (functools.partial(Pool().fetch, "x"), Pool.fetch),
        (Pool.made, Pool.__dict__["made"].__func__),
        (Pool.__dict__["made"], Pool.__dict__["made"].__func__),
        (staticmethod(plain), plain),
        (Pool(), Pool.__call__),
        (Repository, Repository.__init__),
        (Made, Made.__new__),
        (len, len),
    ],
    ids=range(13),
)
def test_the_function_that_a_call_runs(source: Any, function: Any) -> None:
    assert function_of(source) is function
    assert code_of(source) is getattr(function, "__code__", None)


def test_what_is_not_pythons_has_no_code_and_may_have_no_signature() -> None:
    assert code_of(len) is None
    assert list(signature_of(plain).parameters) == ["pool"]
    assert list(signature_of(dict).parameters) == []


# --- annotations ------------------------------------------------------------------------------


def _resolved(source: Callable[..., Any], text: Any) -> Any:
    return resolve(text, Namespace(source, sys._getframe(1)))


def test_names_of_the_module_and_of_builtins() -> None:
    assert _resolved(plain, "Pool") is Pool
    assert _resolved(plain, "list[Pool] | None") == list[Pool] | None
    assert _resolved(plain, Pool) is Pool


def test_what_annotated_says_is_kept() -> None:
    assert _resolved(plain, "Annotated[Pool, 'main']") == Annotated[Pool, "main"]


def test_names_of_the_function_around() -> None:
    class Local:
        pass

    def local(it: Local) -> None: ...

    assert _resolved(local, "Local") is Local


def test_names_of_the_function_around_do_not_reach_into_what_was_written_elsewhere() -> None:
    Pool = int  # noqa: F841 - what the module calls so is meant

    assert _resolved(plain, "Pool") is globals()["Pool"]


def _closing_over(kind: type) -> Callable[..., Any]:
    def closing(it: Any) -> Any:
        return kind()

    return closing


def test_names_that_it_closes_over_though_their_function_has_returned() -> None:
    assert resolve("kind", Namespace(_closing_over(Pool), None)) is Pool


def test_a_name_that_is_closed_over_and_not_there_yet_is_unresolved() -> None:
    def closing(it: Any) -> Any:
        return later

    found = resolve("later", Namespace(closing, None))
    assert found == Unresolved("later", "later")
    later = Pool
    assert resolve("later", Namespace(closing, None)) is later


def test_names_of_a_class_whose_constructor_was_generated() -> None:
    @attrs.define
    class Orders:
        pool: Pool
        next: Orders | None = None

    namespace = Namespace(Orders, sys._getframe())
    assert resolve("Pool", namespace) is Pool
    assert resolve("Orders", namespace) is Orders


class Pair(NamedTuple):
    """Its constructor is generated with globals of its own, in which no module's name is."""

    pool: Pool


def test_names_of_the_module_of_a_named_tuple() -> None:
    assert resolve("Pool", Namespace(Pair, None)) is Pool


def test_a_class_knows_itself() -> None:
    class Node:
        def __init__(self, other: Node | None = None) -> None: ...

    assert resolve("Node", Namespace(Node, None)) is Node


def test_a_generic_keeps_its_variable() -> None:
    class Store(Generic[T]):
        def __init__(self, kind: type[T]) -> None: ...

    assert _resolved(Store, "type[T]") == type[T]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of Python 3.12")
def test_a_type_parameter_of_the_new_syntax_is_known() -> None:
    space: dict[str, Any] = {}
    exec("class Store[K]:\n    def __init__(self, kind: type[K]) -> None: ...", space)
    store = space["Store"]
    assert resolve("type[K]", Namespace(store, None)) == type[store.__type_params__[0]]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Nowhere", "Nowhere"),
        ("Pool[", "Pool["),
        (Annotated["Nowhere", 1], "Nowhere"),  # noqa: F821 - that is the point
    ],
)
def test_what_cannot_be_known_is_named_as_it_was_written(written: Any, text: str) -> None:
    found = _resolved(plain, written)
    assert isinstance(found, Unresolved)
    assert (found.text, found.written) == (text, written)
