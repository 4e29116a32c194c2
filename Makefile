# make demo | test | check | soak | format | clean-demo.  Each sets up what it needs, once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Test files side by side, as many as there are cores, four at most: many tests wait for processes.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
PINS := $(shell sha256sum pyproject.toml | cut -c1-12)
READY := $(VENV)/.ready-$(PINS)
READY_DEV := $(VENV)/.ready-dev-$(PINS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check soak soak-cluster bench bench-gpu test-gpu test-kernels format clean-demo

help:
	@echo 'make demo       text → shards → a GPT-2 that is killed, resumed, sampled, exported'
	@echo 'make test       all tests but those that take minutes each'
	@echo 'make check      format, lint, types, floors, fast tests'
	@echo 'make soak       the tests that take minutes each; MINUTES=60: runs that are hurt at random so long'
	@echo 'make soak-cluster  whole chains on a real SLURM, hurt at random for MINUTES=60; needs root and SLURM'
	@echo 'make bench      a step on this CPU beside nanoGPT, torch, default DeepSpeed: make bench NANOGPT=clone'
	@echo 'make bench-gpu  one GPU beside the peers that are there, under 9 minutes; NANOGPT=clone'
	@echo 'make test-gpu   what only a GPU can be asked'
	@echo 'make setup      only the virtual environment, in $(VENV)'

setup: $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py runs/demo

test: $(READY_DEV)
	$(PYTEST) -m "not soak and not gpu" -rs

check: $(READY_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(PYTEST) -q -m "not slow and not soak and not gpu"

soak: $(READY_DEV)
	$(if $(MINUTES),$(BIN)/python tests/end_to_end/soak.py --minutes $(MINUTES),$(BIN)/python -m pytest -m soak -rs -s)

soak-cluster: $(READY_DEV)
	$(BIN)/python tests/slurm/cluster_soak.py --minutes $(or $(MINUTES),60)

# A clone of karpathy/nanoGPT, whose model.py and loop are measured beside ours.
NANOGPT ?=
bench: $(READY_DEV)
	@test -f '$(NANOGPT)/model.py' || { echo 'usage: make bench NANOGPT=path/to/nanoGPT'; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/step.py $(NANOGPT)

bench-gpu: $(READY_DEV)
	$(BIN)/python benchmarks/gpu.py $(if $(NANOGPT),--nanogpt $(NANOGPT))

test-gpu: $(READY_DEV)
	$(BIN)/python -m pytest -m gpu -rs tests/pretrain
	$(BIN)/python -m pytest -rs tests/pretrain/step/test_softmax_kernel.py

# Triton alone, for its interpreter, where torch is a CPU build: beside the packages, not among them, as
# every process that finds it imports it.
TRITON := triton==3.7.1
test-kernels: $(READY_DEV)
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/triton '$(TRITON)'
	$(BIN)/python -m pytest -rs tests/pretrain/step/test_softmax_kernel.py

format: $(READY_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean-demo:
	rm -rf runs/demo

# torch comes first, and from where the machine needs it: PyPI's build carries CUDA; without a GPU the
# CPU build of the same version is a tenth of its size, if PyTorch's own index can be reached.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; use: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv $(VENV) || { echo 'No venv module; on Debian or Ubuntu: apt-get install python3-venv'; exit 1; }
	@echo 'Installing torch and deepspeed …'
	@index=$$(nvidia-smi -L 2>/dev/null | grep -q GPU || $(PYTHON) -c 'import urllib.request as u; \
	  url = "https://download.pytorch.org/whl/cpu"; u.urlopen(url + "/", timeout=5); \
	  print("--extra-index-url " + url)' 2>/dev/null); \
	pins=$$($(PYTHON) -c 'import tomllib; print(*[d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] \
	  if d.startswith(("torch==", "deepspeed=="))])'); \
	$(BIN)/python -m pip install --quiet $$index $$pins
	@echo 'Installing the rest …'
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(READY_DEV): $(READY)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
