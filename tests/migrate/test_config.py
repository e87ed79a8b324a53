"""`[tool.ringfence.migrate]`: what it may hold, and what is said of the rest."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ringfence.errors import ConfigurationError
from ringfence.migrate.config import Config, load, parse
from ringfence.migrate.keys import home


def _parse(text: str) -> Config:
    return parse(tomllib.loads(text))


def test_nothing_written_is_the_ready_profile(tmp_path: Path) -> None:
    assert load(tmp_path) == Config() == _parse("") == _parse('profile = "supervisor"')
    config = Config()
    for module in (
        "netra.services.user_execution_context",
        "netra.agents.supervisor.user_execution_context",
        "netra.models.user_execution_context",
    ):
        assert config.is_legacy(module, "anything")
    factory = "netra.agents.supervisor.execution_factory"
    assert config.is_legacy(factory, "UserExecutionContext")
    assert not config.is_legacy(factory, "ExecutionEngineFactory")
    assert not config.is_legacy("netra.myservices.user_execution_context", "x")
    assert not config.is_legacy("netra.services.user_execution_context.more", "x")


def test_the_nearest_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "inner/deep").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.ringfence.migrate]\nother-keys = "agent"\n')
    assert load(tmp_path / "inner/deep").other_keys == "agent"
    (tmp_path / "inner/pyproject.toml").write_text("[project]\n")
    assert load(tmp_path / "inner/deep").other_keys == "person"


def test_what_is_written_is_added_to_the_profile() -> None:
    config = _parse('agent-keys = ["plan"]\nmodules = { "app.context" = ["UserExecutionContext"] }')
    assert home("plan", config) == home("session_id", config) == "agent_context"
    assert config.is_legacy("app.context", "UserExecutionContext")
    assert not config.is_legacy("app.context", "other")
    assert config.is_legacy("a.services.user_execution_context", "x")
    assert _parse('receivers = ["c"]').receivers == ("c",)


def test_no_profile() -> None:
    assert _parse('profile = "none"').modules == {}


def test_priorities_of_ones_own_come_first() -> None:
    config = _parse('priorities = { routes = ["web/**"] }')
    assert config.priority("web/tests/x.py") == "routes"
    assert config.priority("app/tests/x.py") == "tests"
    assert config.priority("app/x.py") == "production"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('audit-kyes = ["x"]', "no key `audit-kyes`. Did you mean `audit-keys`?"),
        ("zzz = 1", "There are: agent-keys, audit-keys, exclude"),
        ('profile = "other"', '"supervisor" or "none"'),
        ('exclude = "x"', "a list of strings"),
        ("exclude = [1]", "a list of strings"),
        ("trust-receivers = 1", "true or false"),
        ('other-keys = "audit"', '"person" or "agent"'),
        ("modules = []", "a table: module"),
        ('modules = { "a b" = "all" }', "a dotted module"),
        ('modules = { "a.*.b" = "all" }', "a dotted module"),
        ('modules = { "a.b" = "some" }', "a list of strings"),
        ("priorities = 1", "a table: priority"),
        ("priorities = { prod = [] }", "no key `priorities.prod`"),
        ('audit-keys = ["x"]\nagent-keys = ["x"]', "in both `agent-keys` and `audit-keys`"),
        ('audit-keys = ["session_id"]', "in both `agent-keys` and `audit-keys`"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[", "tool = 1", "[tool]\nringfence = 1", "[tool.ringfence]\nmigrate = 1"]
)
def test_a_file_that_cannot_be_read_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml"):
        load(tmp_path)
