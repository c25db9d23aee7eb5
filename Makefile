# Every target sets up what it needs: `make test` on a fresh clone is enough. Another Python: `make test PYTHON=python3.13`.
# All state is in .venv; nothing that was installed by hand is used.

SHELL := /bin/sh
export PYTHON
BIN := .venv/bin
# One test process per processor; one alone needs no help from others.
WORKERS ?= $(shell nproc 2>/dev/null || echo 1)
# What to give pytest besides: `make test TESTS="tests/test_store.py -k resume"`.
TESTS ?=
DEMO ?=
BENCH ?=
MINUTES ?= 10

.PHONY: help demo test check bench fuzz docs format clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## the whole story on loopback: a private registry, a registries.yaml, explain, pull, verify
	@tools/setup.sh run
	@$(BIN)/pierhead demo $(DEMO)

test: ## every test; as root on Debian or Ubuntu it first installs the real components they run against
	@tools/setup.sh dev
	@tools/components.sh
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS)

check: ## format, lint, types, import contracts, documents in step with the code
	@tools/setup.sh dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	@$(BIN)/lint-imports > .venv/contracts.log 2>&1 || { cat .venv/contracts.log; exit 1; }
	$(BIN)/python tools/docs.py --check

bench: ## measure against skopeo, curl and zstd; writes bench/RESULTS.md
	@tools/setup.sh dev
	@tools/components.sh
	@$(BIN)/python bench/run.py $(BENCH)

fuzz: ## throw broken files at `pierhead check` for ten minutes; keeps what fails in tests/corpus/fuzz
	@tools/setup.sh dev
	@$(BIN)/python tools/fuzz.py $(MINUTES)

docs: ## write the generated pages of docs/reference
	@tools/setup.sh dev
	@$(BIN)/python tools/docs.py

format: ## format and mend what can be mended
	@tools/setup.sh dev
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

clean: ## remove all that was made here
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
