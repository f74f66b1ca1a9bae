# make sweep: the main job on embedded data.   make test: everything that guards it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: sweep test test-all lint bench clean

sweep: $(VENV)/.sweep
	$(BIN)/python -m sweeps.lth_grid $(ARGS)

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(VENV)/.test lint
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/sweep_vs_stock.py $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/.sweep: pyproject.toml
	$(PYTHON) tools/install.py $(VENV)
	touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) tools/install.py $(VENV) test
	touch $@ $(VENV)/.sweep

$(VENV)/.bench: pyproject.toml
	$(PYTHON) tools/install.py $(VENV) bench
	touch $@
