# Needs Python 3.11 or newer with pip; everything else is installed below .venv and .venv-uv from hash-checked requirements: all extras.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
export BIN := .venv/bin
RUN := $(BIN)/python
TOOL := .venv-uv
STAMP := .venv/.installed
export UV := $(CURDIR)/$(TOOL)/bin/uv
export UV_PYTHON_DOWNLOADS := never
# By default torch's threads wait for each other so busily that one other process makes a training step ten times slower.
export GOMP_SPINCOUNT ?= 2000

# Two test processes of one thread each are faster on two cores than one process of two threads.
WORKERS ?= 2

# The lowest versions are tried where they may be too old to know our words: types, files, networks, the public surface.
LOWEST_TESTS ?= tests/unit/api tests/unit/test_packaging.py tests/unit/models/test_export.py tests/unit/models/test_bundle.py \
	tests/unit/storage tests/unit/data/test_decoding.py tests/unit/tracking tests/unit/steps tests/pipelines/test_compile.py

.PHONY: help setup bytecode lock lock-images lock-images-cpu lowest demo seeds bench demo-split results test soak check mutants goldens chart graph images compile clean

help: ## Say what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

setup: $(STAMP) ## Install everything into .venv (other targets do it by themselves)

# PYTHONDONTWRITEBYTECODE is dropped: without .pyc files kfp, mlflow and typer import two to three times slower in every step.
$(STAMP): $(UV) requirements/locked.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Distillery needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON=/path/to/it.")'
	@[ -x $(RUN) ] || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" .venv
	@echo "Installing into .venv: about 6 GB, a few minutes the first time."
	env -u PYTHONDONTWRITEBYTECODE $(UV) pip install --quiet --python $(RUN) --require-hashes --compile-bytecode -r requirements/locked.txt
	env -u PYTHONDONTWRITEBYTECODE $(UV) pip install --quiet --python $(RUN) --no-deps --no-build-isolation -e .
	env -u PYTHONDONTWRITEBYTECODE $(RUN) -m compileall -q src components pipelines
	@touch $@

# Debian's python3 may come without ensurepip: then pip installs uv into a plain folder.
$(UV): requirements/bootstrap.txt
	@rm -rf $(TOOL)
	@if $(PYTHON) -m venv $(TOOL) >/dev/null 2>&1; then \
		$(TOOL)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<; \
	else \
		rm -rf $(TOOL); \
		$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --target $(TOOL) -r $<; \
	fi
	@touch $@

# After an edit, where PYTHONDONTWRITEBYTECODE is set, every process of a run would compile our sources for itself, and every process of
# the suite all tests.
bytecode: $(STAMP)
	@env -u PYTHONDONTWRITEBYTECODE $(RUN) -m compileall -q src components pipelines

COMPILE = $(UV) pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: $(UV) ## Resolve the dependencies of pyproject.toml anew, with hashes and without addresses; those of the images follow
	$(COMPILE) --extra all --extra dev pyproject.toml -o requirements/locked.txt
	echo uv | $(COMPILE) --no-annotate - -o requirements/bootstrap.txt
	@$(MAKE) lock-images

# kfp brings what its launcher's command runs and none of its dependencies, which a step never imports. The tools have no torch, and of
# mlflow what asks a server. UV_INDEX names further indexes, such as one of CPU builds of torch; `lock-images-cpu` takes torch from there.
FOR_IMAGES = $(COMPILE) --no-annotate -c requirements/locked.txt

lock-images: $(UV)
	echo setuptools | $(FOR_IMAGES) - -o requirements/build.txt
	echo kfp | $(FOR_IMAGES) --no-deps - -o requirements/kfp.txt
	$(FOR_IMAGES) --extra mlflow --extra s3 --extra timm pyproject.toml -o requirements/runtime.txt
	echo mlflow-skinny | $(FOR_IMAGES) --override images/without-torch.txt --extra kubeflow --extra s3 - pyproject.toml -o requirements/tools.txt

lock-images-cpu: $(UV) ## The same for the runtime on CPUs alone: UV_INDEX=ADDRESS of an index that holds torch's CPU build
	@[ -n "$(UV_INDEX)" ] || { echo "Give UV_INDEX=ADDRESS of an index with torch's CPU build: without one its hashes cannot be read." >&2; exit 1; }
	UV_INDEX=$(UV_INDEX) $(FOR_IMAGES) --index-strategy unsafe-best-match --extra mlflow --extra s3 --extra timm pyproject.toml -o requirements/runtime-cpu.txt

