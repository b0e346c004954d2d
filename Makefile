# make run    build the demo model's engines, stream two feeds through one of them, draw out/summary.png
# make test   the whole test suite
#
# Both make .venv from requirements.lock first. Another Python: make run PYTHON=python3.12
# With the packages of the system's Python too, on a Jetson TensorRT: make run VENV_OPTIONS=--system-site-packages

PYTHON ?= python3
VENV_OPTIONS ?=
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input

.PHONY: help setup run test lint format docs bench soak gpu-check lock clean distclean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n '/^make/p'
	@echo "make lint · format · docs · bench · soak · gpu-check · lock · clean · distclean"

run: setup
	@$(PY) -m edge demo

test: setup
	$(PY) -m pytest

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The generated tables of README.md and docs/.
docs: setup
	@$(PY) -m edge.docs

# Every benchmark answers one question and prints its numbers; dated results with the hardware's name go to
# benchmarks/results.
NO_BENCH := common gpu_check soak
bench: setup
	@for file in $(filter-out $(NO_BENCH:%=benchmarks/%.py),$(wildcard benchmarks/*.py)); do \
	  echo "== $$file"; $(PY) "$$file" || exit; done

# Live feeds with random faults for MINUTES: writes out/soak.json and out/soak.png, fails when something is violated.
MINUTES ?= 30
soak: setup
	@$(PY) benchmarks/soak.py --minutes $(MINUTES)

# What only a machine with an NVIDIA GPU can check (docs/gpu-check.md). It installs nothing and needs no network;
# where TensorRT or PyCUDA belong to another Python: make gpu-check GPU_PYTHON=python3. Without a GPU it ends with
# status 77, an error to make: what nobody looked at has not passed.
GPU_PYTHON ?= $(if $(wildcard .venv/installed),$(PY),$(PYTHON))
gpu-check:
	@$(GPU_PYTHON) benchmarks/gpu_check.py $(GPU_CHECK)

# Pinned and hashed for every supported Python and processor; names no index. Needs uv on the PATH.
LOCKED_EXTRAS := dicom pacs eval feeds report rtx dev
lock:
	uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes \
	  $(LOCKED_EXTRAS:%=--extra %) --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean:
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
	find engines -mindepth 1 -maxdepth 1 -not -name README.md -exec rm -rf {} +

setup: .venv/installed

# The last line makes the stamp: whatever is interrupted before it is done again next time.
.venv/installed: requirements.lock
	@command -v $(PYTHON) > /dev/null || { \
	  echo "error: no '$(PYTHON)' on the PATH"; \
	  echo "   do: install Python 3.10 or newer, or name one: make run PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.10 or newer: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
	  echo "   do: name one that is: make run PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments (venv or ensurepip is missing)"; \
	  echo "   do: on Debian and Ubuntu: sudo apt install python3-venv"; exit 2; }
	@echo "installing into .venv (the first time about a minute and 1 GB of disk)"
	@$(PY) -c '' 2> /dev/null || $(PYTHON) -m venv --clear $(VENV_OPTIONS) .venv
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@$(PY) -c 'import cv2' || { \
	  echo "error: OpenCV lacks a library of the system"; \
	  echo "   do: on Debian and Ubuntu: sudo apt install libgl1 libglib2.0-0"; exit 2; }
	@touch .venv/installed
