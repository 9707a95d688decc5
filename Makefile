# `make demo` and `make test` each work as the only command in a fresh clone; both make the environment first, with
# the versions of tests/constraints.txt. On Linux without a GPU,
# PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" fetches the small CPU build of torch.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONSTRAINTS := tests/constraints.txt
PIP := python -m pip install -q --disable-pip-version-check $(PIP_FLAGS)
PYTEST := python -m pytest -m "not slow and not gpu"

.PHONY: demo test gpu test-newest test-minimum constraints quality style clean

demo: $(READY)
	$(BIN)/python examples/demo/demo.py

test: quality
	$(BIN)/$(PYTEST) --durations=10

# What a GPU has to show, in under ten minutes on one H100: tests, whose CPU halves are in `make test`, and ours beside
# the peers, each in an environment of its own, on SmolLM2-135M and on Llama-3.1-8B's shape. Tables: gpu_output/.
PEERS := $(VENV)-peers
BENCHMARK := python examples/benchmarks/benchmark.py --peers $(PEERS) --timeout 120 \
	--methods forward diq diq_flex row_by_row_fp32 bergson dattri kronfluence sft_best online
gpu: $(READY) $(foreach peer,bergson dattri kronfluence,$(PEERS)/$(peer)/.ready)
	$(BIN)/python -m pytest -m gpu tests
	failed=0; \
	$(BIN)/$(BENCHMARK) --num_rows 1024 --output gpu_output/smollm2 || failed=1; \
	$(BIN)/$(BENCHMARK) --num_rows 192 --max_length 512 --max_tokens_per_batch 4096 --llama_8b \
		--output gpu_output/llama_8b || failed=1; \
	exit $$failed

$(PEERS)/%/.ready: examples/benchmarks/peer_env.sh $(READY)
	PYTHON=$(PYTHON) PIP_FLAGS="$(PIP_FLAGS)" $< $* $(@D) $(VENV)
	touch $@

# The whole suite with whatever is newest today, and with the oldest versions that setup.cfg allows. Their bounds: TRL
# 1.15 trains on no CPU and 1.14 reads texts otherwise, PEFT 0.20 goes around the hooks of its model, datasets 5.0.0
# reads no lists beside nulls. transformers and accelerate are the oldest that were tried with them; torch 2.10 is what
# scores whole models, and shards want 2.13 (they are refused before).
test-newest:
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/$(PIP) -e ".[demo,test]"
	$(VENV)-newest/bin/$(PYTEST)

test-minimum:
	$(PYTHON) -m venv --clear $(VENV)-minimum
	$(VENV)-minimum/bin/$(PIP) -e ".[demo,test]" $$(sed -n '/^install_requires/,/^$$/s/>=/==/p' setup.cfg)
	$(VENV)-minimum/bin/$(PYTEST)

# Writes the tested versions anew: the newest, less what is held back here and why.
# transformers 5.24 wants peft >= 0.22 for `model.add_adapter`, which is not released; torch 2.13 is what figures are of.
HELD := transformers<5.24 torch<2.14
constraints: $(READY)
	$(BIN)/$(PIP) uv
	printf '%s\n' $(foreach held,$(HELD),'$(held)') > $(VENV)/held.txt
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		-c $(VENV)/held.txt -o $(CONSTRAINTS) setup.cfg --extra demo --extra report --extra test

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-minimum $(PEERS) build *.egg-info

$(READY): setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute) …"
	$(BIN)/$(PIP) -c $(CONSTRAINTS) -e ".[demo,test]"
	touch $(READY)
