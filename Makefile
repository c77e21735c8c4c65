# Every command a person or a machine runs here. `make demo` and `make test` set everything up themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
FOLDERS := freshet stream trainers serving encoders storage bench tests

# One thread inside each operation: two contend badly on busy machines.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export NUMBA_NUM_THREADS ?= 1

.PHONY: help demo demo-cluster serve test check bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## the whole loop on real events; DATA=PATH for your own, ARGS="--world" and the like are passed on
	@$(BIN)/freshet demo $(if $(DATA),--data "$(DATA)") $(ARGS)

demo-cluster: $(INSTALLED) ## the same on local Kafka and Redis, with two workers, a trainer and an api process; needs Java, Maven and redis-server
	@$(BIN)/python -m bench.demo_cluster $(if $(DATA),--data "$(DATA)") $(ARGS)

serve: $(INSTALLED) ## the embedded all-in-one; ARGS are passed on
	@$(BIN)/freshet serve $(ARGS)

test: $(INSTALLED) ## all tests, in two processes, with branch coverage; ARGS (paths, options) are one pytest's
	@echo "Running the tests with branch coverage (by file afterwards: $(BIN)/coverage report) ..."
	@$(BIN)/python -m $(if $(ARGS),pytest --cov --cov-report= --durations=10 --durations-min=1 $(ARGS),tests.side_by_side)

check: $(INSTALLED) ## ruff, mypy, import rules
	@echo "Checking style ..."
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@echo "Checking types ..."
	@$(BIN)/mypy --no-error-summary $(FOLDERS) $(wildcard examples/*.py)
	@echo "Checking which folder imports which ..."
	@PYTHONPATH=. $(BIN)/lint-imports > .venv/imports.log || { cat .venv/imports.log; exit 1; }
	@echo "All checks passed."

bench: $(INSTALLED) ## the engine at smoke size; ARGS replace the size
	@$(BIN)/python -m bench.engine --embedded $(or $(ARGS),--events 50000)

clean: ## remove reports and tool caches; .venv, downloads and data stay
	@rm -rf out dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A stamp, so that a second call is fast; it is redone when the dependencies change. The build tools go first, at their pins,
# so that building our own package needs no second download and no other version. Nothing is byte-compiled in advance: that took a
# third of the time, most of it for modules that nobody imports.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  echo "freshet needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1). Install one and say: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2> /dev/null || { \
	  echo "Creating the virtual environment .venv ..."; \
	  $(PYTHON) -m venv --clear .venv || { echo "Debian and Ubuntu keep venv apart: apt-get install python3-venv" >&2; exit 1; }; }
	@echo "Installing pinned dependencies into .venv (about 2 minutes, 5 GB; seconds if they are there) ..."
	@$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[dev]'
	@echo "Compiling inner loops (half a minute) ..."
	@$(BIN)/python -m freshet.rehearsal
	@touch $@
