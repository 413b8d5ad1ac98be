# `make help` lists the targets. They share one environment, .venv, made on demand and brought up to date whenever
# pyproject.toml or constraints.txt changes. ARGS goes to the command: make test ARGS="-k gradient -x".
# Other versions go into an environment of their own: make test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

PYTHON ?= python3
ARGS ?=
# Processes that share the tests, most of whose time is single-threaded compilation. 0: in this process, as --pdb needs.
WORKERS ?= 2

VENV := .venv
CONSTRAINTS := constraints.txt
# Those for which `make release` tries the wheel, as far as they are there.
PYTHONS := python3.11 python3.12 python3.13
BIN := $(VENV)/bin
RUNTIME := $(VENV)/installed
DEV := $(VENV)/installed-dev
DOCS := $(VENV)/installed-docs
NOTEBOOKS := $(VENV)/installed-notebooks
RELEASE := $(VENV)/installed-release
SUITES := $(VENV)/installed-suites
NOTEBOOK_FILES = $(wildcard notebooks/*.ipynb)
# tiny: quick, for tests; small: what is committed, two cores and minutes; full: a GPU.
SIZE ?= small

# Most of the tests' time is compilation. Those that learn run what users run, as do the demo and, but for SIZE=tiny, the
# notebooks.
# The emitters of fusions that XLA has taken since 2025 make quicker loops, and take twice as long to compile; the two
# passes over loops are a third of what is left.
QUICK_COMPILE := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
	--xla_cpu_use_fusion_emitters=false \
	--xla_disable_hlo_passes=while-loop-invariant-code-motion,simplify-while-loops
# What took longer than a tenth of a second to compile is kept: the slow tests compile much of what the fast ones have,
# and a second run takes half the time.
KEEP_COMPILED := JAX_COMPILATION_CACHE_DIR="$(CURDIR)/$(VENV)/compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
QUICKLY := $(KEEP_COMPILED) XLA_FLAGS="$(QUICK_COMPILE) $$XLA_FLAGS"
# Programs of the library as it was a while ago are of no use.
FORGET_OLD := find $(VENV)/compiled -type f -atime +7 -delete 2> /dev/null || true
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-slow test-exhaustive test-suites test-all lint types format bench bench-check notebooks \
	notebooks-save docs docs-serve build release clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Python: PYTHON=$(PYTHON) (3.11 or newer; choose with make TARGET PYTHON=/path/to/python)"

install: $(RUNTIME) ## install jaxpg and what it needs into .venv
	@echo "jaxpg is installed: $(BIN)/jaxpg --help"

demo: $(RUNTIME) ## install, then run the main job: estimate a gradient, train, plot
	$(BIN)/jaxpg demo $(ARGS)

test: $(DEV) ## run the fast tests
	@$(FORGET_OLD)
	$(QUICKLY) $(PYTEST) -m "not slow" $(ARGS)

# Fine where ARGS chooses others.
NONE_CHOSEN = [ $$? -eq $(if $(ARGS),5,-1) ]

test-slow: $(DEV) ## run the slow tests, of many of a kind only some
	$(QUICKLY) $(PYTEST) -m "slow and not learning and not exhaustive" $(ARGS) || $(NONE_CHOSEN)
	$(PYTEST) -m "learning and not exhaustive" $(ARGS) || $(NONE_CHOSEN)

test-exhaustive: $(DEV) ## run the slow tests that test-slow leaves out: an hour
	$(QUICKLY) $(PYTEST) -m "exhaustive and not learning" $(ARGS) || $(NONE_CHOSEN)
	$(PYTEST) -m "learning and exhaustive" $(ARGS) || $(NONE_CHOSEN)

test-suites: $(DEV) $(SUITES) ## install every suite of environments, and test their adapters
	$(QUICKLY) $(PYTEST) tests/suites $(ARGS)

test-all: test notebooks test-slow test-exhaustive test-suites ## run every test and notebook

lint: $(DEV) ## check style (ruff) and types (pyright)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

types: $(DEV) ## check types (pyright) alone
	$(BIN)/pyright

format: $(DEV) ## rewrite the code in ruff's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

bench-check: $(DEV) ## measure the goals of docs/performance.md; fails where one is missed
	$(BIN)/python -m benchmarks check $(ARGS)

notebooks: $(DEV) $(NOTEBOOKS) ## execute the notebooks (SIZE=tiny: quickly; SIZE=full: for a GPU); an error in a cell fails
	$(if $(filter tiny,$(SIZE)),$(QUICKLY)) JAXPG_NOTEBOOK_SIZE=$(SIZE) $(PYTEST) --nbmake --nbmake-timeout=900 \
		-o timeout=0 --durations=0 $(NOTEBOOK_FILES) $(ARGS)

notebooks-save: $(DEV) $(NOTEBOOKS) ## execute the notebooks (ARGS="02_variance": one) from their sources, and keep what they show
	JAXPG_NOTEBOOK_SIZE=$(SIZE) $(BIN)/python notebooks/_execute.py $(ARGS)

docs: $(DEV) $(DOCS) ## build the documentation into site/, and run the code of its pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest tests/test_readme.py tests/test_guides.py tests/test_site.py $(ARGS)

docs-serve: $(DOCS) ## show the documentation at http://127.0.0.1:8000, and build it anew where a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve $(ARGS)

build: $(RELEASE) ## build the wheel and the sdist into dist/
	rm -rf dist
	$(BIN)/python -m build . > /dev/null
	$(BIN)/twine check --strict dist/*

release: build ## build, and try the wheel in an empty environment of each Python of PYTHONS
	@tried=; for python in $(PYTHONS); do \
	    $$python -c '$(NEW_ENOUGH)' 2> /dev/null || { echo "$$python is not here: left out"; continue; }; \
	    folder=$$(mktemp -d) && $$python -m venv $$folder/env \
	        && $$folder/env/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) dist/*.whl \
	        && (cd $$folder && env/bin/python $(CURDIR)/tests/installed.py) || exit 1; \
	    rm -rf $$folder; tried=yes; \
	done; [ -n "$$tried" ] || { echo "None of $(PYTHONS) is here: name one with PYTHONS=" >&2; exit 1; }

clean: ## remove .venv, caches, built packages and pages; runs and outputs stay
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -------------------------------------------------------------------------------------------------

# A .venv is kept while it works, has a Python that is new enough, belongs to this folder (the scripts of a moved one
# point elsewhere), and is of the Python that PYTHON names, if the command line or the environment names one.
NAMED := $(if $(filter file,$(origin PYTHON)),,yes)
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
IS_WHOLE := import sys, importlib.util as u; sys.exit(sys.prefix == sys.base_prefix or u.find_spec("pip") is None)
WHICH := import sys; print(sys.base_prefix, sys.version)

$(VENV)/made: FORCE
	@works() { $(BIN)/python -c '$(NEW_ENOUGH)' && $(BIN)/python -c '$(IS_WHOLE)'; }; \
	here() { [ ! -e $@ ] || [ "$$(cat $@)" = "$(CURDIR)" ]; }; \
	same() { [ -z "$(NAMED)" ] || [ "$$($(PYTHON) -c '$(WHICH)')" = "$$($(BIN)/python -c '$(WHICH)')" ]; }; \
	if { works && here && same; } 2> /dev/null; then [ -e $@ ] || echo "$(CURDIR)" > $@; exit 0; fi; \
	problem=; if ! version=$$($(PYTHON) --version 2>&1); then problem="'$(PYTHON)' does not run"; \
	elif ! $(PYTHON) -c '$(NEW_ENOUGH)'; then problem="'$(PYTHON)' is $$version"; fi; \
	if [ -n "$$problem" ]; then \
	    echo "jaxpg needs Python 3.11 or newer, and $$problem. Name one that you have:" >&2; \
	    echo "    make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if [ -e $(VENV) ]; then echo "Making $(VENV) again: it is broken, was moved, or is of another Python."; fi; \
	rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && echo "$(CURDIR)" > $@

PIP_INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c $(CONSTRAINTS)

$(RUNTIME): $(VENV)/made pyproject.toml $(CONSTRAINTS)
	@echo "Installing jaxpg into $(VENV) (the first time takes a minute or two)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(DEV) $(DOCS) $(NOTEBOOKS) $(SUITES) $(RELEASE): $(VENV)/installed-%: $(VENV)/made pyproject.toml $(CONSTRAINTS)
	@echo "Installing jaxpg[$*] into $(VENV) (the first time takes a minute or two)"
	@$(PIP_INSTALL) -e '.[$*]'
	@touch $(RUNTIME) $@
