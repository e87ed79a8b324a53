"""`@owned`, beyond law 4: classes of every kind, and every way to reach into an instance."""

from __future__ import annotations

import abc
import contextvars
import copy
import dataclasses
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import anyio
import attrs
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    NoContextError,
    OwnershipError,
    Ringfence,
    child_context,
    counters,
    current_scope,
    nobody,
    owned,
    task_group,
    user_context,
)
from ringfence.isolation import STAMP, stamp_of

T = TypeVar("T")


@owned
class Notes(list[Any]):
    pass


@owned
class Memory(dict[str, Any]):
    pass


@owned
class Words(set[str]):
    pass


@owned
@attrs.define
class Defined:
    __ringfence_owner__: Any = attrs.field(init=False, repr=False, eq=False)
    value: int = 1


@owned
@dataclasses.dataclass
class Card:
    value: int = 1


@owned
class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    def __contains__(self, item: object) -> bool:
        return True

    def __call__(self) -> T:
        return self.value

    def __enter__(self) -> None: ...

    def __exit__(self, *details: object) -> None: ...

    def __iter__(self) -> Iterator[T]:
        return iter(())

    def __add__(self, other: object) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return True

    @property
    def twice(self) -> int:
        return 2

    @classmethod
    def make(cls) -> Box[int]:
        return Box(1)

    @staticmethod
    def helper() -> int:
        return 3


class Abstract(abc.ABC):
    @abc.abstractmethod
    def run(self) -> int: ...

    def __len__(self) -> int:
        return 5


@owned
class Concrete(Abstract):
    def run(self) -> int:
        return 1


@owned
class Special(Memory):
    def __missing__(self, key: str) -> str:
        return key


@owned
class New:
    """Makes its instances itself, with arguments."""

    value: int

    def __new__(cls, value: int) -> New:
        self = super().__new__(cls)
        self.value = value
        return self


async def _of_alice(make: Callable[[], T]) -> tuple[Any, T]:
    block: Any = user_context("alice-1")
    await block.__aenter__()
    return block, make()


def _notes() -> Notes:
    return Notes([1, 2])


