# Every target works from a fresh clone. With another interpreter: `make test PYTHON=python3.12`.

PYTHON ?= python3

# The real interpreter, also when PYTHON is a link or belongs to an active virtual environment, and
# a mark of it for the stamps: another interpreter or another version starts a new environment.
INTERPRETER := $(shell $(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))')
MARK := $(shell $(PYTHON) -c 'import os, platform, sys, zlib; print("%s-%08x" % (platform.python_version(), zlib.crc32(os.path.realpath(sys.executable).encode())))')

VENV := .venv
PY := $(VENV)/bin/python
PIP_OPTIONS := --quiet --disable-pip-version-check
READY := $(VENV)/ready-$(MARK)
FUZZ_COUNT ?= 10000
FUZZ_SEED ?= 0
WORKERS ?= 2
LAYERS := compiler passes targets ir

.DELETE_ON_ERROR:
.PHONY: help setup demo test lint format typecheck docs fuzz conformance bench lock vendor clean

help:
	@echo 'make setup      the environment $(VENV), from requirements-dev.txt'
	@echo 'make demo       compile all-MiniLM-L6-v2 for this machine'
	@echo 'make test       the tests, WORKERS=2 at a time'
	@echo 'make lint       ruff; make format mends what it can'
	@echo 'make typecheck  mypy --strict'
	@echo 'make docs       the pages on passes and targets, from what these say of themselves'
	@echo 'make fuzz       generated graphs through every pass: FUZZ_COUNT=10000 FUZZ_SEED=0'
	@echo 'make conformance  every lossless pass over every suite of models'
	@echo 'make bench      planish against its peers, each in an environment below build/benchmarks'
	@echo 'make lock       renew requirements-dev.txt'
	@echo 'make vendor     fetch the libraries of the HTML report again, with npm'
	@echo 'make clean      remove what was built, the peers of the benchmarks too, not $(VENV)'

setup: $(READY)

demo: $(VENV)/demo-$(MARK)
	$(PY) examples/demo.py

test: $(READY)
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Type checkers do not read the package-dir table of pyproject.toml: build the tree it stands for.
typecheck: $(READY)
	rm -rf build/typing
	mkdir -p build/typing/planish
	for path in planish/*; do ln -s "../../../$$path" build/typing/planish/; done
	for layer in $(LAYERS); do ln -s "../../../$$layer" build/typing/planish/; done
	MYPYPATH=build/typing $(PY) -m mypy -p planish
	MYPYPATH=build/typing:examples $(PY) -m mypy --explicit-package-bases tests examples benchmarks docs

docs: $(READY)
	$(PY) docs/generate.py

fuzz: $(READY)
	$(PY) -m planish.compiler.harness.fuzz --count $(FUZZ_COUNT) --seed $(FUZZ_SEED)

conformance: $(READY)
	$(PY) benchmarks/conformance.py $(SUITES)

bench: $(READY)
	$(PY) benchmarks/peers_install.py
	$(PY) benchmarks/run.py $(BENCHMARKS)

lock:
	rm -rf build/lock
	$(INTERPRETER) -m venv build/lock
	build/lock/bin/python -m pip install $(PIP_OPTIONS) '.[dev,torch,workloads]'
	(sed -n '/^#/p' requirements-dev.txt; \
	 build/lock/bin/python -m pip freeze --all | grep -v -i -E '^(pip|planish|triton|nvidia-[^=]*|cuda-[^=]*)[= ]' \
	 | sed 's/+.*//') > build/requirements-dev.txt
	mv build/requirements-dev.txt requirements-dev.txt

vendor: $(READY)
	$(PY) docs/vendor.py

clean:
	rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/made-$(MARK): $(INTERPRETER)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "planish needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(INTERPRETER) -m venv --clear $(@D)
	touch $@

$(READY): $(VENV)/made-$(MARK) requirements-dev.txt pyproject.toml
	$(PY) -m pip install $(PIP_OPTIONS) -r requirements-dev.txt
	$(PY) -m pip install $(PIP_OPTIONS) --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/demo-$(MARK): $(READY) requirements-demo.txt
	$(PY) -m pip install $(PIP_OPTIONS) --no-deps -r requirements-demo.txt
	touch $@
