# make demo   set-up, then a real distillation on the embedded data set
# make test   set-up, then lint, types and all tests
ENV ?= torch211
TASK ?= det
METHOD ?=
DATA ?= digits
VENV := $(if $(filter torch21,$(ENV)),.venv-torch21,.venv)
PYTHON := $(VENV)/bin/python
PYTEST_ARGS ?=

.PHONY: demo test setup lint docs clean

setup:
	@$(firstword $(shell command -v python3.11 python3.12 python3.10 python3)) \
		tools/misc/setup_env.py $(ENV)

demo: setup
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) tools/demo.py \
		--task $(TASK) --data $(DATA) \
		$(if $(METHOD),--method $(METHOD)) \
		$(if $(DATA_ROOT),--data-root $(DATA_ROOT))

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Types are checked against one set of versions, whose stubs they follow.
test: $(if $(filter torch21,$(ENV)),setup,lint)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) -m pytest $(PYTEST_ARGS)

docs: setup
	$(PYTHON) -m pip install -q -r requirements/docs.txt
	$(PYTHON) -m sphinx -b html docs docs/_build

clean:
	rm -rf build dist *.egg-info work_dirs docs/_build
