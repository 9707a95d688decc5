# `make demo` and `make test` each work as the only command in a fresh clone; both make the environment first.

PYTHON ?= python3
VENV ?= .venv
# The release that is tested. On Linux without a GPU, PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# fetches the small CPU build instead of the CUDA one.
TORCH ?= torch==2.13.0
PIP_FLAGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-minimum quality style clean

demo: $(READY)
	$(BIN)/python examples/demo/demo.py

test: quality
	$(BIN)/python -m pytest -m "not slow and not gpu" --durations=10

# The whole suite with the oldest versions that setup.cfg allows.
test-minimum:
	$(PYTHON) -m venv --clear $(VENV)-minimum
	$(VENV)-minimum/bin/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) -e ".[demo,test]" \
		$$(sed -n '/^install_requires/,/^$$/s/>=/==/p' setup.cfg)
	$(VENV)-minimum/bin/python -m pytest -m "not slow and not gpu"

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-minimum build *.egg-info

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute) …"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) -e ".[demo,test]"
	touch $(READY)