USES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list: length": (_notes, len),
    "list: item": (_notes, lambda o: o[0]),
    "list: slice": (_notes, lambda o: o[:]),
    "list: set": (_notes, lambda o: o.__setitem__(0, 9)),
    "list: iterate": (_notes, list),
    "list: unpack": (_notes, lambda o: [*o]),
    "list: contains": (_notes, lambda o: 1 in o),
    "list: append": (_notes, lambda o: o.append(3)),
    "list: add": (_notes, lambda o: o.__add__([1])),
    "list: compare": (_notes, lambda o: o == [1, 2]),
    "list: truth": (_notes, bool),
    "list: reversed": (_notes, reversed),
    "list: json": (_notes, json.dumps),
    "list: sorted": (_notes, sorted),
    "list: copy": (_notes, copy.copy),
    "list: deepcopy": (_notes, copy.deepcopy),
    "list: pickle": (_notes, pickle.dumps),
    "list: del": (_notes, lambda o: o.__delitem__(0)),
    "dict: item": (lambda: Memory(a=1), lambda o: o["a"]),
    "dict: get": (lambda: Memory(a=1), lambda o: o.get("a")),
    "dict: iterate": (lambda: Memory(a=1), list),
    "dict: copy": (lambda: Memory(a=1), dict),
    "dict: unpack": (lambda: Memory(a=1), lambda o: {**o}),
    "dict: merge": (lambda: Memory(a=1), lambda o: {} | o),
    "dict: update from": (lambda: Memory(a=1), lambda o: {}.update(o)),
    "dict: contains": (lambda: Memory(a=1), lambda o: "a" in o),
    "dict: keyword": (lambda: Memory(a=1), lambda o: (lambda **k: k)(**o)),
    "dict of a subclass": (lambda: Special(a=1), lambda o: o["b"]),
    "set: contains": (lambda: Words("ab"), lambda o: "a" in o),
    "set: length": (lambda: Words("ab"), len),
    "set: union": (lambda: Words("ab"), lambda o: o | {"c"}),
    "attrs: read": (Defined, lambda o: o.value),
    "attrs: write": (Defined, lambda o: setattr(o, "value", 2)),
    "attrs: compare": (Defined, lambda o: o == Defined()),
    "dataclass: read": (Card, lambda o: o.value),
    "dataclass: compare": (Card, lambda o: o == Card()),
    "dataclass: asdict": (Card, dataclasses.asdict),
    "dataclass: replace": (Card, lambda o: dataclasses.replace(o, value=2)),
    "attribute: read": (lambda: Box(1), lambda o: o.value),
    "attribute: write": (lambda: Box(1), lambda o: setattr(o, "new", 1)),
    "attribute: delete": (lambda: Box(1), lambda o: delattr(o, "value")),
    "attribute: missing": (lambda: Box(1), lambda o: o.missing),
    "attribute: property": (lambda: Box(1), lambda o: o.twice),
    "attribute: class method": (lambda: Box(1), lambda o: o.make()),
    "attribute: static method": (lambda: Box(1), lambda o: o.helper()),
    "attribute: hasattr": (lambda: Box(1), lambda o: hasattr(o, "value")),
    "operator: call": (lambda: Box(1), lambda o: o()),
    "operator: contains": (lambda: Box(1), lambda o: 1 in o),
    "operator: iterate": (lambda: Box(1), list),
    "operator: add": (lambda: Box(1), lambda o: o + 1),
    "operator: compare": (lambda: Box(1), lambda o: o == 1),
    "operator: hash": (lambda: Box(1), hash),
    "operator: truth": (lambda: Box(1), bool),
    "operator: with": (lambda: Box(1), lambda o: o.__enter__()),
    "operator: with statement": (lambda: Box(1), lambda o: type(o).__enter__(o)),
    "inherited: method": (Concrete, lambda o: o.run()),
    "inherited: length": (Concrete, len),
    "made with arguments": (lambda: New(7), lambda o: o.value),
}


@pytest.mark.parametrize("name", USES)
async def test_every_use_by_another_is_refused_and_by_the_tree_it_is_not(name: str) -> None:
    make, use = USES[name]
    async with user_context("alice-1"):
        thing = make()
        async with user_context("bob-22"):
            with pytest.raises(OwnershipError, match="belongs to request"):
                use(thing)
        async with nobody():
            with pytest.raises(OwnershipError):
                use(thing)
        async with child_context("tool"):
            try:
                use(thing)
            except (KeyError, AttributeError, TypeError, pickle.PicklingError):
                pass  # its own answer
    async with user_context("bob-22"):
        with pytest.raises(ContextClosedError):
            use(thing)
    with pytest.raises(ContextClosedError):
        use(thing)


async def test_without_a_scope_it_is_refused() -> None:
    async with user_context("alice-1"):
        thing, refused = Memory(a=1), []

        def work() -> None:
            try:
                len(thing)
            except NoContextError as error:
                refused.append(error.code)

        thread = threading.Thread(target=work)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
    assert refused == ["RF101"]


async def test_what_an_ended_child_left_behind_may_not_use_it() -> None:
    async with user_context("alice-1"):
        thing = Memory(a=1)
        async with child_context("tool"):
            held = contextvars.copy_context()
            assert held.run(len, thing) == 1
        with pytest.raises(ContextClosedError):
            held.run(len, thing)
        with pytest.raises(ContextClosedError):
            held.run(current_scope)
        assert len(thing) == 1


async def test_a_check_of_what_an_ended_request_owned_is_refused() -> None:
    async with user_context("alice-1") as alice:
        thing = Memory(a=1)
    async with user_context("bob-22"):
        for use in (current_scope().check, current_scope().own):
            with pytest.raises(ContextClosedError, match=alice.request_id):
                use(thing)


async def test_refusals_are_counted() -> None:
    async with user_context("alice-1"):
        thing = Notes()
        async with user_context("bob-22"):
            for _ in range(3):
                with pytest.raises(OwnershipError):
                    len(thing)
    assert counters.value("refused.RF202") == 3


