# Two commands are the whole set-up, each complete in itself: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
S3_SERVER := $(VENV)/s3/.locked

.PHONY: demo test test-fast lint format protos lock clean

demo: $(LOCKED)
	$(BIN)/cloister demo $(ARGS)

# A process for each core. A file stays in one of them: its tests may share a server.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(LOCKED) $(S3_SERVER)
	$(PYTEST) $(ARGS)

test-fast: $(LOCKED) $(S3_SERVER)
	$(PYTEST) -m "not slow" $(ARGS)

lint: $(LOCKED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy trusted coordinator worker softtee broker recipient console protos simulations benchmarks
	$(BIN)/lint-imports

format: $(LOCKED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(LOCKED)
	$(BIN)/python -m protos.generate

# torch first and by its exact version: with that in place nothing later asks for another build of it.
$(LOCKED): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $(LOCKED)

# The S3 server of the tests lives apart: securesystemslib imports boto3 wherever it is installed, enclaves included.
$(S3_SERVER): tests/stores/requirements.txt $(LOCKED)
	$(BIN)/python -m venv $(VENV)/s3
	$(VENV)/s3/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/stores/requirements.txt
	touch $(S3_SERVER)

# Resolve anew, on purpose only: every enclave's measurement changes with this file.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0
	build/lock/bin/python -m pip install --quiet --editable '.[test]'
	head -n 1 constraints.txt > build/constraints.txt
	build/lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' >> build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
