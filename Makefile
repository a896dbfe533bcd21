# make demo   the main job on bundled recordings       make test    the tests, after installing what they need
# make setup  only the environment                     make check   style, types, import floors
# make clean  remove the environment and caches (never runs or data)
# make test-slow  the tests of minutes: training killed fifty times
# make test-real  tests with published weights: downloads them (about 350 MB, once), names what no source answers for
#
# Needs Python 3.11 or newer, make and a C compiler. torch comes from TORCH_INDEX: PyTorch's CPU wheels unless said
# otherwise; with an NVIDIA GPU say `make demo TORCH_INDEX=https://download.pytorch.org/whl/cu128`, or `TORCH_INDEX=`
# for the wheels of the usual package index. The choice is remembered in the environment. Where the index cannot be
# reached, a folder of wheels named by PIP_FIND_LINKS serves as well.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?= $(shell cat $(VENV)/torch-index 2>/dev/null || echo https://download.pytorch.org/whl/cpu)
ARGS ?=

TORCH := $(shell grep -E '^torch==' constraints.txt)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --retries 2 --timeout 30
STAMP := $(VENV)/installed
DEV_STAMP := $(VENV)/installed-dev

.PHONY: demo setup test test-slow test-real check clean FORCE

demo: $(STAMP)
	$(BIN)/voder demo $(ARGS)

setup: $(STAMP)

test: $(DEV_STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not real" $(ARGS)

test-real: $(DEV_STAMP)
	$(BIN)/python -m pytest -m real -rs tests/real $(ARGS)

test-slow: $(DEV_STAMP)
	$(BIN)/python -m pytest -m "slow and not real" $(ARGS)

check: $(DEV_STAMP)
	PATH="$(abspath $(BIN)):$$PATH" scripts/check

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt $(VENV)/torch-index
	@echo "installing $(TORCH) from $(or $(TORCH_INDEX),the package index); this happens once" >&2
	@$(INSTALL) --no-deps $(if $(filter %/torch-index,$?),--force-reinstall) --retries 1 --timeout 15 \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)' || { \
		echo "$(TORCH) was not found at TORCH_INDEX=$(TORCH_INDEX): name another index, say TORCH_INDEX= for the" \
			"package index, or name a folder that holds the wheel with PIP_FIND_LINKS" >&2; exit 1; }
	$(INSTALL) -c constraints.txt -e '.[metrics]'
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/torch-index: $(BIN)/python FORCE
	@echo '$(TORCH_INDEX)' | cmp -s - $@ || echo '$(TORCH_INDEX)' > $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer was found; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make an environment (on Debian: apt install python3-venv)" >&2; exit 1; }

FORCE:
