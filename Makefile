# Everything a newcomer needs: `make demo` and `make test` make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
# Tests start hundreds of processes, which would each compile everything anew where an image has this set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: test test-fast check lock up demo bench chaos chaos-live clean

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 3 --dist loadgroup  # servers are waited for: 3 keep two cores busy

# A developer's loop: all that needs no servers, few seeds, few mutations.
test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

up: $(VENV)/.installed
	$(BIN)/gigafactory up

demo: $(VENV)/.installed
	$(BIN)/python -m deploy.local.demo

bench: $(VENV)/.installed
	$(BIN)/python -m chaos.load

chaos: $(VENV)/.installed
	$(BIN)/python -m chaos sim --seeds 500
	$(BIN)/python -m chaos mutations
	$(BIN)/python -m chaos walk
	$(BIN)/python -m chaos edges --seeds 200
	$(BIN)/python -m chaos edges --mutations

chaos-live: $(VENV)/.installed
	$(BIN)/python -m chaos live all

# The lock names no host: every machine uses its own index.
lock: $(VENV)/.installed
	$(BIN)/uv pip compile --quiet --generate-hashes --universal --extra dev --no-header --no-annotate \
		--python-version 3.11 pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .demo .chaos build *.egg-info
