PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint

demo: .venv/demo
	$(BIN)/unitx demo

test: .venv/test
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/test
	$(BIN)/pip install -q ruff mypy && $(BIN)/ruff check . && $(BIN)/mypy

# One stamp an extra: installed again only when pyproject.toml changes.
.venv/demo .venv/test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$(notdir $@)]"
	touch $@
