# make demo   set-up, then a real distillation on the embedded data set
# make test   set-up, then lint, types and all tests
ENV ?= torch211
TASK ?= det
METHOD ?=
DATA ?= digits
TEACHER ?=
VENV := .venv$(if $(filter-out torch211,$(ENV)),-$(ENV))
PYTHON := $(VENV)/bin/python
PYTEST_ARGS ?= -n 2 --dist worksteal

.PHONY: demo test setup lint docs clean

setup:
	@for python in python3.11 python3.12 python3.10 python3.13 python3; do \
		$$python -c '' 2>/dev/null && \
		exec $$python tools/misc/setup_env.py $(ENV); \
	done; echo 'no Python 3 was found on PATH' >&2; exit 1

demo: setup
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) tools/demo.py \
		--task $(TASK) --data $(DATA) \
		$(if $(METHOD),--method $(METHOD)) \
		$(if $(DATA_ROOT),--data-root $(DATA_ROOT)) \
		$(if $(filter train,$(TEACHER)),--train-teacher)

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Types are checked against one set of versions, whose stubs they follow.
test: export OMP_NUM_THREADS := 1
test: export OMP_WAIT_POLICY := PASSIVE
test: $(if $(filter torch211,$(ENV)),lint,setup)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) -m pytest $(PYTEST_ARGS)

docs: setup
	$(PYTHON) -m pip install -q -r requirements/docs.txt
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build

clean:
	rm -rf build dist *.egg-info work_dirs docs/_build
