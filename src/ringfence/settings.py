"""Settings: every number and rule that a team may want to change."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any, Literal

import attrs

from . import identifiers
from .errors import ConfigurationError
from .identifiers import IdRules

__all__ = ["Settings"]

BLOCK_DRIVERS = frozenset(
    {
        "anyio._backends._asyncio:TestRunner._run_tests_and_fixtures",
        "anyio._backends._trio:TestRunner._run_tests_and_fixtures",
        "pytest_asyncio.plugin:_wrap_asyncgen_fixture.<locals>._asyncgen_fixture_wrapper.<locals>.setup",
        "taskiq_dependencies.ctx:AsyncResolveContext.resolver",
    }
)
_OLD_MODE = "USEREXECUTIONCONTEXT_MIGRATION_MODE"
_PREFIX = "RINGFENCE_"
_NOT_SETTINGS = ("RINGFENCE_TEST_", "RINGFENCE_DEMO_", "RINGFENCE_EXAMPLE_")


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(
            f"`{attribute.name}` must be a number above 0, not {value!r}.",
            f"Correct `Settings.{attribute.name}`.",
        )


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigurationError(
            f"`{attribute.name}` must be a number, 0 or above, not {value!r}.",
            f"Correct `Settings.{attribute.name}`.",
        )


def _mode(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if value not in ("strict", "warning"):
        raise ConfigurationError(
            f"`{attribute.name}` must be `strict` or `warning`, not {value!r}.",
            f"Correct `Settings.validation`, `RINGFENCE_VALIDATION` or `{_OLD_MODE}`.",
        )


def _whole(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not isinstance(value, int):
        raise ConfigurationError(
            f"`{attribute.name}` must be a whole number above 0, not {value!r}.",
            f"Correct `Settings.{attribute.name}`.",
        )
    _positive(instance, attribute, value)


def _words(value: Collection[str]) -> frozenset[str]:
    if isinstance(value, str) or not all(isinstance(word, str) for word in value):
        raise ConfigurationError(
            f"A list of words cannot be {value!r}.",
            'Give `Settings` a set of them, such as `{"guest", "tester"}`.',
        )
    return frozenset(word.lower() for word in value)


def _heads(value: Collection[str]) -> frozenset[str]:
    words = _words(value)
    if not all(re.fullmatch("[a-z0-9]+", word) for word in words):
        raise ConfigurationError(
            f"`id_prefixes` cannot be {value!r}.",
            "Give ASCII letters and digits only; `_ - . :` after them are understood.",
        )
    return words


@attrs.frozen(kw_only=True)
class Settings:
    """
    The rules of one application. An immutable value; lives as long as its `Ringfence`.

    Without a fence, a process default applies, read once from the environment.

    >>> Settings(max_depth=3).max_depth
    3

    Args:
        validation: `strict`, or `warning` for a gradual roll-out.
        id_pattern: regular expression that an id matches as a whole.
        id_max_length: characters.
        id_placeholders, id_prefixes: words that are no ids, or begin none, in any case.
        max_depth: of child contexts; the root has depth 0.
        max_data_depth: nesting of a context's data.
        max_data_items: of a context's data, those of nested plain containers included.
        max_headers: of a request; one more is answered with 431.
        max_header_bytes: of the values of a request's headers together; so is one more.
        max_owned: objects that one request tree may own in the registry.
        finaliser_timeout: seconds for each finaliser, and again to let go once cancelled.
        nested_checkout_timeout: seconds that a child waits for a connection while an ancestor
            of its own tree holds one.
        idle_connection_warning: seconds that a session may hold a database connection without
            using it before that is logged, once it is used again or given back; 0: never.
        drain_timeout: seconds that shutdown waits for requests in flight and detached work, and
            again once it has cancelled what is left.
        block_drivers: `module:qualified name` of functions that enter *and* leave a generator
            within one block, as contextlib does. See `ScopeInGeneratorError`.
        context_class: what the contexts of scopes opened by ids are of, such as
            `ringfence.legacy.UserExecutionContext`; `None`: ringfence's own.

    Raises:
        ConfigurationError: a value that makes no sense.
    """

    validation: Literal["strict", "warning"] = attrs.field(default="strict", validator=_mode)
    id_pattern: str = identifiers.PATTERN
    id_max_length: int = attrs.field(default=128, validator=_whole)
    id_placeholders: frozenset[str] = attrs.field(
        default=identifiers.PLACEHOLDERS, converter=_words
    )
    id_prefixes: frozenset[str] = attrs.field(
        default=identifiers.PLACEHOLDER_PREFIXES, converter=_heads
    )
    max_depth: int = attrs.field(default=10, validator=_whole)
    max_data_depth: int = attrs.field(default=100, validator=_whole)
    max_data_items: int = attrs.field(default=100_000, validator=_whole)
    max_headers: int = attrs.field(default=200, validator=_whole)
    max_header_bytes: int = attrs.field(default=64 * 1024, validator=_whole)
    max_owned: int = attrs.field(default=10_000, validator=_whole)
    finaliser_timeout: float = attrs.field(default=2.0, validator=_positive)
    nested_checkout_timeout: float = attrs.field(default=2.0, validator=_positive)
    idle_connection_warning: float = attrs.field(default=5.0, validator=_not_negative)
    drain_timeout: float = attrs.field(default=10.0, validator=_positive)
    block_drivers: frozenset[str] = attrs.field(default=BLOCK_DRIVERS, converter=frozenset)
    context_class: type[Any] | None = None
    id_rules: IdRules = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        try:
            re.compile(self.id_pattern + "")
            re.compile(f"(?:{self.id_pattern})")  # as it is used
        except (re.error, TypeError) as error:
            raise ConfigurationError(
                f"`id_pattern` is not a regular expression: {error}.",
                "Correct `Settings.id_pattern`; flags go into a group, as in `(?i:...)`.",
            ) from None
        rules = IdRules(
            mode=self.validation,
            pattern=self.id_pattern,
            max_length=self.id_max_length,
            placeholders=self.id_placeholders,
            prefixes=self.id_prefixes,
        )
        object.__setattr__(self, "id_rules", rules)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """
        Settings from `RINGFENCE_<NAME>` variables; `overrides` win over them.

        `USEREXECUTIONCONTEXT_MIGRATION_MODE` is read for `validation` if
        `RINGFENCE_VALIDATION` is not set. Lists and drivers cannot be set this way.

        >>> Settings.from_env({"RINGFENCE_MAX_DEPTH": "4"}).max_depth
        4

        Raises:
            ConfigurationError: a value that is not of its type, or an unknown mode.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        if _OLD_MODE in environ:
            values["validation"] = environ[_OLD_MODE].strip().lower()
        for name in sorted(environ):
            if name.startswith(_PREFIX) and not name.startswith(_NOT_SETTINGS):
                _read_variable(name, environ[name], values)
        return cls(**{**values, **overrides})


_PARSERS: dict[str, type] = {
    "validation": str,
    "id_pattern": str,
    "id_max_length": int,
    "max_depth": int,
    "max_data_depth": int,
    "max_data_items": int,
    "max_headers": int,
    "max_header_bytes": int,
    "max_owned": int,
    "finaliser_timeout": float,
    "nested_checkout_timeout": float,
    "idle_connection_warning": float,
    "drain_timeout": float,
}


def _read_variable(name: str, text: str, values: dict[str, Any]) -> None:
    field = name.removeprefix(_PREFIX).lower()
    parse = _PARSERS.get(field)
    if parse is None:
        warnings.warn(f"{name} is not a setting of ringfence; it is ignored.", stacklevel=4)
        return
    try:
        values[field] = parse(text.strip())
    except ValueError:
        raise ConfigurationError(
            f"{name}={text!r} is not a {parse.__name__}.", f"Correct or unset {name}."
        ) from None


_default: Settings | None = None


def default_settings() -> Settings:
    """The process default, read once from the environment."""
    global _default
    if _default is None:
        _default = Settings.from_env()
    return _default
