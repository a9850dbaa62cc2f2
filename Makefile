# Needs Python 3.11 or newer, with its venv module, and make. Every target installs what it needs into .venv first.

PYTHON ?= python3
WORKERS ?= auto
BIN := .venv/bin
# Modules are compiled when they are first imported, which few are: all of them would take a minute.
INSTALL = $(@D)/bin/python -m pip --disable-pip-version-check install --no-compile
TORCH := $(shell sed -n 's/^\(torch==[0-9.]*\).*/\1/p' constraints.txt)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# Each worker computes on one thread: small models are many times slower when threads compete for the cores.
# Who has nothing left takes from the others' ends, so that most files, with what they share, run in one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo check fast test tiers coverage fuzz lint conformance consumers surface docs tutorials bench bench-simplicial bench-attention bench-gpu wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/test.stamp  ## train, sample, plot, save and reload a small model (minutes on a CPU)
	$(BIN)/trine demo $(ARGS)

check: .venv/dev.stamp  ## style, types, structure, documentation and the fast tests, for every change (4 minutes on two cores)
	$(MAKE) --jobs 2 lint fast

fast: .venv/test.stamp
	$(PYTEST) -m "not thorough" $(ARGS)

test: .venv/test.stamp  ## run all tests
	$(PYTEST) $(ARGS)

tiers: .venv/test.stamp  ## run all tests, and write which are too long for `make check` into tests/thorough.txt
	$(PYTEST) --measure-tiers

coverage: .venv/test.stamp  ## run all tests, and list the share of lines that they run in every file of the package
	$(PYTEST) --cov --cov-report=term $(ARGS)

fuzz: .venv/test.stamp  ## draw thousands of random configs and bad values, and count what fails
	TRINE_FUZZ=1 OMP_NUM_THREADS=1 $(BIN)/pytest --capture=no --show-capture=no tests/properties

lint: .venv/dev.stamp  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# TESTS=FOLDER, the tests folder of a checkout of transformers, adds its tests of generation and exporters. PEERS=1 runs
# the tests on its own models, too, and writes what they skip into tests/conformance/skips.json.
conformance: export TRANSFORMERS_TESTS := $(TESTS)
conformance: export PEERS := $(PEERS)
conformance: .venv/test.stamp  ## run the common model tests of transformers on Trine's classes
	$(BIN)/python tests/conformance/upstream.py
	$(PYTEST) -rfE -o verbosity_subtests=0 tests/conformance $(ARGS)

consumers: .venv-consumers/consumers.stamp  ## run Trine beside its peers through other libraries, in docs/measurements/consumers.md
	rm -rf .cache/consumers
	@status=0; for way in package remote; do \
		OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-consumers/bin/pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal \
			--way $$way tests/consumers || status=1; \
	done; OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-consumers/bin/pytest tests/conversion/test_quantized_models.py || status=1; \
	exit $$status

surface: .venv/test.stamp  ## accept the public names, fields, options and weights as they are now, in tests/surface.json
	HF_HUB_OFFLINE=1 PYTHONPATH=tests:docs/builder $(BIN)/python tests/support/surface.py

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/docs.stamp  ## build the documentation into build/site, and look at it in a browser where there is one
	$(BIN)/python docs/builder/tables.py
	OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/site

tutorials: .venv/docs.stamp  ## run the tutorials with their full sizes, which `make docs` shows then (TUTORIAL=NAME: one)
	OMP_NUM_THREADS=1 $(BIN)/python docs/builder/tutorials.py $(TUTORIAL)

bench: .venv/test.stamp  ## compare speed and memory with Llama, Mixtral, BERT and T5, in docs/measurements/benchmarks.md
	$(BIN)/trine benchmark models
	$(BIN)/trine benchmark sizes
	$(BIN)/trine benchmark simplicial --parts chunks --report build/simplicial.md

bench-simplicial: .venv/test.stamp  ## compare 2-simplicial attention with other ways to compute it, in docs/measurements/benchmarks.md
	$(BIN)/trine benchmark simplicial

bench-attention: .venv/test.stamp  ## time and memory of every attention kind against length, in docs/measurements/benchmarks.md
	$(BIN)/trine benchmark attention

bench-gpu: .venv/test.stamp  ## check the Triton kernels on a GPU and measure there for 8 minutes, in docs/measurements/benchmarks.md
	$(BIN)/trine benchmark gpu $(ARGS)

wheel: .venv/test.stamp  ## build the source distribution and the wheel into dist/
	$(BIN)/python -m build

clean:  ## remove the virtual environment, caches, and everything built
	rm -rf .venv .venv-consumers .cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# .venv/test.stamp and .venv/dev.stamp: the environment with that extra; .venv/dev,docs.stamp: with two. torch comes
# first: left to the dependency resolver, Linux gets the CUDA build, which is several gigabytes, with or without a GPU.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Trine needs Python 3.11 or newer.")'
@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
@if nvidia-smi > /dev/null 2>&1 || [ "$$(uname)" = Darwin ]; then $(INSTALL) '$(TORCH)'; \
else $(INSTALL) --quiet '$(TORCH)+cpu' 2> /dev/null \
	|| $(INSTALL) '$(TORCH)+cpu' --extra-index-url $(TORCH_CPU_INDEX) \
	|| $(INSTALL) '$(TORCH)'; fi
$(INSTALL) --constraint constraints.txt --editable '.[$*]'
endef

.venv/%.stamp: pyproject.toml constraints.txt
	$(install)
	@touch $@

# Other libraries have versions of their own. langchain-huggingface says that it needs an older huggingface_hub than
# transformers does, so it comes without what it says it needs.
.venv-consumers/%.stamp: pyproject.toml constraints.txt
	$(install)
	$(INSTALL) --constraint constraints.txt --no-deps langchain-huggingface
	@touch $@
