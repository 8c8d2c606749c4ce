# Needs python >= 3.11 and make, nothing else. `make` alone lists what there is.

PYTHON ?= python3
PRESET ?= ml-100k
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
SHELL  := /bin/sh

# $(PYTHON) must be there and be new enough; one sentence says what to do otherwise.
TOO_OLD = echo "fedrecall needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo missing); \
name another one: make simulate PYTHON=python3.12" >&2; exit 1
PYTHON_CHECK = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { $(TOO_OLD); }

.DEFAULT_GOAL := help
.PHONY: help install simulate deploy system-packages test test-slow mutations lint format docs clean clean-venv

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  Variables: PYTHON=$(PYTHON) (the interpreter of .venv)  PRESET=$(PRESET) (a preset or a TOML file)"

install: $(STAMP) ## Make .venv with everything that development and simulation need
	@:

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON_CHECK)
	@echo "Installing into $(VENV): about 2.4 GB on disk, 700 MB to download with a CPU build of PyTorch; 2 to 10 minutes."
	@echo "Where pip's default is a CUDA build of PyTorch, add 5 GB; it works, a CPU build is enough. Another package"
	@echo "index or a local folder of wheels is chosen by pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf)."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

simulate: ## Install, fetch data and text model, run the default simulation, print table and report
	@echo "A first simulation needs about 2.6 GB of disk ($(VENV) 2.4 GB, data and text model 0.2 GB) and 5 to 20 minutes"
	@echo "on two cores: installing and downloading once, then the run. Later runs only take the run's minutes."
	@$(MAKE) --no-print-directory install PYTHON=$(PYTHON)
	$(BIN)/fedrecall-sim run $(PRESET)

deploy: $(STAMP) ## A whole deployment on this machine's loopback: server, proxy, five devices; needs nginx
	$(BIN)/python deploy/loopback.py

system-packages: ## Debian packages that tests of the deployment need (as root); nothing else needs them
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $$(cat deploy/packages.txt)

test: lint ## All quick checks: ruff, mypy, layers, tests
	$(BIN)/pytest -q

test-slow: $(STAMP) ## Real runs, minutes each
	$(BIN)/pytest -q -m slow

mutations: $(STAMP) ## Break each invariant on purpose and show that a test notices
	$(BIN)/python tests/mutations.py

lint: $(STAMP) ## ruff, mypy, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP) ## Regenerate docs/config.md and docs/cli.md from the code
	$(BIN)/python docs/generate.py

clean: ## Remove caches and build products; keeps .venv and runs/
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find client server shared simulations tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv: ## Remove .venv
	rm -rf $(VENV)
