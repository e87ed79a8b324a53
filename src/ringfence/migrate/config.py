"""The table `[tool.ringfence.migrate]` of the code base's `pyproject.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigurationError
from . import profile
from .paths import matches

__all__ = ["Config", "load"]

TABLE = "[tool.ringfence.migrate]"
Names = str | tuple[str, ...]


@attrs.frozen
class Config:
    """
    What is legacy in one code base, and where to look for it. An immutable value.

    Attributes:
        modules: pattern of an old module (`*.services.user_execution_context`; `*.` is any
            package, or none) → its legacy names, or `"all"`.
        receivers: names that a context usually has.
        trust_receivers: whether such a name alone is enough to rewrite what is done with it.
        agent_keys, audit_keys: where the keys of the old `metadata` belong.
        other_keys: `"person"`, or `"agent"`: keys in neither list belong to `agent_context`.
        exclude: path patterns of files to leave alone.
        priorities: priority → path patterns; the first that fits decides.
    """

    modules: dict[str, Names] = attrs.field(factory=lambda: dict(profile.MODULES))
    receivers: tuple[str, ...] = profile.RECEIVERS
    trust_receivers: bool = False
    agent_keys: tuple[str, ...] = profile.AGENT_KEYS
    audit_keys: tuple[str, ...] = profile.AUDIT_KEYS
    other_keys: str = "person"
    exclude: tuple[str, ...] = ()
    priorities: dict[str, tuple[str, ...]] = attrs.field(factory=lambda: dict(profile.PRIORITIES))

    def legacy_names(self, module: str) -> Names | None:
        """The legacy names of a module; `None` if it is not an old one."""
        for pattern, names in self.modules.items():
            if module == pattern:
                return names
            if pattern.startswith("*.") and f".{module}".endswith(pattern[1:]):
                return names
        return None

    def is_legacy(self, module: str, name: str) -> bool:
        """Whether a name of a module is legacy."""
        names = self.legacy_names(module)
        return names == profile.ALL or (isinstance(names, tuple) and name in names)

    def leaves(self) -> frozenset[str]:
        """The last parts of the old modules' names: what a file that uses one must mention."""
        return frozenset(pattern.rpartition(".")[2] for pattern in self.modules)

    def priority(self, path: str) -> str:
        """Which priority a file has."""
        for name, patterns in self.priorities.items():
            if matches(path, patterns):
                return name
        return "production"


# --- reading it -------------------------------------------------------------------------------


def load(folder: Path) -> Config:
    """
    The table of the nearest `pyproject.toml` at or above a folder; the ready profile if none.

    Raises:
        ConfigurationError: the file or the table cannot be read, or holds what it may not.
    """
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if file.is_file():
            return parse(_table(file))
    return Config()


def _table(file: Path) -> dict[str, Any]:
    try:
        found: Any = tomllib.loads(file.read_text(encoding="utf-8"))
        for name in ("tool", "ringfence", "migrate"):
            found = found.get(name, {})
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"`{file}` cannot be read: {error}.", f"Mend it; {TABLE} is looked for in it."
        ) from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{TABLE} of `{file}` is not a table.", "Write it as one.")
    return found


def parse(table: dict[str, Any]) -> Config:
    """A configuration from the contents of the table."""
    given = dict(table)
    chosen = given.pop("profile", "supervisor")
    if chosen not in ("supervisor", "none"):
        raise _wrong("profile", chosen, '"supervisor" or "none"')
    known = {field.name.replace("_", "-"): field.name for field in attrs.fields(Config)}
    for key in given:
        if key not in known:
            raise _unknown(key, [*known, "profile"])
    read: dict[str, Any] = {known[key]: _READ[known[key]](key, given[key]) for key in given}
    return _merged(read, chosen == "supervisor")


def _merged(read: dict[str, Any], with_profile: bool) -> Config:
    """Lists of one's own are added to the profile's; priorities replace it one by one."""
    ready = Config()
    for name in ("modules", "agent_keys", "audit_keys", "receivers") if with_profile else ():
        if name in read and name == "modules":
            read[name] = {**ready.modules, **read[name]}
        elif name in read and name != "receivers":
            read[name] = tuple(sorted({*getattr(ready, name), *read[name]}))
    if not with_profile:
        read.setdefault("modules", {})
    if "priorities" in read:
        read["priorities"] = {**read["priorities"], **{
            name: patterns
            for name, patterns in ready.priorities.items()
            if name not in read["priorities"]
        }}  # fmt: skip
    both = set(read.get("agent_keys", ready.agent_keys)) & set(
        read.get("audit_keys", ready.audit_keys)
    )
    if both:
        raise ConfigurationError(
            f"{TABLE}: `{sorted(both)[0]}` is in both `agent-keys` and `audit-keys`.",
            "A key belongs to one dictionary; leave it out of the other list.",
        )
    return Config(**read)


def _unknown(key: str, known: list[str]) -> ConfigurationError:
    near = difflib.get_close_matches(key, known, 1)
    meant = f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(sorted(known))}."
    return ConfigurationError(f"{TABLE} has no key `{key}`.", meant)


def _wrong(key: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{TABLE}: `{key}` is {value!r}.", f"It has to be {wanted}.")


def _strings(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise _wrong(key, value, "a list of strings")
    return tuple(value)


def _truth(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _home(key: str, value: Any) -> str:
    if value not in ("person", "agent"):
        raise _wrong(key, value, '"person" or "agent"')
    return str(value)


def _is_module(name: str) -> bool:
    return all(part.isidentifier() for part in name.removeprefix("*.").split("."))


def _modules(key: str, value: Any) -> dict[str, Names]:
    if not isinstance(value, dict):
        raise _wrong(key, value, 'a table: module = "all" or a list of names')
    found: dict[str, Names] = {}
    for module, names in value.items():
        if not _is_module(module):
            raise _wrong(key, module, "a dotted module, with `*.` at most in front of it")
        found[module] = names if names == profile.ALL else _strings(f"{key}.{module}", names)
    return found


def _patterns(key: str, value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise _wrong(key, value, "a table: priority = list of path patterns")
    strange = sorted(set(value) - set(profile.ORDER))
    if strange:
        raise _unknown(f"{key}.{strange[0]}", [f"{key}.{name}" for name in profile.ORDER])
    return {name: _strings(f"{key}.{name}", patterns) for name, patterns in value.items()}


_READ: dict[str, Callable[[str, Any], Any]] = {
    "modules": _modules,
    "receivers": _strings,
    "trust_receivers": _truth,
    "agent_keys": _strings,
    "audit_keys": _strings,
    "other_keys": _home,
    "exclude": _strings,
    "priorities": _patterns,
}
