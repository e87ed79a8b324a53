"""Errors: one code each, a fact and a remedy, the tree that the docstring draws."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringfence
from ringfence import counters, errors
from ringfence.errors import (
    ContextClosedError,
    ContextIsolationError,
    InvalidContextError,
    NoContextError,
    RingfenceError,
    ScopeCloseError,
    WrongTypeError,
)

SOURCE = Path(ringfence.__file__).parent
CLASSES = [getattr(errors, name) for name in errors.__all__]
PLAIN = [cls for cls in CLASSES if cls is not ScopeCloseError]


# --- the tree ---------------------------------------------------------------------------------


def _drawn() -> list[tuple[str, str, set[str], str]]:
    """Name, parent, builtins beside it and code of each line of the docstring's tree."""
    drawn, above = [], {-1: "Exception"}
    line = re.compile(r"^    ([│├└─ ]*)(\w+Error)(?:\(([\w, ]+)\))?(?: +(RF\d{3}) .*)?$")
    for match in filter(None, map(line.match, (errors.__doc__ or "").splitlines())):
        level = len(match[1]) // 4
        above[level] = match[2]
        beside = set((match[3] or "").replace(" ", "").split(",")) - {""}
        drawn.append((match[2], above[level - 1], beside, match[4] or "RF000"))
    return drawn


def test_the_docstring_draws_every_class_and_no_other() -> None:
    assert sorted(name for name, *_ in _drawn()) == sorted(errors.__all__)


@pytest.mark.parametrize(("name", "parent", "beside", "code"), _drawn())
def test_the_classes_are_as_drawn(name: str, parent: str, beside: set[str], code: str) -> None:
    cls = getattr(errors, name)
    bases = {base.__name__ for base in cls.__bases__}
    assert bases == {parent} | beside
    assert cls.code == code


def test_all_are_defined_here_and_importable_from_ringfence() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert defined == set(errors.__all__)
    for name in errors.__all__:
        assert getattr(ringfence, name) is getattr(errors, name)
        assert name in ringfence.__all__


def test_codes_are_stable_in_form_and_unique() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"RF\d{3}", code) for code in codes)
    assert all("code" in vars(cls) for cls in CLASSES)


def test_a_handler_for_the_builtin_catches_it() -> None:
    with pytest.raises(LookupError):
        ringfence.current_context()
    with pytest.raises(ValueError, match="empty"):
        ringfence.user_context("")
    with pytest.raises(TypeError):
        ringfence.user_context(17)  # type: ignore[arg-type]


# --- one error --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", PLAIN)
def test_the_message_is_the_fact_and_the_remedy(cls: type[RingfenceError]) -> None:
    error = cls("It is so.", "Do this.", request_id="r-1")
    assert str(error) == "It is so. Do this."
    assert (error.fact, error.remedy) == ("It is so.", "Do this.")
    assert error.request_id == "r-1"  # type: ignore[attr-defined]
    assert str(cls("It is so.")) == "It is so."


@pytest.mark.parametrize("cls", PLAIN)
def test_making_one_counts_it_under_its_code(cls: type[RingfenceError]) -> None:
    cls("It is so.", "Do this.")
    cls("It is so.", "Do this.")
    assert counters.snapshot() == {f"refused.{cls.code}": 2}


@pytest.mark.parametrize("cls", PLAIN)
def test_it_survives_pickle(cls: type[RingfenceError]) -> None:
    error = cls("It is so.", "Do this.", request_id="r-1")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_data_are_attributes_with_a_default() -> None:
    assert (ContextClosedError("A.").opened_at, ContextClosedError("A.").closed_at) == (None, None)
    assert ContextIsolationError("A.").owner_request_id is None
    assert (InvalidContextError("A.").field, InvalidContextError("A.").rule) == (None, None)
    assert errors.DatabasePolicyError("A.").ancestor_request_id is None


# --- ScopeCloseError, which is a group --------------------------------------------------------


def _group() -> ScopeCloseError:
    return ScopeCloseError("Two failed.", [KeyError("a"), OSError("b")], "r-1")


def test_the_group_says_fact_and_remedy_too() -> None:
    error = _group()
    assert (error.fact, error.remedy) == (
        "Two failed.",
        "See `exceptions`; every finaliser was run.",
    )
    assert str(error) == f"{error.fact} {error.remedy} (2 sub-exceptions)"
    assert error.request_id == "r-1"
    assert counters.value("refused.RF302") == 1


def test_the_group_is_a_group() -> None:
    caught: list[str] = []
    try:
        raise _group()
    except* KeyError as group:
        caught += [repr(error) for error in group.exceptions]
    except* OSError as group:
        caught += [repr(error) for error in group.exceptions]
    assert caught == ["KeyError('a')", "OSError('b')"]


def test_the_group_can_be_caught_as_a_whole() -> None:
    with pytest.raises(RingfenceError):
        raise _group()
    with pytest.raises(ExceptionGroup):
        raise _group()


def test_the_group_survives_pickle() -> None:
    error = _group()
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ScopeCloseError
    assert str(again) == str(error)
    assert list(map(repr, again.exceptions)) == list(map(repr, error.exceptions))
    assert (again.fact, again.request_id) == ("Two failed.", "r-1")


# --- every place that makes one ---------------------------------------------------------------


def _made() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(SOURCE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                function = node.func
                name = function.id if isinstance(function, ast.Name) else ""
                if name in errors.__all__ and name != "ScopeCloseError":
                    yield f"{path.name}:{node.lineno}", node


def _text(node: ast.expr) -> str:
    """What a literal says, with `…` for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body):
            return _text(body)
    return "…"


def _sentence(text: str) -> bool:
    return text[:1].isalpha() == text[:1].isupper() and text.endswith((".", "…"))


def test_every_error_made_has_a_fact_sentence_and_a_remedy_sentence() -> None:
    made = list(_made())
    assert len(made) > 40
    for place, call in made:
        assert len(call.args) == 2, place
        fact, remedy = map(_text, call.args)
        assert fact, place
        assert remedy, place
        assert _sentence(fact), (place, fact)
        assert _sentence(remedy), (place, remedy)


def test_no_message_is_made_of_a_user_or_a_tenant() -> None:
    for place, call in _made():
        for part in ast.walk(
            ast.Module(body=[ast.Expr(arg) for arg in call.args], type_ignores=[])
        ):
            if isinstance(part, ast.FormattedValue):
                named = {n.attr for n in ast.walk(part) if isinstance(n, ast.Attribute)}
                named |= {n.id for n in ast.walk(part) if isinstance(n, ast.Name)}
                assert not named & {"user_id", "tenant_id"}, place


async def test_a_foreign_use_names_both_requests_and_no_user() -> None:
    scopes = []
    async with ringfence.user_context("alice-secret-name") as alice:
        scopes.append(ringfence.current_scope())
        async with ringfence.user_context("bob-secret-name") as bob:
            with pytest.raises(ringfence.OwnershipError) as caught:
                scopes[0].own([1])
    message = str(caught.value)
    assert alice.request_id in message
    assert bob.request_id in message
    assert "secret-name" not in message
    assert isinstance(caught.value, ContextIsolationError)


def test_a_lookup_error_is_no_value_error() -> None:
    """So that a handler for the one does not swallow the other."""
    assert not issubclass(NoContextError, ValueError)
    assert not issubclass(WrongTypeError, LookupError)
    assert not issubclass(ContextClosedError, (ValueError, LookupError))
