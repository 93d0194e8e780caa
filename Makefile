# `make chat` and `make test` set everything up from a fresh clone; they need Python 3.11+ and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Many small matrices on few cores: more threads than one only get in each other's way.
export OMP_NUM_THREADS = 1

.PHONY: chat test cover check format clean

chat: $(VENV)/.core
	@$(BIN)/attune chat --example

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

cover: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Attune needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	@echo "Setting up Attune's core in $(VENV) (about 80 MB, once)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml cascade/tts/f5-cpu.txt | $(VENV)/bin/python
	@echo "Setting up the engines and tools of the tests in $(VENV) (about 750 MB, once)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement cascade/tts/f5-cpu.txt
	@touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
