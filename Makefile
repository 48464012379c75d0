# make demo   sets up, trains on real text and prints what the model writes
# make test   sets up and runs every check; make check does so in an environment that is there
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test check lint types tests slow golden docs wheel clean

setup: $(VENV)/.ready

# torch first and pinned: an open range would bring the CUDA build of the newest release
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/framework fit --config recipes/pretrain.yaml --resume auto
	$(BIN)/framework generate runs/pretrain "def" "class" --max_new_tokens 120 --temperature 0.8 --top_k 50 --seed 1

test: setup check

check: lint types tests

lint:
	$(BIN)/ruff check framework tests plugins benchmarks docs
	$(BIN)/ruff format --check framework tests plugins benchmarks docs

types:
	$(BIN)/mypy

# files side by side, a process each; more threads than processors would only wait for each other
tests:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

slow: setup
	$(BIN)/python -m pytest -m slow

# rewrites the stored numbers; look at the difference before committing it
golden: setup
	FRAMEWORK_GOLDEN=write $(BIN)/python -m pytest tests/test_golden.py

# the guide and the reference, into build/docs
docs: setup
	$(BIN)/python -m sphinx -W -q docs build/docs

wheel: setup
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
