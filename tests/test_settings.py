"""Settings: checked when made, read once from the environment, never a silent default."""

from __future__ import annotations

import warnings
from typing import Any

import attrs
import pytest

from ringfence import ConfigurationError, InvalidContextError, Ringfence, Settings, user_context
from ringfence import settings as module
from ringfence.settings import default_settings

NUMBERS = (
    "id_max_length max_depth max_data_depth max_data_items max_headers max_header_bytes max_owned "
    "finaliser_timeout nested_checkout_timeout drain_timeout"
).split()
WHOLE = NUMBERS[:7]


@pytest.fixture
def _fresh_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_default", None)


# --- values -----------------------------------------------------------------------------------


def test_it_is_frozen_and_takes_names_only() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().max_depth = 11  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings("strict")  # type: ignore[misc]


def test_equal_settings_are_equal() -> None:
    assert Settings() == Settings(max_depth=10)
    assert Settings() != Settings(max_depth=11)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, True, "5", None, float("nan"), float("-inf")])
def test_a_number_is_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"`{name}` must be .*`Settings.{name}`"):
        Settings(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [2.5, 3.0, float("inf")])
def test_what_is_counted_is_whole(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"`{name}` must be a whole number above 0"):
        Settings(**{name: value})


@pytest.mark.parametrize("value", [-1, True, False, "5", None, float("nan")])
def test_a_number_that_may_be_zero(value: Any) -> None:
    assert Settings(idle_connection_warning=0).idle_connection_warning == 0
    with pytest.raises(
        ConfigurationError, match="`idle_connection_warning` must be a number, 0 or"
    ):
        Settings(idle_connection_warning=value)


def test_seconds_may_be_fractions_and_endless() -> None:
    settings = Settings(finaliser_timeout=0.5, drain_timeout=float("inf"))
    assert (settings.finaliser_timeout, settings.drain_timeout) == (0.5, float("inf"))


@pytest.mark.parametrize("pattern", ["(", "[a-", "(?i)abc", "*", 5, None, b"abc"])
def test_a_pattern_that_is_none_is_refused(pattern: Any) -> None:
    with pytest.raises(ConfigurationError, match="`id_pattern` is not a regular expression"):
        Settings(id_pattern=pattern)


@pytest.mark.parametrize("name", ["id_placeholders", "id_prefixes"])
def test_words_are_a_set_of_words(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be 'guest'"):
        Settings(**{name: "guest"})
    with pytest.raises(ConfigurationError, match="cannot be"):
        Settings(**{name: [1, 2]})
    assert getattr(Settings(**{name: ["Guest"]}), name) == {"guest"}


@pytest.mark.parametrize("word", ["svc_", "my-svc", "ünal", "", "a b"])
def test_a_prefix_that_could_never_match_is_refused(word: str) -> None:
    with pytest.raises(ConfigurationError, match="`id_prefixes` cannot be"):
        Settings(id_prefixes={word})


# --- the environment --------------------------------------------------------------------------


def test_every_number_and_rule_can_be_set() -> None:
    environ = {f"RINGFENCE_{name.upper()}": "7" for name in NUMBERS}
    environ |= {"RINGFENCE_VALIDATION": " warning ", "RINGFENCE_ID_PATTERN": r"u-\d+"}
    settings = Settings.from_env(environ)
    for name in NUMBERS:
        assert getattr(settings, name) == 7
        assert type(getattr(settings, name)) is (int if name in WHOLE else float)
    assert (settings.validation, settings.id_pattern) == ("warning", r"u-\d+")


def test_the_parsers_know_every_setting_but_the_sets() -> None:
    fields = {field.name for field in attrs.fields(Settings) if field.init}
    assert fields - set(module._PARSERS) == {
        "id_placeholders", "id_prefixes", "block_drivers", "context_class",
    }  # fmt: skip
    assert set(module._PARSERS) <= fields


def test_overrides_win() -> None:
    settings = Settings.from_env({"RINGFENCE_MAX_DEPTH": "4"}, max_depth=5, max_owned=6)
    assert (settings.max_depth, settings.max_owned) == (5, 6)


def test_an_empty_environment_is_the_default() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"PATH": "/bin", "RINGFENCED": "1"}) == Settings()


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({"USEREXECUTIONCONTEXT_MIGRATION_MODE": "warning"}, "warning"),
        ({"USEREXECUTIONCONTEXT_MIGRATION_MODE": " WARNING "}, "warning"),
        ({"USEREXECUTIONCONTEXT_MIGRATION_MODE": "strict"}, "strict"),
        ({"RINGFENCE_VALIDATION": "warning"}, "warning"),
        (
            {"RINGFENCE_VALIDATION": "strict", "USEREXECUTIONCONTEXT_MIGRATION_MODE": "warning"},
            "strict",
        ),
        (
            {"RINGFENCE_VALIDATION": "warning", "USEREXECUTIONCONTEXT_MIGRATION_MODE": "strict"},
            "warning",
        ),
        ({}, "strict"),
    ],
)
def test_the_mode_is_read_from_both_variables_and_ours_wins(
    environ: dict[str, str], mode: str
) -> None:
    assert Settings.from_env(environ).validation == mode


