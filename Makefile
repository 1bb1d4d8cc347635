# Everything a newcomer needs, from a plain python3 (3.11 or newer), without root. `make help` lists it.
# Written for GNU make 3.81 as well, which is what macOS ships.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench chaos loadtest clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..." is handed on, e.g.  make test ARGS="-k fairness -x"   make demo ARGS="--serve"'
	@echo '  PYTHON=... names another interpreter, e.g.  make test PYTHON=python3.13'

demo: $(VENV)/.demo ## a noisy neighbour being contained, live in your terminal (at most a minute)
	@$(BIN)/ezthrottle demo $(ARGS)

test: $(VENV)/.dev ## all tests, with real servers, then again against the built wheel
	@echo "==> Running the tests"
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev ## style, formatting and strict types
	@echo "==> ruff check" && $(BIN)/ruff check .
	@echo "==> ruff format --check" && $(BIN)/ruff format --check .
	@echo "==> mypy --strict" && $(BIN)/mypy --strict

format: $(VENV)/.dev ## put the code into the house format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## every benchmark and comparison, one after another; figures in build/bench.json
	@$(BIN)/python -m loadtests.run_all bench $(ARGS)

chaos: $(VENV)/.dev ## kills, disconnects and faults; figures in build/chaos.json
	@$(BIN)/python -m loadtests.run_all chaos $(ARGS)

loadtest: $(VENV)/.dev ## locust, headless: one flood beside many quiet customers, and a control without the middleware
	@$(BIN)/python -m loadtests.run_locust $(ARGS)

clean: ## remove the environment and everything that was built
	@rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are rewritten when pyproject.toml changes. A demo needs a fifth of what the tests need.
$(VENV)/.demo: pyproject.toml
	$(call install,demo,the demo (some seconds))
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(call install,dev,everything that the tests and tools need (about a minute, once))
	@touch $@ $(VENV)/.demo

define install
	@command -v "$(PYTHON)" >/dev/null || \
	    { echo "There is no '$(PYTHON)' here. Python 3.11 or newer is needed: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$$("$(PYTHON)" --version 2>&1) is too old: 3.11 or newer is needed. If there is one under another name: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; exit 1; }
	@echo "==> Making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV) || \
	    { echo "Python's venv module does not work here (on Debian and Ubuntu it is the package python3-venv)." >&2; exit 1; }
	@echo "==> Installing $(2)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(1)]'
endef
