# Two commands do everything on a machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
PY := .venv/bin/python

# Images (docs/containers.md): make image save, with other values as make IMAGE=… DOCKERFILE=docker/Dockerfile BASE=… image save
CONTAINERS ?= docker
IMAGE ?= pdslurm-cpu
DOCKERFILE ?= docker/Dockerfile.cpu
TARBALL ?= build/$(subst /,-,$(subst :,-,$(IMAGE))).tar.gz
BASE ?=
ARGS ?=
CA ?= $(SSL_CERT_FILE)
WHEELS ?= $(PIP_FIND_LINKS)

.PHONY: help setup demo test test-fast check decisions clean base-image image save
help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | column -t -s:

setup: .venv/.stamp .venv-engine/.stamp   ## .venv for pdslurm, .venv-engine for vLLM, NIXL and vllm-router on the CPU

.venv/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "pdslurm: its own environment in .venv"
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@.venv/bin/pip --disable-pip-version-check --quiet install --requirement requirements.lock
	@.venv/bin/pip --disable-pip-version-check --quiet install --no-deps --editable .
	@touch $@

.venv-engine/.stamp: docker/engine-cpu.txt docker/engine_env.sh docker/few_cores.py
	@bash docker/engine_env.sh .venv-engine $(PYTHON)
	@touch $@

demo: setup      ## two arms, two instances, real vLLM and NIXL, on this machine: figures, a table, a plain sentence, a page
	$(PY) -m pdslurm experiment=demo run_dir=runs/demo
	$(PY) -m analysis figures runs/demo --out runs/demo/figures
	$(PY) -m analysis table runs/demo > runs/demo/table.csv
	$(PY) -m analysis report runs/demo
	@echo "table: runs/demo/table.csv"

test: setup      ## everything, with the real engine and, where it is installed, real Slurm
	$(PY) -m pytest

test-fast: .venv/.stamp  ## unit and golden tests, one to two minutes on two cores
	$(PY) -m pytest -n 2 tests/unit

decisions: .venv/.stamp  ## how often the answer errs, by simulated experiments: the table in docs/answers.md, about an hour
	$(PY) -m tests.decisions

check: .venv/.stamp      ## ruff and mypy --strict; edits nothing
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

base-image:      ## an image pdslurm-base by debootstrap, where no registry is at hand: make base-image image BASE=pdslurm-base
	@bash docker/base_image.sh pdslurm-base $(CONTAINERS)

image:           ## an image with the engine, $(IMAGE) from $(DOCKERFILE); CONTAINERS=podman or 'sudo docker' builds by that
	@rm -rf build/context && mkdir -p build/context/wheels && : > build/context/ca.crt
	@if [ -n "$(CA)" ]; then cp "$(CA)" build/context/ca.crt; fi
	@if [ -d "$(WHEELS)" ]; then cp $(WHEELS)/*.whl build/context/wheels/; fi
	$(CONTAINERS) build --network host $(if $(BASE),--build-arg BASE=$(BASE)) $(ARGS) --file $(DOCKERFILE) --tag $(IMAGE) .
	@rm -rf build/context

save:            ## that image as a tarball for the nodes, with its ID beside it
	@mkdir -p $(dir $(TARBALL))
	@bash -o pipefail -c '$(CONTAINERS) save $(IMAGE) | $$(command -v pigz || echo gzip) --fast > $(TARBALL).new'
	@mv $(TARBALL).new $(TARBALL)
	@$(PY) -m pdslurm.node.images $(TARBALL)

clean:           ## the environments and caches; runs/ stays
	rm -rf .venv .venv-engine .mypy_cache .ruff_cache .pytest_cache
