# `make demo` and `make test` do everything on a fresh machine: they set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow lint format bench clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m conviction fit vgg7-bn/2 fashion-mini

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m 'not slow and not data and not gpu'

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m '(slow or data) and not gpu'

lint: setup
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ty check src

format: setup
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

# The tables of the README, about 15 minutes, and those that take hours, which can be stopped and gone on with.
# benchmarks/parity.py and benchmarks/finder.py need an environment with their peers; each says how to make it.
bench: setup
	$(BIN)/python benchmarks/seeds.py vgg7-bn/2 fashion-mini
	$(BIN)/python benchmarks/seeds.py lenet-bn fashion-mnist --epochs 10 --twice
	$(BIN)/python benchmarks/no_failures.py
	$(BIN)/python benchmarks/accuracy.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
