# The commands of a checkout; `make` alone lists them.
# Every path here is relative: make cannot name a file whose path has a space in it.

PYTHON ?= python3
TORCH_INDEX ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=

BIN := .venv/bin

# The environment's scripts and its link to this checkout hold absolute paths, so it is made anew where the checkout has
# moved, where its Python is gone, and where an installation was interrupted.
BROKEN := $(shell test "$$(cat .venv/.base 2>/dev/null)" = "$$(pwd -P)" && $(BIN)/python -c '' 2>/dev/null || echo yes)

.PHONY: help venv demo test soak lint typecheck bench docs clean clean-venv always

help:
	@echo 'CHORUS engine'
	@echo
	@echo '  make demo        learn an object from a simulated world whose truth is known; writes demo-output/'
	@echo '  make test        lint, mypy, then pytest on all processors'
	@echo '  make soak        the tests with every GPU target, world and moment, of which make test takes a part'
	@echo '  make bench       the benchmarks'
	@echo '  make docs        the documentation as a site: site/index.html'
	@echo '  make lint        ruff (rules and format) and import-linter (who may import whom)'
	@echo '  make typecheck   mypy --strict alone: chorus, its kernels and bench'
	@echo '  make venv        only the virtual environment, .venv, which all of the above make as far as they need it'
	@echo '  make clean       remove caches, build products and demo-output/'
	@echo '  make clean-venv  remove .venv'
	@echo
	@echo 'Variables'
	@echo '  PYTHON=python3.12   the Python to make .venv with: 3.10 or newer (default: python3)'
	@echo '  TORCH_INDEX=URL     the package index to take PyTorch from (default: the one pip uses). On Linux that one'
	@echo '                      gives the CUDA build, several gigabytes; for the CPU build, a tenth of that:'
	@echo '                      make venv TORCH_INDEX=https://download.pytorch.org/whl/cpu'
	@echo '  DEMO_ARGS, BENCH_ARGS, PYTEST_ARGS   passed on, as in: make test PYTEST_ARGS="-k store"'

venv: .venv/.complete
	@$(BIN)/python -c 'import platform, importlib.metadata as installed; \
	print(".venv is ready: Python", platform.python_version() + ", PyTorch", installed.version("torch"))'

# PyTorch comes first and by itself, so that nothing else decides which of its builds is taken; what it depends on comes
# with the rest. setuptools is installed before the project is built with it, so that its version is a pinned one too.
# The mark .made-by-make keeps us from removing a .venv that somebody made by hand.
.venv/.base: pyproject.toml constraints.txt setup.py $(if $(BROKEN),always)
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo 'make: there is no "$(PYTHON)" on this machine; name a Python of 3.10 or newer: make venv PYTHON=...' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'make: Python 3.10 or newer is needed, and "$(PYTHON)" is' "$$("$(PYTHON)" --version 2>&1);" \
	    'name a newer one: make venv PYTHON=...' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'make: "$(PYTHON)" has no venv module; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@test ! -e .venv || test -e .venv/.made-by-make || { \
	  echo 'make: .venv is there and was not made by this Makefile; move it away, or remove it: make clean-venv' >&2; exit 1; }
	@test -z "$(BROKEN)" || rm -rf .venv
	@mkdir -p .venv && touch .venv/.made-by-make && rm -f .venv/.base .venv/.complete
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt pip setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-deps $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torch
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e ".[figures3d,viewer]"
	@pwd -P > .venv/.base

# What tests and other work on the project need besides: four times as much.
.venv/.complete: .venv/.base
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch .venv/.complete

demo: .venv/.base
	$(BIN)/chorus demo -o demo-output $(DEMO_ARGS)

test: lint typecheck .venv/.complete
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

soak: export CHORUS_SOAK = 1
soak: test

lint: .venv/.complete
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports

# After lint, also under make -j: what one prints is not mixed with the other's.
typecheck: .venv/.complete | $(if $(filter test soak,$(MAKECMDGOALS)),lint)
	$(BIN)/python -m mypy

bench: .venv/.complete
	$(BIN)/python -m bench $(BENCH_ARGS)

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/.complete
	$(BIN)/python -m mkdocs build -q
	@echo 'wrote site/index.html'

clean:
	rm -rf site build dist *.egg-info demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find chorus kernels bench tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv:
	rm -rf .venv
