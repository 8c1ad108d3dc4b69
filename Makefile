# make quickstart   a first run, 3 minutes: MoCo v2 on embedded digits, evaluated
# make test         the tests, on all cores
# make lint         ruff and mypy
# make test-floors  the tests on the lowest versions that pyproject.toml admits
# make gate         does every method learn? (needs SSL_LIGHTNING_DATA, some hours)

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint format test-floors gate clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

quickstart: .venv/installed
	$(BIN)/python benchmarks/quickstart.py

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-floors:
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/python -m pip install --quiet uv
	.venv-floors/bin/uv pip install --quiet --python .venv-floors/bin/python --resolution lowest-direct --editable . --group dev
	.venv-floors/bin/python -m pytest -W default  # old releases warn of one another

gate: .venv/installed
	$(BIN)/python benchmarks/learn.py
	$(BIN)/python benchmarks/learn_masked.py
	$(BIN)/python benchmarks/learn_text.py
	$(BIN)/python benchmarks/learn_reversal.py
	$(BIN)/python benchmarks/learn_tracking.py
	$(BIN)/python benchmarks/learn_clip.py
	$(BIN)/python benchmarks/learn_zoo.py
	$(BIN)/python benchmarks/learn_semi.py
	$(BIN)/python benchmarks/learn_detection.py

clean:
	rm -rf .venv .venv-floors build *.egg-info .pytest_cache .mypy_cache .ruff_cache
