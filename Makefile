# Every target does its own set-up: Python 3.11 or newer, git and make are all that a fresh machine needs.
PYTHON ?= python3
SEED ?= 0
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

# Two torch or BLAS threads on busy cores slow every process down; the programs set their own numbers.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: setup quickstart test faults lint bench docs proto clean help

help: ## show this list
	@echo "usage: make TARGET [PYTHON=python3.12] [SEED=0] [ARGS='...']"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## install everything into .venv (the other targets do this themselves)

quickstart: $(STAMP) ## train all phases on this machine; the same command resumes (SEED=0, ARGS='key=value ...')
	$(BIN)/servofleet train experiment=quickstart seed=$(SEED) $(ARGS)

test: $(STAMP) ## run the tests (ARGS='-k name' narrows them)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: $(STAMP) ## kill processes, break disks and cut networks, for an hour or so (ARGS='-k name')
	$(BIN)/python -m pytest -m faults $(ARGS)

lint: $(STAMP) ## formatting, lint, strict types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## measure the whole pipeline on this machine
	$(BIN)/servofleet bench pipeline $(ARGS)

docs: $(STAMP) ## write the reference pages of docs/ from the code
	$(BIN)/python docs/make_reference.py

# Code of a newer compiler refuses the older protobuf of other environments, such as Isaac Sim's; this one's runs on all.
proto: $(STAMP) ## generate the wire's Python code from the .proto files
	@test -x .venv/proto/bin/python || { $(BIN)/python -m venv .venv/proto && \
	  .venv/proto/bin/python -m pip install --disable-pip-version-check --quiet 'grpcio-tools==1.62.3' 'setuptools<81'; }
	.venv/proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. common/proto/servofleet/v1/*.proto
	$(BIN)/python -m common.proto.compatibility

clean: ## remove build outputs and caches (.venv and runs/ stay)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true); servofleet needs Python 3.11 or newer: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { \
	  echo "make: '$(PYTHON) -m venv' failed; Debian and Ubuntu keep it in the package python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@
