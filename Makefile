# A virtual environment of its own, pinned by constraints.txt. No target needs sudo, containers or arguments.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help demo test check bench mutants torture lock clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v=sys.version_info[:2]; sys.exit(0 if v>=(3,11) else "ringfence needs Python 3.11+, found %d.%d" % v)'
	@$(PYTHON) -c 'import importlib.util as u, sys; sys.exit(None if u.find_spec("ensurepip") else "ensurepip is missing: install the python3-venv package of your system")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[all]' --group dev
	@touch $@

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

demo: $(STAMP)  ## the isolation demo; ends by itself (ARGS=... is passed on)
	@$(BIN)/python -m examples.agent_chat.demo $(ARGS)

test: $(STAMP)  ## all tests (ARGS="-k name")
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)  ## lint, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(STAMP)  ## benchmarks against peers (ARGS=... is passed on)
	@$(BIN)/python -m benchmarks $(ARGS)

mutants: $(STAMP)  ## break each law in a copy of the source and see a test fail (ARGS=... is passed on)
	@$(BIN)/python -m tests.mutants $(ARGS)
	@test -n "$(ARGS)" || $(BIN)/python -m tests.mutants --by simulation

torture: $(STAMP)  ## attack the library for under ten minutes (ARGS=... is passed on)
	@$(BIN)/python -m tests.torture $(ARGS)

lock: $(STAMP)  ## refresh constraints.txt (releases at least a week old; no addresses in it)
	@$(BIN)/uv pip compile -q pyproject.toml --all-extras --group dev --universal --no-header \
	  --no-annotate --exclude-newer "1 week" --upgrade -o constraints.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[all]' --group dev
	@touch $(STAMP)

clean:  ## remove the virtual environment, caches and build output
	@rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
