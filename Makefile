# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv first if it is missing. `make docs` builds the site into
# docs/_build/html, `make coverage` says which lines no fast test runs, `make release` builds and tries what would be published.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Where an environment forbids bytecode, every process that a test starts would compile torch again: 29 s instead of 10 to import it.
export PYTHONDONTWRITEBYTECODE :=
WORKERS ?= 2

.PHONY: demo test test-slow fast-tests lint docs coverage release setup clean

setup: $(READY)

# uv installs in a third of pip's time; it reads UV_INDEX_URL and UV_CONSTRAINT, not pip.conf. Python files are compiled when they are first imported: most of what is installed never is.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --editable ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Linting has one core's work only, so that it runs beside the tests.
test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 lint fast-tests

# One thread for each worker: several small tests at once beat one test on all cores. By file, so that what the tests of a file share is made once.
fast-tests: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --cov=coterie --cov-report=term-missing:skip-covered --cov-fail-under=90

release: $(READY)
	PYTHON=$(BIN)/python bash tools/release.sh

clean:
	rm -rf .venv runs dist docs/_build docs/results .pytest_cache .mypy_cache .ruff_cache
