# Each target alone is enough on a fresh machine with Python 3.11+: all of them build the virtual environment first.
PYTHON ?= python3
VENV := .venv
OUT ?= out/quickstart
SEED ?= 0

.PHONY: setup quickstart test lint docs

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,deepspeed]'
	touch $@

# SEED=1 for another seed; SCRATCH=1 trains the tiny base checkpoint as well (half an hour more).
quickstart: setup
	$(VENV)/bin/rft quickstart --out $(OUT) --seed $(SEED) $(if $(SCRATCH),--scratch) $(if $(MEMORY),--memory)

# Two files at a time: most of the time is real processes starting.
test: setup
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy rft reward

# The documentation site, in build/docs; without network once the packages are there.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
