"""Every mutant there is, of every module of this package that has a list of them."""

from __future__ import annotations

import importlib
import pkgutil

from . import __path__ as here
from .mutant import Mutant

__all__ = ["load"]

NO_LISTS = ("__main__", "mutant", "tables", "warm")


def load() -> list[Mutant]:
    """All of them, module by module."""
    found: list[Mutant] = []
    for module in pkgutil.iter_modules(here):
        if module.name not in NO_LISTS:
            found += importlib.import_module(f"{__package__}.{module.name}").MUTANTS
    return found
