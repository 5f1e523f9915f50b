# `make demo` and `make test` do all of their own set-up; they need Python 3.11 or later.
PYTHON ?= python3
CORES ?= 2
BIN := .venv/bin
# Commands of the virtual environment come first, so that rules of the workflow find `slidemill`.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo test faults check lint format generate clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "slidemill needs Python 3.11 or later; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
		|| { echo "this Python lacks venv; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	slidemill demo demo
	snakemake --cores $(CORES) --quiet rules
	@slidemill summary

test: check
	$(BIN)/python -m pytest -n $(CORES) --dist loadgroup

# Every fault by itself, on a Slurm that the tests start: half an hour, as root on Debian.
faults: setup
	$(BIN)/python -m pytest -m faults tests/cluster tests/faults
	$(BIN)/python tests/faults/kills.py --kills 50

# Everything but the tests: style, types, generated files, the workflow itself, and a dry run on
# Slurm, which has to plan jobs (an include that runs nothing exits with 0).
check: lint demo/slides.tsv
	snakemake --lint
	snakemake --profile slurm --dry-run --forceall > .snakemake/slurm-dry-run.txt
	grep -A 3 '^Job stats' .snakemake/slurm-dry-run.txt
	grep -E '^total +[1-9]' .snakemake/slurm-dry-run.txt

lint: setup
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	$(BIN)/python -m slidemill.generate --check

demo/slides.tsv: setup
	slidemill demo demo

format: setup
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

generate: setup
	$(BIN)/python -m slidemill.generate

clean:
	rm -rf .venv demo results logs .snakemake
