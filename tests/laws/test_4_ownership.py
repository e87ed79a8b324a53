"""Law 4. What is owned stays inside its request tree; compared at use."""

from __future__ import annotations

import threading

import anyio
import pytest

from ringfence import (
    ConfigurationError,
    ContextClosedError,
    ContextLimitError,
    NoContextError,
    OwnershipError,
    Ringfence,
    SessionIsolationError,
    Settings,
    SharedObjectError,
    WrongTypeError,
    child_context,
    current_context,
    current_scope,
    nobody,
    owned,
    register_shared_object,
    user_context,
)
from ringfence.isolation import registry


@owned
class Memory:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def add(self, note: str) -> None:
        self.notes.append(note)

    def __len__(self) -> int:
        return len(self.notes)

    def __getitem__(self, index: int) -> str:
        return self.notes[index]


@owned
class Slotted:
    __slots__ = ("__ringfence_owner__", "value")

    def __init__(self) -> None:
        self.value = 1


@owned
class Tool:
    def __call__(self) -> str:
        return "called"  # touches no attribute, so only the call itself can be guarded


class Special(Memory):
    pass


def _use_everything(memory: Memory) -> list[object]:
    return [
        lambda: memory.notes,
        lambda: memory.add("x"),
        lambda: setattr(memory, "notes", []),
        lambda: delattr(memory, "notes"),
        lambda: len(memory),
        lambda: memory[0],
        lambda: vars(memory),
        lambda: current_scope().own(memory),
        lambda: current_scope().check(memory),
    ]


@pytest.mark.parametrize("kind", [Memory, Special])
async def test_every_use_of_an_owned_object_by_another_is_refused(kind: type[Memory]) -> None:
    async with user_context("alice-1") as alice:
        memory = kind()
        memory.add("mine")
        async with child_context("tool"):
            assert len(memory) == 1  # the whole tree may use it
        async with user_context("bob-22") as bob:
            for use in _use_everything(memory):
                with pytest.raises(OwnershipError) as caught:
                    use()  # type: ignore[operator]
                assert caught.value.owner_request_id == alice.request_id
                assert caught.value.request_id == bob.request_id
                assert "alice" not in str(caught.value)
        assert memory[0] == "mine"


async def test_a_special_method_that_touches_nothing_is_guarded_too() -> None:
    async with user_context("alice-1"):
        tool = Tool()
        assert tool() == "called"
        async with user_context("bob-22"):
            with pytest.raises(OwnershipError):
                tool()


async def test_slots_are_enough_if_there_is_one_for_the_owner() -> None:
    async with user_context("alice-1"):
        thing = Slotted()
        assert thing.value == 1
        async with user_context("bob-22"):
            with pytest.raises(OwnershipError):
                _ = thing.value


def test_a_class_without_a_place_for_the_owner_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no place for their owner"):

        @owned
        class Bare:
            __slots__ = ("value",)


async def test_an_owned_object_in_no_context_is_refused() -> None:
    """Law 9: no context means no."""
    caught: list[BaseException] = []
    async with user_context("alice-1"):
        memory = Memory()

        def work() -> None:
            try:
                memory.add("x")
            except NoContextError as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(caught) == 1


async def test_an_object_made_outside_belongs_to_nobody_until_owned() -> None:
    memory = Memory()
    async with user_context("alice-1"):
        memory.add("a")
    async with user_context("bob-22"):
        memory.add("b")
        current_scope().own(memory)
        async with user_context("carol-3"):
            with pytest.raises(OwnershipError):
                memory.add("c")


async def test_the_same_users_other_request_is_another_owner() -> None:
    async with user_context("alice-1"):
        memory = Memory()
        async with user_context("alice-1"):
            with pytest.raises(OwnershipError):
                memory.add("x")


async def test_the_repr_stays_free_for_logs() -> None:
    async with user_context("alice-1"):
        memory = Memory()
    assert "Memory" in repr(memory)


