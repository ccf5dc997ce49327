# Everything is installed into .venv, from pyproject.toml under the pinned versions of constraints.txt (6.5 GB).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test test-ray test-other test-fast check format clean

quickstart: $(READY)
	$(BIN)/vitray quickstart

# The tests that start Ray mostly wait for processes, so the others run beside them. Both run to their end.
test: check
	$(MAKE) --no-print-directory --keep-going --jobs=2 test-ray test-other

test-ray: $(READY)
	$(BIN)/pytest -m ray

test-other: $(READY)
	$(BIN)/pytest -m "not ray" -p no:cacheprovider

test-fast: $(READY)
	$(BIN)/pytest -m "not ray and not slow and not gpu"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The marker is written last: an install that broke off is done again.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
