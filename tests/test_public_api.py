"""The public face: complete, sorted, documented, typed."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import types
from pathlib import Path
from typing import Any

import pytest

import ringfence

SOURCE = Path(ringfence.__file__).parent
MODULES = sorted(path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__"))
PUBLIC = {name: getattr(ringfence, name) for name in ringfence.__all__}


def test_all_is_sorted_and_without_doubles() -> None:
    assert ringfence.__all__ == sorted(set(ringfence.__all__))


def test_all_is_the_namespace() -> None:
    names = {
        name
        for name, value in vars(ringfence).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").startswith("ringfence")
    }
    assert names == set(ringfence.__all__)


def test_a_star_import_gives_it_all() -> None:
    namespace: dict[str, Any] = {}
    exec("from ringfence import *", namespace)
    assert set(ringfence.__all__) <= set(namespace)


def test_what_the_contract_and_the_design_name_is_there() -> None:
    names = (
        "UserExecutionContext validate_user_context managed_user_context register_shared_object "
        "clear_shared_object_registry InvalidContextError ContextIsolationError "
        "Ringfence user_context child_context nobody current_context current_scope "
        "current_context_or_none current_scope_or_none Identity Settings owned task_group bind "
        "run_as bound_stream"
    ).split()
    assert set(names) <= set(ringfence.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_each_module_says_what_it_is_and_what_it_gives(module: str) -> None:
    loaded = importlib.import_module(f"ringfence.{module}")
    assert loaded.__doc__
    assert loaded.__doc__.strip().splitlines()[0].endswith((".", ":"))
    assert loaded.__all__
    assert list(loaded.__all__) == sorted(set(loaded.__all__))
    for name in loaded.__all__:
        assert hasattr(loaded, name)


@pytest.mark.parametrize("name", ringfence.__all__)
def test_each_public_name_is_documented(name: str) -> None:
    value = PUBLIC[name]
    text = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    assert text
    first = inspect.cleandoc(text).split("\n\n")[0]
    assert first.endswith((".", "::", ":")), first


def _members(cls: type) -> list[tuple[str, Any]]:
    """The public methods and properties that a class of ours defines or inherits from ours."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("ringfence"):
            found.update(vars(base))
    return [
        (name, member.__func__ if isinstance(member, (classmethod, staticmethod)) else member)
        for name, member in found.items()
        if not name.startswith("_")
        and (
            isinstance(member, (property, classmethod, staticmethod)) or inspect.isfunction(member)
        )
    ]


CLASSES = [name for name, value in PUBLIC.items() if isinstance(value, type)]


@pytest.mark.parametrize("name", CLASSES)
def test_each_public_method_and_property_is_documented(name: str) -> None:
    undocumented = [attribute for attribute, member in _members(PUBLIC[name]) if not member.__doc__]
    assert undocumented == []


def test_there_are_many_of_them() -> None:
    """Otherwise the test above would prove nothing."""
    assert len(_members(ringfence.RequestScope)) > 20
    assert len(_members(ringfence.UserExecutionContext)) > 12


@pytest.mark.parametrize("name", ringfence.__all__)
def test_each_public_callable_is_annotated(name: str) -> None:
    value = PUBLIC[name]
    functions: list[Any] = [value] if inspect.isfunction(value) else []
    if isinstance(value, type):
        functions = [m.fget if isinstance(m, property) else m for _, m in _members(value)]
    for function in functions:
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, function
        for parameter in list(signature.parameters.values()):
            if parameter.name not in ("self", "cls"):
                assert parameter.annotation is not inspect.Parameter.empty, (function, parameter)


def test_readers_are_not_called_get() -> None:
    """The old methods keep the contract's names; `get_now` is `get`, which may make an object."""
    kept = {"get_correlation_id", "get_audit_trail", "get_now"}
    methods = {member for name in CLASSES for member, _ in _members(PUBLIC[name])}
    names = set(ringfence.__all__) | methods
    assert {name for name in names if name.startswith("get_")} <= kept
    assert kept <= methods


def test_the_version_is_the_distributions() -> None:
    assert ringfence.__version__ == importlib.metadata.version("ringfence")
