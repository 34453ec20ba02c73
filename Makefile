# make demo   from a fresh clone to a running rating app on real colorizations
# make test   everything, from a fresh clone to a green test suite
# make lint   ruff and mypy; make docs regenerates docs/; make clean removes .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=
PYTEST_ARGS ?=

.PHONY: help demo test lint docs clean browser
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/.runtime
	$(BIN)/percept demo $(DEMO_ARGS)

test: $(VENV)/.dev browser lint
	@$(BIN)/percept weights fetch alexnet >/dev/null 2>&1 \
	  || echo "The LPIPS weights cannot be fetched here: the one test that needs them is skipped"
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/examples.py
	$(BIN)/python docs/dose_response.py

browser: $(VENV)/.dev
	@$(BIN)/python tests/browser.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "percept needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "could not create $(VENV): install your system's python3-venv package"; rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "Installing percept and PyTorch into $(VENV) (about 5 GB, a few minutes) …"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing percept, PyTorch and the test tools into $(VENV) (about 5 GB, a few minutes) …"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV)
