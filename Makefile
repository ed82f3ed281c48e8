# `make demo` and `make test` need Python >= 3.10 with pip and venv, and nothing else. `make help` lists the rest.
#
#   PYTHON       the interpreter that .venv is made with            make test PYTHON=python3.12
#   PYTEST_ARGS  handed to pytest                                   make test PYTEST_ARGS="-k masks -x"
#   NUM_WORKERS  test processes                                     make test NUM_WORKERS=0
#   DEMO_ARGS    handed to `homodistil demo`                        make demo DEMO_ARGS="--output_dir runs/other"
#   COMPAT_…     interpreters of `make compat` and its two sisters  make compat COMPAT_PYTHONS="python3.12 python3.13"
#   REPOSITORY_URL  where the code is published, a link on the site  make docs REPOSITORY_URL=https://…
#   BENCH_ARGS   handed to the benchmark                           make bench BENCH_ARGS="--dtype float32"

PYTHON ?= python3
NUM_WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
COMPAT_PYTHONS ?= python3.10 python3.11 python3.12 python3.13
COMPAT_OLDEST_PYTHON ?= python3.10
COMPAT_NEWEST_PYTHON ?= python3.13

# Relative paths only: make splits names at spaces, and the checkout's own path may have some.
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt homodistil_hf/version.py

COMPAT = $(PYTHON) benchmarks/compat.py --num_workers $(NUM_WORKERS)

# Bytecode is kept: each run of the tests would take seconds to rewrite the assertions of all its files.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo bench test test-fast test-python compat compat-oldest compat-newest style quality pages docs wheel clean clean-cache

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

demo: $(VENV)/.installed-report  ## distil a small teacher, print the table (a minute and a half on 2 cores)
	$(BIN)/homodistil demo $(DEMO_ARGS)

bench: $(VENV)/.installed-report  ## measure how fast training is on this machine (some minutes on 2 cores)
	$(BIN)/python -m benchmarks.speed.bench $(BENCH_ARGS)

# A file's tests run in one process, which makes what they share once; the longest files are not the last.
BY_FILE = --numprocesses=$(NUM_WORKERS) --dist=loadfile --no-loadscope-reorder

# Temporary files in memory, where 2 GB of it are free, make tests that save checkpoints a fifth faster.
IN_MEMORY := $(if $(TMPDIR),,$(shell grep -qs ' /dev/shm [^ ]* [^ ]*noexec' /proc/mounts || \
  df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 2000 {print "TMPDIR=/dev/shm"}'))

test: $(VENV)/.installed-test,onnx,notebooks,search  ## run the test suite
	$(IN_MEMORY) OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(BY_FILE) -m "not docs" $(PYTEST_ARGS)

# What a change to the package is tried with again and again: neither slow tests nor those of benchmarks.
test-fast: $(VENV)/.installed-test,onnx  ## run the tests that take a moment each (a minute on 2 cores)
	$(IN_MEMORY) OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(BY_FILE) \
	  -m "not slow and not distributed" --ignore=tests/benchmarks $(PYTEST_ARGS)

# Other interpreters and versions: an environment each in .venv-compat/, kept; docs/results/compat.json has the outcomes.
test-python:  ## run the suite on PYTHON, in an environment of its own
	$(COMPAT) pinned --pythons $(PYTHON)

compat:  ## run the suite on every supported Python found here, and name those that are missing
	$(COMPAT) pinned --pythons $(COMPAT_PYTHONS)

compat-oldest:  ## run the suite with the oldest supported versions of all packages
	$(COMPAT) oldest --pythons $(COMPAT_OLDEST_PYTHON)

compat-newest:  ## run the suite with the newest versions that pip finds
	$(COMPAT) newest --pythons $(COMPAT_NEWEST_PYTHON)

style: $(VENV)/.installed-dev  ## let ruff format the code and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(VENV)/.installed-dev  ## check style, types and the import contract, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

PAGES = speed.page reliability.page results.page studies.page figures
pages: $(VENV)/.installed-test,onnx  ## write the pages of figures anew from the records in docs/results/
	$(BIN)/python docs/floors.py
	$(BIN)/python docs/architectures.py
	$(BIN)/python docs/features.py
	set -e; for page in $(PAGES); do $(BIN)/python -m benchmarks.$$page; done

docs: $(VENV)/.installed-docs $(VENV)/.installed-test,onnx,notebooks,search  ## build the documentation into site/, and run what it shows
	$(BIN)/python docs/settings.py
	$(BIN)/zensical build --clean --strict
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(BY_FILE) -m docs tests/package $(PYTEST_ARGS)

wheel: $(BIN)/python  ## build the wheel and the source archive into dist/, and check both
	rm -rf build dist
	$(PIP_INSTALL) setuptools twine
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --wheel-dir dist .
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(BIN)/twine check --strict dist/*

clean:  ## remove .venv, .venv-compat and everything that was built (keeps runs/)
	rm -rf $(VENV) .venv-compat build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find homodistil_hf tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

clean-cache: $(VENV)/.installed-report  ## remove cached texts and latency tables
	$(BIN)/homodistil cache --clear

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is not Python >= 3.10; name one that is: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: its ensurepip or venv module is missing." >&2; \
	  echo "Install it (Debian, Ubuntu: apt-get install python3-venv) or name another: make $(MAKECMDGOALS) PYTHON=..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# One stamp a set of extras: an install runs again only when a requirement changed.
$(VENV)/.installed-%: $(REQUIREMENTS) | $(BIN)/python
	@echo "installing homodistil-hf[$*] into $(VENV); the first time takes some minutes"
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@