lowest: $(UV) ## Check and try the lowest versions that pyproject.toml allows, in .venv-lowest: about 7 GB, a quarter of an hour
	$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv-lowest
	$(UV) pip compile -q --python-version 3.11 --resolution lowest-direct --no-header --extra all --extra dev pyproject.toml -o .venv-lowest/lowest.txt
	$(UV) pip install --quiet --python .venv-lowest/bin/python -r .venv-lowest/lowest.txt
	$(UV) pip install --quiet --python .venv-lowest/bin/python --no-deps --no-build-isolation -e .
	touch .venv-lowest/.installed
	$(MAKE) check BIN=.venv-lowest/bin STAMP=.venv-lowest/.installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q $(LOWEST_TESTS)

demo: bytecode ## Teacher on real digits, images deleted, two students distilled without them: under 5 minutes on 2 cores
	$(RUN) -m distillery_kfp.pipelines.demo.run

seeds: $(STAMP) ## Every method with seeds 0, 1, 2; fails where an accuracy bar is missed
	$(RUN) benchmarks/seeds.py

bench: $(STAMP) ## FastDFKD's speed beside a plain loop that does what the reference code does, and what each habit costs
	$(RUN) benchmarks/bench.py

demo-split: $(STAMP) ## The demo's time by step: start-up, imports, work; and its peak memory
	$(RUN) benchmarks/demo_split.py

results: $(STAMP) ## Write docs/results.md from the files in benchmarks/results
	$(RUN) benchmarks/publish.py

test: bytecode ## Every test, in two processes
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist worksteal $(PYTEST)

soak: bytecode ## What takes too long for make test: every byte of small files flipped, all toy networks; no time limit
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist worksteal -m soak --timeout 0 $(PYTEST)

check: $(STAMP) ## Lint, format, types, import contracts, house rules, generated READMEs, goldens: under 2 minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	.ci/imports
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q tests/unit/test_house.py tests/unit/test_import_graph.py
	@$(RUN) -m distillery_kfp.pipelines.readme --check || { echo "These READMEs of components differ from what their code says: run $(RUN) -m distillery_kfp.pipelines.readme."; exit 1; }
	@$(RUN) -m distillery_kfp.pipelines.chart --check || { echo "These files of the chart differ from what they are made from: run make chart."; exit 1; }
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; $(BIN)/distillery compile --out "$$fresh" >/dev/null; \
		diff -ru tests/pipelines/golden "$$fresh" || { echo "The compiled pipelines differ from their goldens: look at the difference, then run make goldens."; exit 1; }

mutants: $(STAMP) ## Break the code on purpose, one line at a time, and see a test fail for each
	OMP_NUM_THREADS=1 $(RUN) tests/mutants/run.py

goldens: $(STAMP) ## Write the compiled pipelines that the tests compare with
	$(BIN)/distillery compile --out tests/pipelines/golden

chart: $(STAMP) ## Write what of charts/distillery is generated: its table of keys and images, its schema's keys, its README
	$(RUN) -m distillery_kfp.pipelines.chart

graph: $(STAMP) ## Draw the rooms and the arrows between them into docs/architecture.md
	$(RUN) tests/import_graph.py

# Images are for the machines of a cluster; the make of this machine only passes on what it was given.
ENGINE ?= docker
images: $(STAMP) ## Build images/Containerfile as runtime and tools: REGISTRY=HOST/PREFIX PUSH=1 writes digests; BASE, INDEX, UV_INDEX, ENGINE
	$(RUN) images/build.py $(ROWS) --engine $(ENGINE) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(PUSH),--push) \
		$(if $(BASE),--base $(BASE)) $(if $(INDEX),--index $(INDEX)) $(if $(UV_INDEX),--extra-index $(UV_INDEX)) $(FLAGS)

compile: $(STAMP) ## Compile every pipeline to compiled/*.yaml for a Kubeflow cluster
	$(BIN)/distillery compile --out compiled

clean: ## Remove what demo, seeds, tests and builds wrote; keep .venv
	rm -rf .demo .seeds .bench build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src components pipelines images benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
