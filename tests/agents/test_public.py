"""The public face of `ringfence.agents`: sorted, documented, and nothing that takes a user."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from ringfence import agents

PUBLIC: dict[str, Any] = {name: getattr(agents, name) for name in agents.__all__}
MODULES = sorted(path.stem for path in Path(agents.__file__).parent.glob("[!_]*.py"))


def test_all_is_sorted_and_without_doubles() -> None:
    assert agents.__all__ == sorted(set(agents.__all__))


@pytest.mark.parametrize("module", MODULES)
def test_each_module_says_what_it_is_and_what_it_gives(module: str) -> None:
    loaded = importlib.import_module(f"ringfence.agents.{module}")
    assert loaded.__doc__
    assert list(loaded.__all__) == sorted(set(loaded.__all__))
    for name in loaded.__all__:
        assert hasattr(loaded, name)


@pytest.mark.parametrize("name", agents.__all__)
def test_each_public_name_is_documented(name: str) -> None:
    value = PUBLIC[name]
    assert value.__doc__
    first = inspect.cleandoc(value.__doc__).split("\n\n")[0]
    assert first.endswith((".", "::", ":")), first


@pytest.mark.parametrize("name", agents.__all__)
def test_each_public_method_is_documented(name: str) -> None:
    members = vars(PUBLIC[name]) if inspect.isclass(PUBLIC[name]) else {}
    undocumented = [
        each
        for each, member in members.items()
        if not each.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property))
        and not member.__doc__
    ]
    assert undocumented == []


def test_no_public_call_takes_a_user() -> None:
    """Whose runs they are is what the context says."""
    calls = [value for value in PUBLIC.values() if inspect.isfunction(value)]
    calls += [
        member
        for name, member in inspect.getmembers(agents.AgentRegistry, inspect.isfunction)
        if not name.startswith("_")
    ]
    assert len(calls) > 12
    for call in calls:
        names = set(inspect.signature(call).parameters)
        assert not {name for name in names if "user" in name or "tenant" in name}, call
