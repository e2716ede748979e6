# make install   a virtual environment in .venv with everything; quick when nothing changed
# make demo      train a small translator for three minutes and look at its attention
# make test      lint, types, import floors, tests
# make sanitize  the kernel under sanitizers, with random calls; some minutes
# make wheel     build a wheel and try it in an environment of its own

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Where there is a compiler, a kernel that does not build is an error. Without one, regard does without its kernel.
export REGARD_REQUIRE_KERNEL ?= $(if $(shell command -v "$${CXX:-c++}" || command -v g++ || command -v clang++),1,0)
KERNEL := tools/editable/CMakeLists.txt $(wildcard csrc/*.* csrc/kernel/* csrc/loss/*)

.PHONY: install demo test wheel lint types floors format clean sanitize instructions

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(KERNEL)
	@echo "Installing into .venv; the first time takes a few minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) scikit-build-core nanobind cmake ninja
	@$(PIP) --no-build-isolation --editable ".[tasks,export,dev]"
	@test $(REGARD_REQUIRE_KERNEL) = 1 || echo "No C++ compiler was found: regard works without its kernel, but slower."
	@touch $(STAMP)

demo: install
	@$(BIN)/python examples/demo.py

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

clean:
	-git clean -fdXq tools/editable src
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
