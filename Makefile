# What is done with a checkout. Needs Python 3.11 or newer with pip; everything else goes into .venv, once.

PYTHON ?= python3
UV ?= uv

DEMO_STEPS ?= 80000
DEMO_SEEDS ?= 6

VENV := .venv
BIN := $(VENV)/bin
EXTRAS_base := minatar,report
EXTRAS_test := test
EXTRAS_lint := dev
EXTRAS_bench := bench

.PHONY: help demo test lint bench pins clean

help:
	@echo 'make demo    train four sources of targets on a game and write the report demo/report.html'
	@echo 'make test    run the tests'
	@echo 'make lint    check style, types and spelling'
	@echo 'make bench   measure speed'
	@echo 'make pins    write requirements/ anew (needs uv)'
	@echo 'make clean   remove .venv and caches; runs and reports stay'

# Goes on where it was interrupted, however often it is called.
demo: $(VENV)/base
	$(BIN)/sharedq compare minatar-space-invaders --seeds $(DEMO_SEEDS) --steps $(DEMO_STEPS) --out demo

test: $(VENV)/test
	$(BIN)/python -m pytest

lint: $(VENV)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell

bench: $(VENV)/bench
	@set -e; for name in $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/[a-z]*.py)); do \
	  echo "benchmarks.$$name"; $(BIN)/python -m "benchmarks.$$name"; done

pins:
	$(UV) pip compile pyproject.toml --extra dev $(COMPILE) --output-file requirements/lint.txt
	$(UV) pip compile pyproject.toml --extra test $(COMPILE) \
	  --constraint requirements/lint.txt --output-file requirements/test.txt
	$(UV) pip compile pyproject.toml --extra bench $(COMPILE) \
	  --constraint requirements/lint.txt --output-file requirements/bench.txt
	$(UV) pip compile pyproject.toml --extra $(subst $(comma), --extra ,$(EXTRAS_base)) $(COMPILE) \
	  --constraint requirements/lint.txt --output-file requirements/base.txt

comma := ,
COMPILE := --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url

# $(VENV)/NAME is touched when the extras of NAME are installed as requirements/NAME.txt pins them.
$(VENV)/%: requirements/%.txt pyproject.toml $(VENV)/made
	@echo 'installing into $(VENV); the first time takes minutes'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $< --editable '.[$(EXTRAS_$*)]'
	@touch $@

$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("sharedq needs Python 3.11 or newer, and\
	 $(PYTHON) is %d.%d: name another one, as in  make $(MAKECMDGOALS) PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