async def test_what_stays_free() -> None:
    async with user_context("alice-1"):
        thing = Box(1)
    assert "Box" in repr(thing)
    assert isinstance(thing, Box)
    assert type(thing) is Box
    assert thing.__class__ is Box
    assert f"{thing!r}"


async def test_a_child_makes_it_for_the_whole_tree() -> None:
    async with user_context("alice-1"):
        async with child_context("tool"):
            thing = Notes([1])
        assert thing == [1]
        assert stamp_of(thing) is current_scope().root


async def test_nobodys_objects_are_owned_too() -> None:
    async with nobody():
        thing = Notes([1])
        assert len(thing) == 1
        async with user_context("alice-1"):
            with pytest.raises(OwnershipError):
                len(thing)


async def test_tasks_of_the_tree_may_use_it() -> None:
    async with user_context("alice-1"):
        thing = Notes()

        async def work(number: int) -> None:
            thing.append(number)

        async with task_group() as tasks:
            for number in range(3):
                tasks.start_soon(work, number)
        assert sorted(thing) == [0, 1, 2]


async def test_detached_work_is_another_request() -> None:
    refused: list[str] = []

    async def work(thing: Notes) -> None:
        try:
            len(thing)
        except (OwnershipError, ContextClosedError) as error:
            refused.append(error.code)

    fence = Ringfence()
    async with fence:
        async with fence.user_context("alice-1"):
            thing = Notes([1])
            await fence.detach(work, thing).wait()
            fence.detach(work, thing)
    assert refused == ["RF202", "RF102"]


async def test_made_outside_it_belongs_to_nobody_until_it_is_owned() -> None:
    thing = Memory(a=1)
    assert thing["a"] == 1
    async with user_context("alice-1"):
        assert thing["a"] == 1
        assert current_scope().own(thing) is thing
        async with user_context("bob-22"):
            with pytest.raises(OwnershipError):
                current_scope().own(thing)
            with pytest.raises(OwnershipError):
                _ = thing["a"]
    with pytest.raises(ContextClosedError):
        _ = thing["a"]


async def test_a_copy_of_it_is_its_trees() -> None:
    async with user_context("alice-1"):
        thing = Notes([[1]])
        for duplicate in (copy.copy(thing), copy.deepcopy(thing)):
            assert duplicate == thing
            async with user_context("bob-22"):
                with pytest.raises(OwnershipError):
                    len(duplicate)


async def test_inside_the_data_of_a_context_it_is_copied_for_its_own_tree_only() -> None:
    async with user_context("alice-1"):
        thing = Notes([1])
        async with child_context("tool", agent_context={"notes": thing}) as child:
            assert child.agent_context["notes"] == [1]
        async with user_context("bob-22"):
            with pytest.raises((OwnershipError, ValueError)):
                user_context("carol-3", agent_context={"notes": thing})


def test_the_class_is_the_same_and_says_what_it_did() -> None:
    class Plain:
        """Doc."""

        def __len__(self) -> int:
            """Length."""
            return 1

    marked = owned(Plain)
    assert marked is Plain
    assert (marked.__name__, marked.__doc__) == ("Plain", "Doc.")
    assert marked.__len__.__doc__ == "Length."
    assert Box[int] is not None
    assert Box.make().helper() == 3


def test_a_class_without_a_place_for_its_owner_is_refused() -> None:
    for make in (
        lambda: owned(attrs.define(type("Bare", (), {"__annotations__": {"x": int}}))),
        lambda: owned(type("Bare", (), {"__slots__": ()})),
        lambda: owned(type("Bare", (tuple,), {"__slots__": ()})),
    ):
        with pytest.raises(ConfigurationError, match=f"no place for their owner.*{STAMP}"):
            make()


async def test_a_method_that_raises_raises_its_own() -> None:
    async with user_context("alice-1"):
        with pytest.raises(KeyError, match="missing"):
            Memory()["missing"]
        with pytest.raises(TypeError, match="unhashable"):
            hash(Notes())
