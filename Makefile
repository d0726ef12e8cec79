# Everything that people and CI do here. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help install prepare prepare-database check format test test-unit test-database test-cluster demo demo-down bench bench-sidecar bench-operator clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[cli,sidecar,operator]' --group dev
	touch $@

install: $(VENV)/.installed ## Make the virtual environment

prepare: install ## Install and build what tests and the demo need of the machine (again: nothing to do)
	$(BIN)/python -m tests.support.cluster prepare

check: install ## Format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check prepare ## Everything: checks, unit, database and cluster tests
	$(BIN)/python -m pytest

test-unit: install ## Tests that need nothing but Python
	$(BIN)/python -m pytest tests/unit

prepare-database: install
	$(BIN)/python -m tests.support.packages postgresql

test-database: prepare-database ## Tests on a real PostgreSQL: the library, the sidecar, the operator's loop
	$(BIN)/python -m pytest tests/database tests/interop tests/sidecar tests/operator

test-cluster: prepare ## Tests on a real Kubernetes
	$(BIN)/python -m pytest tests/cluster tests/cluster_support

demo: prepare ## The main job on a real cluster, with a report at the end
	$(BIN)/python -m tests.demo

demo-down: install ## Remove everything that the demo made
	$(BIN)/python -m tests.demo down

bench: prepare-database ## Measure against the peers, write docs/performance.md (25 minutes; QUICK=1: 3, to build/bench)
	$(BIN)/python -m tests.bench $(if $(QUICK),--scale quick)

bench-sidecar: prepare ## Measure what sidecars cost, on the test cluster; write their part of docs/performance.md (15 minutes)
	$(BIN)/python -m tests.bench_sidecar

bench-operator: prepare ## Measure the operator with 10,000 queues and workers on the test cluster; write its part of docs/performance.md
	$(BIN)/python -m tests.bench_operator

clean: ## Remove what was made in the checkout
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