async def test_a_registered_object_is_refused_to_others_until_its_owner_ends() -> None:
    cache: dict[str, str] = {}
    async with user_context("alice-1"):
        assert current_scope().own(cache) is cache
        assert current_scope().own(cache) is cache
        async with child_context("tool"):
            assert current_scope().check(cache) is cache
        async with user_context("bob-22"):
            with pytest.raises(OwnershipError, match="belongs to request"):
                current_scope().check(cache)
            with pytest.raises(OwnershipError):
                current_scope().own(cache)
        assert len(registry) == 1
    assert len(registry) == 0
    async with user_context("bob-22"):
        assert current_scope().own(cache) is cache


async def test_a_captured_scope_is_refused_to_others() -> None:
    async with user_context("alice-1"):
        scope = current_scope()
        async with user_context("bob-22"):
            for use in (
                lambda: scope.callback(print),
                lambda: scope.own([]),
                lambda: scope.check(1),
            ):
                with pytest.raises(OwnershipError):
                    use()
            with pytest.raises(OwnershipError):
                await scope.enter(anyio.Lock())


async def test_the_identity_of_what_is_owned_cannot_pass_to_another_object() -> None:
    """By garbage collection: a bare `id` is used again at once."""
    async with user_context("alice-1"):
        for number in range(1000):
            current_scope().own([number])  # kept by nobody else
        async with user_context("bob-22"):
            for number in range(1000):
                current_scope().check([number])
                current_scope().own([number])


@pytest.mark.parametrize("value", ["active", 5, None, True, (), b"x", int, threading, print, len])
async def test_singletons_types_modules_and_functions_cannot_be_owned(value: object) -> None:
    async with user_context("alice-1"):
        with pytest.raises(WrongTypeError, match="cannot be owned"):
            current_scope().own(value)


async def test_what_one_tree_owns_is_bounded() -> None:
    fence = Ringfence(settings=Settings(max_owned=5))
    async with fence.user_context("alice-1"):
        kept = [current_scope().own([number]) for number in range(5)]
        with pytest.raises(ContextLimitError, match="owns 5 objects"):
            current_scope().own([5])
        assert len(kept) == 5


async def test_no_false_accusation_in_ten_thousand_requests_and_every_foreign_use_refused() -> None:
    refused = accused = 0
    for _ in range(10_000):
        thing, memory = {"fresh": 1}, None
        async with user_context("alice-1"):
            try:
                current_scope().own(thing)
                memory = Memory()
                current_scope().check(thing)
                memory.notes  # noqa: B018
            except OwnershipError:
                accused += 1
            async with user_context("bob-22"):
                try:
                    current_scope().check(thing)
                except OwnershipError:
                    try:
                        memory.notes  # type: ignore[union-attr]  # noqa: B018
                    except OwnershipError:
                        refused += 1
    assert (accused, refused, len(registry)) == (0, 10_000, 0)


# --- explicit sessions, whatever they are -----------------------------------------------------


class Session:
    closed = False

    async def close(self) -> None:
        self.closed = True


async def test_a_session_belongs_to_one_open_root() -> None:
    session = Session()
    async with user_context("alice-1", db_session=session):
        async with child_context("tool") as child:
            assert child.db_session is session
        with pytest.raises(SessionIsolationError, match="`Session` belongs to request"):
            async with user_context("bob-22", db_session=session):
                pass
    async with user_context("bob-22", db_session=session) as bob:
        assert bob.db_session is session
    assert not session.closed


async def test_a_session_is_owned_from_entering_on_by_children_too() -> None:
    session = Session()
    async with user_context("alice-1"):
        async with child_context("tool", session=session):
            pass
        with pytest.raises(SessionIsolationError):
            async with user_context("bob-22", db_session=session):
                pass


async def test_anothers_context_does_not_hand_out_its_session() -> None:
    async with user_context("alice-1", db_session=Session()) as alice:
        async with user_context("bob-22"):
            with pytest.raises(SessionIsolationError):
                _ = alice.db_session
        async with nobody():
            with pytest.raises(SessionIsolationError):
                _ = alice.db_session


async def test_a_shared_object_is_no_session() -> None:
    session = Session()
    register_shared_object(session)
    with pytest.raises(SharedObjectError, match="registered as shared"):
        user_context("alice-1", db_session=session)


async def test_a_closed_owner_is_named() -> None:
    async with user_context("alice-1") as alice:
        memory = Memory()
    async with user_context("bob-22"):
        with pytest.raises(ContextClosedError, match=alice.request_id):
            memory.add("x")
    assert current_context is not None
