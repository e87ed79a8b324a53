"""Defects of what stands between injection and others: FastAPI, pytest."""

from __future__ import annotations

from .mutant import Mutant, mutant

BRIDGES = "tests/injection/test_bridges.py"
PLUGIN = "tests/test_pytest_plugin.py"

MUTANTS: list[Mutant] = [
    mutant(
        "bridges: FastAPI keeps what is to be made anew",
        "integrations/fastapi.py",
        "    return Depends(give, use_cache=False)\n",
        "    return Depends(give)\n",
        BRIDGES,
    ),
    mutant(
        "bridges: an override holds for the test after",
        "pytest_plugin.py",
        "                override.end()\n",
        "                pass\n",
        PLUGIN,
    ),
    mutant(
        "bridges: a test that has overridden fails when it ends",
        "pytest_plugin.py",
        "            with contextlib.suppress(ValueError):\n",
        "            with contextlib.nullcontext():\n",
        PLUGIN,
    ),
    mutant(
        "bridges: nobody ends an override",
        "pytest_plugin.py",
        "    yield overriding\n    overriding.end()\n",
        "    yield overriding\n",
        PLUGIN,
    ),
]
