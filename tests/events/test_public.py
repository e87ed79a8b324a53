"""The public face of `ringfence.events`: sorted, documented, annotated."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from ringfence import events

PUBLIC: dict[str, Any] = {name: getattr(events, name) for name in events.__all__}


def test_all_is_sorted_and_without_doubles() -> None:
    assert events.__all__ == sorted(set(events.__all__))


@pytest.mark.parametrize("name", events.__all__)
def test_each_public_name_is_documented(name: str) -> None:
    value = PUBLIC[name]
    assert value.__doc__
    first = inspect.cleandoc(value.__doc__).split("\n\n")[0]
    assert first.endswith((".", "::", ":")), first


@pytest.mark.parametrize("name", events.__all__)
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
    for call in (events.emit, events.subscribe, events.EventHub.emit, events.EventHub.subscribe):
        names = set(inspect.signature(call).parameters)
        assert names <= {"self", "kind", "data", "only_origin", "last_id", "client_id"}
