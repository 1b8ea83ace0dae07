# Everything runs in .venv, which is made on first use. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
# What the notebooks run at: smoke takes seconds, laptop is what the committed outputs show.
SCALE ?= smoke

.PHONY: help demo test lint format notebooks docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       train, shrink and export small networks on real digits, in a few minutes"
	@echo "make test       the test suite; SLOW=1 adds the slow tests, NOTEBOOKS=1 the notebooks, COVERAGE=1 measures coverage"
	@echo "make lint       style of code and notebooks, and types"
	@echo "make format     rewrite code and notebooks in that style"
	@echo "make notebooks  run every notebook from top to bottom; SCALE=smoke|laptop|study|paper"
	@echo "make docs       the site, in build/site; needs no TensorFlow"
	@echo "make clean      remove the virtual environment and everything that was built"

demo: .venv/installed
	$(BIN)/python -m tfjointrd demo

test: .venv/installed-test
	$(if $(NOTEBOOKS),TFJOINTRD_SCALE=smoke) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(if $(SLOW),--slow) $(if $(COVERAGE),--cov --cov-report=term) $(if $(NOTEBOOKS),--notebooks) tests

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: .venv/installed-test
	TFJOINTRD_SCALE=$(SCALE) $(BIN)/python -m pytest --notebooks $(if $(filter smoke,$(SCALE)),-n auto --maxprocesses 4) tests/test_notebooks.py

# The site is built from the files alone, in an environment of its own.
docs: build/docs-venv/installed
	$(PYTHON) docs/site.py
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/python -m mkdocs build --strict --quiet

build/docs-venv/installed: docs/requirements.txt
	$(PYTHON) -m venv build/docs-venv
	build/docs-venv/bin/python -m pip install --quiet --requirement $<
	@touch $@

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .mypy_cache .coverage *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
		echo "tfjointrd needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu, install the package python3-venv." >&2; exit 1; }

WITH_TESTS := .[all,test]
# pip would compile what it installs on one core, and tests of packages too.
# With editable_mode=compat a script in the folder that holds the clone imports the package too, not the folder.
define install
	@echo "Installing into .venv; the first time takes a few minutes and 3 GB ..."
	$(BIN)/python -m pip install --quiet --no-compile --config-settings editable_mode=compat --editable '$(1)'
	@$(BIN)/python -m compileall -q -j 0 -x '/tests?/' .venv/lib > /dev/null || true # some files are for another Python
	@touch .venv/installed $@
endef

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	$(call install,.[all])

.venv/installed-test: .venv/bin/python requirements.txt pyproject.toml
	$(call install,$(WITH_TESTS))
