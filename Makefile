# Two commands on a fresh machine: `make demo` and `make test`. Each prints the plain commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A test for each core; `make test T=tests/losses` runs a part.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())")
T ?= tests
QUICK := tests/losses/test_response.py tests/losses/test_arguments.py \
  tests/augment/test_ops.py tests/experiment/test_experiment_views.py \
  tests/test_rooms.py tests/test_words.py \
  tests/training/test_training_loop.py::test_a_run_writes_its_directory

.PHONY: help install install-dev demo test quick slow lint docs clean

help:
	@echo "make demo    install into .venv, train a teacher and a student, compare with and without it"
	@echo "make test    install the test tools into .venv and run the tests; T=tests/losses for a part"
	@echo "make quick   losses, ops, views and one tiny run, in a minute with a warm compile cache"
	@echo "make slow    the tests that take minutes"
	@echo "make lint    ruff"
	@echo "make docs    build the documentation as pages into build/docs"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/python main.py --config=configs/digits_kd.py --workdir=runs/digits_kd
	$(BIN)/python main.py --config=configs/digits_kd.py:compare --workdir=runs/digits_compare \
	  --config.networks.teacher.checkpoint=runs/digits_kd/teacher
	$(BIN)/python -m kdaug_jax.analysis.compare runs/digits_compare --vary=terms.kd.weight

test: install-dev
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" --durations=10 $(T)

quick: install-dev
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(QUICK)

slow: install-dev
	$(BIN)/python -m pytest -m slow --durations=10

lint: install-dev
	$(BIN)/ruff check .

docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) build *.egg-info
