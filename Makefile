# `make demo` and `make test` bring everything that they need: a machine with Python (3.11 to 3.13), make and a package
# index is enough. A second call finds it there.

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && command -v $$python && break; done)

TOOLS := .fasten/tools
UV := $(TOOLS)/bin/uv
BIN := .venv/bin
INSTALLED := .venv/.installed
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(UPGRADE)

# Byte code is written once, even where the shell says not to: the servers import thousands of modules.
unexport PYTHONDONTWRITEBYTECODE VIRTUAL_ENV PYTHONPATH PYTHONHOME
# An index that pip is told of in the environment is uv's too.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: demo test lint install lock clean
.DELETE_ON_ERROR:

demo: install  ## The whole loop on real digits, two rounds; ARGS="--dataset fashion-mnist --root DIR" for other data
	@$(BIN)/fasten demo $(ARGS)

# Two workers, each with servers of its own and one thread for torch; a file's tests stay together, and those with
# servers come last.
test: lint  ## Everything that is checked
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

install: $(INSTALLED)

lock: $(UV)  ## Compile both locks anew; UPGRADE=--upgrade takes newer versions
	@$(COMPILE) --extra dev -o requirements.txt pyproject.toml
	@$(COMPILE) --no-annotate -o pipeline/stack/label-studio.txt pipeline/stack/label-studio.in

clean:  ## Remove what was installed and cached; labels, runs and models below .fasten/ stay
	@if [ -x $(BIN)/fasten ]; then $(BIN)/fasten down; fi
	@rm -rf .venv .fasten/tools .fasten/cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt pyproject.toml $(UV)
	@echo "installing into .venv (once, about 6 GB with torch for CUDA)"
	@$(UV) venv --quiet --allow-existing --no-python-downloads --python "$(PYTHON)" .venv
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# uv itself, in the version and with the hashes of the lock.
$(UV):
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11, 3.12 or 3.13 is needed: set PYTHON to one" >&2; exit 1; fi
	@mkdir -p $(TOOLS)
	@sed -n '/^uv==/,/^ *#/p' requirements.txt > $(TOOLS)/uv.txt
	@echo "installing uv"
	@$(PYTHON) -m venv $(TOOLS)/bootstrap
	@$(TOOLS)/bootstrap/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r $(TOOLS)/uv.txt
	@mkdir -p $(TOOLS)/bin
	@ln -sf ../bootstrap/bin/uv $(TOOLS)/bin/uv