@pytest.mark.parametrize("name", ["RINGFENCE_VALIDATION", "USEREXECUTIONCONTEXT_MIGRATION_MODE"])
@pytest.mark.parametrize("mode", ["lenient", "off", "warn", "", "strict,warning"])
def test_an_unknown_mode_is_an_error_never_a_default(name: str, mode: str) -> None:
    with pytest.raises(ConfigurationError, match="must be `strict` or `warning`.*RINGFENCE_VALIDA"):
        Settings.from_env({name: mode})


def test_no_other_variable_relaxes_anything() -> None:
    environ = {"ENVIRONMENT": "test", "TESTING": "1", "DEBUG": "1", "PYTEST_CURRENT_TEST": "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = Settings.from_env(environ)
    with pytest.raises(InvalidContextError):
        settings.id_rules.check("user_id", "test_1")


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("RINGFENCE_MAX_DEPTH", "ten", "int"),
        ("RINGFENCE_MAX_DEPTH", "2.5", "int"),
        ("RINGFENCE_MAX_DEPTH", "", "int"),
        ("RINGFENCE_DRAIN_TIMEOUT", "10s", "float"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_variable(
    name: str, text: str, kind: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='{text}' is not a {kind}"):
        Settings.from_env({name: text})


@pytest.mark.parametrize("text", ["0", "-3", "nan"])
def test_a_value_out_of_range_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="`drain_timeout` must be a number above 0"):
        Settings.from_env({"RINGFENCE_DRAIN_TIMEOUT": text})


@pytest.mark.parametrize(
    "name",
    ["RINGFENCE_VALIDATON", "RINGFENCE_ID_PREFIXES", "RINGFENCE_BLOCK_DRIVERS", "RINGFENCE_"],
)
def test_an_unknown_variable_of_ours_warns(name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} is not a setting of ringfence; it is ignored"):
        assert Settings.from_env({name: "x"}) == Settings()


def test_variables_of_our_tests_and_demos_do_not_warn() -> None:
    names = ["RINGFENCE_TEST_POSTGRES", "RINGFENCE_DEMO_PORT", "RINGFENCE_EXAMPLE_KEY"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Settings.from_env(dict.fromkeys(names, "x")) == Settings()


# --- the process default ----------------------------------------------------------------------


@pytest.mark.usefixtures("_fresh_default")
def test_the_default_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGFENCE_MAX_DEPTH", "3")
    first = default_settings()
    monkeypatch.setenv("RINGFENCE_MAX_DEPTH", "4")
    assert default_settings() is first
    assert first.max_depth == 3
    assert Ringfence().settings is first


@pytest.mark.usefixtures("_fresh_default")
def test_a_wrong_environment_is_an_error_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGFENCE_VALIDATION", "lenient")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="'lenient'"):
            user_context("alice-1")


@pytest.mark.usefixtures("_fresh_default")
def test_without_a_fence_the_default_holds_and_a_fence_overrules_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USEREXECUTIONCONTEXT_MIGRATION_MODE", "warning")
    user_context("test_1")
    with pytest.raises(InvalidContextError):
        Ringfence(settings=Settings()).user_context("test_1")
