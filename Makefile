# The house: an environment in .venv, the demo, the tests, the checks of style and of floors.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
LAYERS_TREE := build/layers
OPENCL_PACKAGES := opencl-headers ocl-icd-libopencl1 pocl-opencl-icd oclgrind lld

.PHONY: demo test test-all lint layers opencl clean

demo: $(STAMP)
	$(BIN)/mest demo

# A process a core and one more, since some wait; a file's tests stay together, since they share what they compile.
# Modules are kept compiled whatever the shell says: the tests start many a Python.
WORKERS ?= $(shell echo $$(( $$(nproc) + 1 )))
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) --anew -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory layers

# The linter of floors reads one folder tree, so it gets the package as installed, with schedules/ and models/ inside.
layers: $(STAMP)
	@rm -rf $(LAYERS_TREE)
	@$(BIN)/python setup.py --quiet build_py --build-lib $(LAYERS_TREE)
	cd $(LAYERS_TREE) && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

# The runtime that runs OpenCL on TVM's stock wheel; it is compiled at its first use too.
opencl: $(STAMP)
	@$(BIN)/python -c 'from mest_compiler.runtime.opencl import build; print(build())'

clean:
	rm -f mest_compiler/runtime/opencl/*.so
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	  || { echo "mest: '$(PYTHON)' is not Python 3.10 or newer; install one and run, for example, 'make PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing the system package python3-venv" \
	       && apt-get -qq update && apt-get -qq install -y python3-venv; } \
	  || { echo "mest: '$(PYTHON)' cannot make virtual environments; install the system package python3-venv and run make again" >&2; exit 1; }
	@command -v g++ >/dev/null || command -v clang++ >/dev/null || command -v c++ >/dev/null \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing the system package g++" \
	       && apt-get -qq update && apt-get -qq install -y g++; } \
	  || { echo "mest: linking compiled kernels needs a C++ compiler; install the system package g++ and run make again" >&2; exit 1; }
	@missing=; for package in $(OPENCL_PACKAGES); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	  test -z "$$missing" \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing the system packages$$missing" \
	       && apt-get -qq update && apt-get -qq install -y $$missing; } \
	  || echo "mest: the tests of OpenCL and phones will fail without the system packages$$missing; all else works without them" >&2
	@echo "installing mest_compiler and what it needs into .venv (PyTorch and TVM: some minutes and gigabytes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@
