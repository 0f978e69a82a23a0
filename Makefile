# Everything a user or a developer types. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup pipeline check fix test test-all bench bench-gpu bench-ppo bench-rollout bench-train clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a minute or two, once)"
	@$(PIP) --upgrade pip # a new one resolves in a third of the time
	@$(PIP) -e '.[dev]'
	@$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true # on every core; pip compiles on one
	@touch $@

setup: $(READY) ## make .venv with the pinned dependencies and the package, editable

pipeline: $(READY) ## base model to chat model on the practice world (ARGS="seed=1 out=runs/world-1")
	@$(BIN)/align pipeline recipes/world/pipeline.yaml $(ARGS)

check: $(READY) ## lint, format and types; writes nothing
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --no-cache --check .
	@$(BIN)/mypy --cache-dir $(VENV)/.mypy

fix: $(READY) ## let ruff mend what it can
	@$(BIN)/ruff check --no-cache --fix .
	@$(BIN)/ruff format --no-cache .

# Two processes with a thread each, a file's tests in one of them; ARGS="-n 0" is one process, ARGS="-k word" some tests.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY) ## the tests, slow ones left out (ARGS="-k word", ARGS="tests/losses")
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY) ## every test
	@$(PYTEST) $(ARGS)

bench: $(READY) ## every benchmark
	@for b in benchmarks/bench_*.py; do $(BIN)/python $$b || exit 1; done

bench-gpu: $(READY) ## on one GPU: sampling, SFT and PPO of a 1.1B LLaMA (ARGS="--only sample --runs 5")
	@$(BIN)/python benchmarks/bench_gpu.py $(ARGS)

bench-ppo: $(READY) ## an iteration of PPO beside TRL's last PPO; DeepSpeed's share (ARGS="--runs 1 --only small")
	@$(BIN)/python benchmarks/bench_ppo.py $(ARGS)

bench-rollout: $(READY) ## sampling beside transformers' generate, two actors beside one (ARGS="--runs 1")
	@$(BIN)/python benchmarks/bench_rollout.py $(ARGS)

bench-train: $(READY) ## training beside TRL's SFTTrainer and RewardTrainer (ARGS="--runs 1 --only sft-small")
	@$(BIN)/python benchmarks/bench_train.py $(ARGS)

clean: ## remove what was built, runs and .venv too
	rm -rf $(VENV) runs build dist *.egg-info
