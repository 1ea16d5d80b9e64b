# make repro and make test need nothing but Python 3.11 or later and a network to install from.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro test test-slow soak check bench

repro: $(VENV)/installed
	dvc repro
	@echo "open results/index.html"

test: $(VENV)/installed
	python -m pytest

test-slow: $(VENV)/installed
	python -m pytest -m "not huge"

# MINUTES=5 make soak is shorter; the million images take half an hour more.
MINUTES ?= 30
soak: $(VENV)/installed
	python -m soak --minutes $(MINUTES)
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
	python -m benchmarks.startup

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	pip install -q -c constraints.txt -e '.[dev]'
	touch $@
