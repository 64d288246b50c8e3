# make tutorial and make test set up all they need in .venv; nothing is installed outside this folder.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := .venv-bench
LOWEST := .venv-minimum
STAMP  := $(VENV)/.installed-$(shell cksum requirements.lock pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)
REUSE  := $(if $(filter 1,$(FRESH)),,--reuse)

.DEFAULT_GOAL := help
.PHONY: help tutorial test test-deep test-minimum lint real bench lab book sync notebooks env clean

help: ## this list
	@echo "make TARGET, where TARGET is"
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12 | sed 's/^/  /'

tutorial: env ## every notebook at the cpu profile on the virtual tissue, then the numbers (FRESH=1 reuses nothing)
	$(BIN)/stpath run all $(REUSE) --profile cpu
	@$(BIN)/stpath report

test: lint ## style, units, every notebook through papermill at smoke; real data when STPATH_REAL_DATA is set
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-deep: env ## 10,000 damaged files, 100 kills, the minimum versions; records go to data/results/test_*.json
	mkdir -p build
	STPATH_FUZZ_INPUTS=10000 STPATH_KILLS=100 STPATH_FUZZ_RECORD=build/test_deep.json \
	  $(BIN)/python -m pytest tests/test_fuzz.py tests/test_kill.py
	$(MAKE) test-minimum
	mv build/test_deep.json data/results/

test-minimum: $(LOWEST)/.installed ## the suite on the lowest versions that pyproject.toml allows, in .venv-minimum
	STPATH_VERSIONS=minimum STPATH_SUITE_RECORD=data/results/test_minimum.json \
	  $(LOWEST)/bin/python -m pytest -n 2 --dist loadgroup

$(LOWEST)/.installed: requirements-minimum.lock $(STAMP)
	@echo "Setting up $(LOWEST): about 7 GB of disk (free here: $$(df -Pk . | awk 'NR==2 {printf "%.0f GB", $$4/1e6}'))."
	$(BIN)/python -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-minimum.lock
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(LOWEST)/bin/python -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (stpath, minimum)" >/dev/null
	@touch $@

lint: env ## style alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

real: realdata env ## every real-data command (needs STPATH_REAL_DATA=FOLDER)
	$(BIN)/stpath run 10 -p dataset=merfish -p data_dir="$(STPATH_REAL_DATA)/cell_st"
	$(BIN)/stpath run 11 12 -p dataset=nucls -p data_dir="$(STPATH_REAL_DATA)/nucls" -p real_steps=1200 -p tune_steps=400
	$(BIN)/stpath run 11 12 -p dataset=monuseg -p data_dir="$(STPATH_REAL_DATA)/monuseg"
	$(BIN)/stpath run 20 21 22 23 -p dataset=her2st -p data_dir="$(STPATH_REAL_DATA)/her2st"
	$(BIN)/stpath run 30 31 32 -p dataset=her2st -p data_dir="$(STPATH_REAL_DATA)/her2st"
	@$(BIN)/stpath report

.PHONY: realdata
realdata:
	@for name in cell_st nucls monuseg her2st scrna; do test -d "$(STPATH_REAL_DATA)/$$name" || { \
	  echo "make real: STPATH_REAL_DATA='$(STPATH_REAL_DATA)' has no folder $$name;" \
	  "set it to a folder that holds one: make real STPATH_REAL_DATA=/data/real" >&2; exit 2; }; done

bench: $(PEERS)/.installed ## the hot paths beside their peers, in .venv-bench: benchmarks/results/*.json
	$(PEERS)/bin/python benchmarks/bench.py

# The peers lie on top of .venv, in an environment of their own that sees it: the library's own stays as it is locked.
$(PEERS)/.installed: benchmarks/requirements-peers.txt $(STAMP)
	$(BIN)/python -m venv $(PEERS)
	@for site in $(PEERS)/lib/python3*/site-packages; do \
	  $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$site/stpath.pth"; done
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements-peers.txt
	@touch $@

lab: env ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

book: env ## the notebooks, how-to, concepts and reference as pages to read, in build/book/html
	$(BIN)/python -m docs.tools.build

sync: env ## bring each .ipynb up to its .py, by content; the .py wins
	$(BIN)/stpath sync

notebooks: env ## run everything at the cpu profile and keep the outputs in the .ipynb
	$(BIN)/stpath notebooks

env: $(STAMP) ## the environment alone, in .venv

$(STAMP):
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "stpath needs CPython 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
	  "Say which one to use: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@echo "Setting up $(VENV): about 8 GB of disk and a few minutes (free here: $$(df -Pk . | awk 'NR==2 {printf "%.0f GB", $$4/1e6}'))."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (stpath)" >/dev/null
	@rm -f $(VENV)/.installed-*
	@touch $@

clean: ## remove runs, caches and build leftovers; keep .venv and downloads
	find data/cache -mindepth 1 -maxdepth 1 ! -name datasets -exec rm -rf {} + 2>/dev/null || true
	rmdir data/cache 2>/dev/null || true
	rm -rf runs build dist .pytest_cache .ruff_cache *.egg-info
	find stpath_core tests notebooks benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
