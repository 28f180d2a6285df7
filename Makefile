# From a bare machine with Python 3.11 and make: `make demo` or `make test`. All set-up happens in .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# A stamp says what is installed; touching pyproject.toml or constraints.txt makes it stale.
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt

.PHONY: demo test lint bench clean

demo: $(CORE)
	$(BIN)/unproject reconstruct --sample -o out/demo --overwrite
	$(BIN)/unproject validate out/demo
	@echo "Open the result in a browser: $(CURDIR)/out/demo/preview/index.html"

test: $(DEV) lint
	$(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=loadfile

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

bench: $(DEV)
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) out build dist .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "unproject needs Python 3.11 or newer, and found no python3; set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "unproject needs Python 3.11 or newer; $(PYTHON) is older; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --quiet torch
	$(PIP) --quiet --editable .
	@touch $@

$(DEV): $(CORE)
	$(PIP) --quiet --editable '.[dev]'
	@touch $@
