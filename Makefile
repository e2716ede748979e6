# make install   a virtual environment in .venv with everything; quick when nothing changed
# make demo      train a small translator for three minutes and a captioner for one, and look at their attention
# make test      lint, types, import floors, tests
# make sanitize  the kernel under sanitizers, with random calls; some minutes
# make wheel     build a wheel and try it in an environment of its own
# make bench-peers DATA=DIR    translation against its peers; hours: see benchmarks/README.md

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Where there is a compiler, a kernel that does not build is an error. Without one, regard does without its kernel.
export REGARD_REQUIRE_KERNEL ?= $(if $(shell command -v "$${CXX:-c++}" || command -v g++ || command -v clang++),1,0)
KERNEL := tools/editable/CMakeLists.txt $(wildcard csrc/*.* csrc/*/*)

.PHONY: install demo test wheel lint types floors format clean sanitize instructions peers bench-peers

install: $(STAMP)

# rouge-score has no wheel: it is built before isolation is off, which would ask for setuptools in .venv.
$(STAMP): pyproject.toml constraints.txt $(KERNEL)
	@echo "Installing into .venv; the first time takes a few minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) scikit-build-core nanobind cmake ninja jaxlib rouge-score
	@$(PIP) --no-build-isolation --editable ".[tasks,export,dev]"
	@test $(REGARD_REQUIRE_KERNEL) = 1 || echo "No C++ compiler was found: regard works without its kernel, but slower."
	@touch $(STAMP)

demo: install
	@$(BIN)/python examples/demo.py
	@$(BIN)/python examples/caption.py 1 runs/demo-captions

test: lint types floors
	@$(BIN)/python -m pytest -n 2 -q

wheel: install
	@$(BIN)/python tools/check_wheel.py

lint: install
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/python tools/check_imports.py
	@$(BIN)/python tools/check_length.py

types: install
	@$(BIN)/mypy

floors: install
	@$(BIN)/lint-imports

format: install
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

sanitize: install
	@$(BIN)/python tools/check_kernel.py

instructions: install
	@$(BIN)/python tools/check_kernel.py --instructions

# Each peer in an environment of its own; torch first, so that nothing asks for another build of it. CTranslate2 converts what
# transformers trained. JoeyNMT leaves the last two open: newer sentencepiece lacks a function
# that it calls, and importlib_metadata it does not ask for.
PEERS := $(addprefix build/peers/,$(addsuffix /.installed,transformers joeynmt eole))
build/peers/transformers/.installed: NEEDS := transformers==5.23.0 ctranslate2==4.8.5
build/peers/joeynmt/.installed: NEEDS := joeynmt==2.3.0 sentencepiece==0.2.0 importlib_metadata==10.2.0
build/peers/eole/.installed: NEEDS := eole==0.6.4

peers: $(PEERS)

build/peers/%/.installed: Makefile constraints.txt
	@echo "Installing the peer $* into build/peers/$*."
	@test -x build/peers/$*/bin/python || $(PYTHON) -m venv build/peers/$*
	@build/peers/$*/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt torch
	@build/peers/$*/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt torch $(NEEDS)
	@touch $@

MINUTES ?= 5 10 20
STEPS ?= 1000
bench-peers: install peers
	@$(BIN)/python benchmarks/peers.py train-speed --data $(DATA) > /dev/null
	@$(BIN)/python benchmarks/peers.py quality --data $(DATA) --steps $(STEPS) > /dev/null
	@$(BIN)/python benchmarks/peers.py quality --data $(DATA) --minutes $(MINUTES) > /dev/null
	@$(BIN)/python benchmarks/peers.py decode --data $(DATA)

clean:
	-git clean -fdXq tools/editable src
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
