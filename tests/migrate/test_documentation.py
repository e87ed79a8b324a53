"""The page about the commands names every rule, key and exit code that there is."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from ringfence.migrate.config import Config
from ringfence.migrate.rules import RULES

PAGE = (Path(__file__).parents[2] / "docs/migrating-commands.md").read_text()


@pytest.mark.parametrize("code", RULES)
def test_it_has_a_row_for_each_rule(code: str) -> None:
    rule = RULES[code]
    assert f"| `{code}` | {rule.title} | {rule.why or rule.does} |\n" in PAGE


def test_it_has_a_row_for_no_other() -> None:
    assert re.findall(r"^\| `(RM\d+)`", PAGE, re.MULTILINE) == list(RULES)


def test_it_names_every_key_of_the_configuration() -> None:
    keys = {field.name.replace("_", "-") for field in attrs.fields(Config)} | {"profile"}
    (table,) = re.findall(r"^\| key \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    named = {key for first in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
             for key in re.findall(r"`(.*?)`", first)}  # fmt: skip
    assert named == keys
