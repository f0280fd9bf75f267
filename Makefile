# `make demo` and `make test` set up what they need, once. Variables:
#   VENV         folder of the virtual environment
#   PYTHON       the interpreter that makes it; by default the first one found that is 3.11 or 3.12
#   TORCH_INDEX  package index for torch alone, such as https://download.pytorch.org/whl/cpu
#   DOCKER_TARGET  cpu or cuda: the image of `make docker`
#   EXTRAS       of pyproject.toml to install: dev, or dev,kernels for the tests of kernels on a machine without a GPU
#   ARGS         of `make gpu-report`, such as ARGS="--budget 900 --out DIR"
# pip's own settings (PIP_INDEX_URL, pip.conf, ...) apply throughout.

VENV ?= .venv
PYTHON ?= python3.12 python3.11 python3
TORCH_INDEX ?=
ARGS ?=
EXTRAS ?= dev
DOCKER_TARGET ?= cpu

BIN := $(VENV)/bin
SHIPPED := results/agents/cartpole_swingup_baseline_cpu_seed_2
# One process more than there are cores, since some tests wait for SLURM or for a signal.
export PYTEST_XDIST_AUTO_NUM_WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal
STAMP := $(VENV)/.mlr-installed
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

.PHONY: demo test test-fast gl lint gpu-report docker clean

demo: $(STAMP) gl
	$(BIN)/python scripts/train_dmcontrol.py task=cartpole_swingup preset=quick run_dir=runs/demo
	$(BIN)/python scripts/compare.py runs/demo random $(SHIPPED) --episodes 5

test: $(STAMP) gl
	$(PYTEST)

test-fast: $(STAMP) gl
	$(PYTEST) -m "not slow and not slurm and not browser"

# The library that DMControl's pictures are drawn with.
gl: $(STAMP)
	@$(BIN)/python -c 'from dmcontrol.rendering import choose_backend; choose_backend()' 2>/dev/null && exit; \
	packages=$$($(BIN)/python -c 'from dmcontrol.rendering import PACKAGES; print(PACKAGES["egl"])'); \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends $$packages; \
	else \
	    echo "OpenGL is missing: the demo cannot render, and tests that do are left out. sudo apt-get install $$packages"; \
	fi

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Measures a GPU within a budget of seconds: docs/performance.md.
gpu-report: $(STAMP)
	$(BIN)/python scripts/gpu_report.py $(ARGS)

docker:
	docker build --target $(DOCKER_TARGET) --tag mlr-rl:$(DOCKER_TARGET) .

# setuptools comes first because everything that is built here, the project included, is built with the locked one.
$(STAMP): pyproject.toml requirements.lock | $(BIN)/pip
	@echo "Installing into $(VENV): 0.5 GB to download with torch for the CPU, 3.0 GB with CUDA."
	$(BIN)/python -m pip install --constraint requirements.lock setuptools
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install --no-deps --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.lock)"
endif
	$(BIN)/python -m pip install --no-build-isolation --constraint requirements.lock --config-settings editable_mode=compat --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/pip:
	@for python in $(PYTHON); do \
	    if $$python -c '$(FITS)' 2>/dev/null; then exec $$python -m venv $(VENV); fi; \
	done; \
	echo "error: no Python 3.11 or 3.12 with venv among: $(PYTHON)." \
	    "Install one (Debian: apt install python3.11-venv), or name it: make PYTHON=/path/to/python3.11" >&2; \
	exit 2

clean:
	@if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	rm -rf .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find atari auxiliaries commands dmcontrol harness mlr mwm recipes scripts studies tests -name __pycache__ -prune -exec rm -rf {} +
