# make sweep: the main job on embedded data.   make test: everything that guards it.
PYTHON ?= python3
VENV := .venv
DOCS := .venv-docs
BIN := $(VENV)/bin
ARGS ?=

.PHONY: sweep reproduce test test-all lint bench docs clean

sweep: $(VENV)/.sweep
	$(BIN)/python -m sweeps.lth_grid $(ARGS)

# Repeats a result of results/: make reproduce RECIPE=digits
reproduce: $(VENV)/.sweep
	$(BIN)/python tools/reproduce.py $(RECIPE) $(ARGS)

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

docs: $(DOCS)/.docs
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build
	@echo "open build/site/index.html; to search it: $(PYTHON) -m http.server --directory build/site"

clean:
	rm -rf $(VENV) $(DOCS) build *.egg-info

$(VENV)/.sweep: pyproject.toml
	$(PYTHON) tools/install.py $(VENV)
	touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) tools/install.py $(VENV) test
	touch $@ $(VENV)/.sweep

$(VENV)/.bench: pyproject.toml
	$(PYTHON) tools/install.py $(VENV) bench
	touch $@

# An environment of its own, of 200 MB, made in half a minute: the site is made from the sources without importing them, so it needs no torch.
$(DOCS)/.docs: pyproject.toml
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet --group docs
	touch $@
