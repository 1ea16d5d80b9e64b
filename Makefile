# make repro and make test need nothing but Python 3.11 or later and a network to install from.

PYTHON ?= python3
VENV := .venv
# Found before .venv is on the path, and outside of any environment that is active.
BASE := $(shell $(PYTHON) -c 'import sys; print(sys._base_executable)' 2>/dev/null)
VERSION := $(shell $(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null)
# macOS has make 3.81, which finds a command on the PATH below only by way of a named shell.
SHELL := bash
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test test-slow test-browser soak load check bench schema docs

repro: $(VENV)/installed
	@[ -e .git ] || dvc config --local core.no_scm true
	dvc repro
	@echo "open results/index.html"

test: $(VENV)/installed
	python -m pytest

test-slow: $(VENV)/installed
	python -m pytest -m "not huge"

# The explorer in Chromium, which is Debian's or Playwright's own; skipped where there is none.
test-browser: $(VENV)/installed
	pip install -q playwright
	python -m pytest -m browser

# Faults on two cores. MINUTES=5 make soak is shorter; SEED=7 make soak draws the same again.
MINUTES ?= 60
soak: $(VENV)/installed
	python -m tests.faults --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) --json soak.json

# A million images in little memory: half an hour.
load: $(VENV)/installed
	python -m pytest -m huge

check: $(VENV)/installed
	ruff check .
	ruff format --check .
	mypy

bench: $(VENV)/installed
	python -m benchmarks.corpus
	python -m benchmarks.search
	python -m benchmarks.prefetch
	python -m benchmarks.pretrain
	python -m benchmarks.embed
	python -m benchmarks.evaluate
	python -m benchmarks.explore
	python -m benchmarks.predict
	@if python -c 'import ray, lance' 2>/dev/null; then python -m benchmarks.scale; fi
	python -m benchmarks.startup
	python -m benchmarks.whole

# After a change of rapipe/config/schema.py or rapipe/specs.py.
schema: $(VENV)/installed
	python -m rapipe.config.json_schema

# The site of the documentation, in site/, with its links checked.
docs: $(VENV)/installed
	python -c 'import mkdocstrings_handlers.python, zensical' 2>/dev/null || \
	  pip install -q -c constraints.txt -e '.[docs]'
	python -m website

# The file holds the version of Python that made the environment. Without it, or where PYTHON names
# another one, the environment is made anew.
MADE_BY := $(shell cat $(VENV)/installed 2>/dev/null)
ifeq ($(MADE_BY),)
.PHONY: $(VENV)/installed
else ifneq ($(origin PYTHON),file)
ifneq ($(MADE_BY),$(VERSION))
.PHONY: $(VENV)/installed
endif
endif
$(VENV)/installed: pyproject.toml constraints.txt
	@case "$(VERSION)" in 3.1[1-9]*|3.[2-9][0-9]*) ;; *) echo "rapipe needs Python 3.11 or later, \
	but $(PYTHON) is $(or $(VERSION),not there): name another, as in PYTHON=python3.12 make repro" \
	>&2; exit 2;; esac
	rm -rf $(VENV)
	$(BASE) -m venv $(VENV)
	pip install -q -c constraints.txt -e '.[dev]'
	echo $(VERSION) > $@
