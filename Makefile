# Everything is installed into .venv, from pyproject.toml under the pinned versions of constraints.txt (6.5 GB).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test test-ray test-other test-cluster test-fast check faults soak audit format clean

quickstart: $(READY)
	$(BIN)/vitray quickstart

# The tests that start Ray mostly wait for processes, so three kinds run side by side: those of a local Ray, of clusters
# and faults, and all others. Each runs to its end.
test: check
	$(MAKE) --no-print-directory --keep-going --jobs=3 test-ray test-other test-cluster

test-ray: $(READY)
	$(BIN)/pytest -m ray --ignore tests/cluster --ignore tests/faults

test-other: $(READY)
	$(BIN)/pytest -m "not ray" -p no:cacheprovider

test-cluster: $(READY)
	$(BIN)/pytest -m ray -p no:cacheprovider tests/cluster tests/faults

test-fast: $(READY)
	$(BIN)/pytest -m "not ray and not slow and not gpu"

# Every row of the table of faults, in full (under 90 minutes on 2 cores), then the table. The soak is an hour more.
faults: $(READY)
	rm -f $(filter-out build/faults/row-15.jsonl, $(wildcard build/faults/*.jsonl))
	VITRAY_FAULTS=full $(BIN)/pytest tests/faults --timeout=3600 -m "not soak" -p no:cacheprovider; $(BIN)/python tests/faults/table.py

soak: $(READY)
	VITRAY_FAULTS=full $(BIN)/pytest tests/faults --timeout=7200 -m soak -p no:cacheprovider -s

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is installed (build/sbom.json, CycloneDX), and what of it is known to be vulnerable, by osv.dev. pip-audit has an
# environment of its own, so that it does not change the one it looks at.
audit: $(READY)
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit; }
	$(BIN)/python tools/audit.py build/sbom.json build/audit/bin/pip-audit

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
