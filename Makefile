# `make up` and `make test` are all a newcomer needs; the rest is for those who work on Midge.
.PHONY: up down setup check test soak lint types fast bench kernel wheel docs lock clean

PY := .venv/bin/python

up:            ## Install what is missing, start the platform, run a machine, show it. TRIMMED=1: build the faster kernel meanwhile.
	@scripts/setup.sh run build $(if $(TRIMMED),kernel)
	@$(PY) scripts/up.py $(if $(TRIMMED),--trimmed)

down:          ## Stop machines and platform. KEEP=1 leaves the machines running.
	@if [ -x $(PY) ]; then $(PY) scripts/down.py $(if $(KEEP),--keep); fi

setup:         ## Everything that up and test need, and nothing started.
	@scripts/setup.sh run build test kernel

check: lint types fast   ## Under two minutes: lint, types, fast tests.

lint:
	@scripts/setup.sh run build
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types:
	.venv/bin/mypy

fast:
	$(PY) -m pytest -q -n 4 -m "not slow" tests

test:          ## Everything that must pass; boots real machines.
	@scripts/test.sh

soak:          ## What `make test` repeats a few times, as often as promised: an hour at most.
	@scripts/setup.sh run build test
	MIDGE_SOAK=1 timeout 3600 $(PY) -m pytest -q -rs --durations=0 --durations-min=5 tests/e2e/test_rounds.py \
	  tests/e2e/test_fresh_debian.py tests/integration/qemu/test_rounds.py tests/integration/qemu/test_entropy.py

bench:         ## Measures in about a quarter of an hour, writes bench/results/<date>.json. QUICK=1: only shows that it works.
	@scripts/setup.sh run build
	$(PY) -m bench $(if $(QUICK),--quick)

kernel:        ## Builds the trimmed guest kernel (about six minutes, once).
	@scripts/setup.sh run build kernel
	.venv/bin/midge kernel build

wheel:         ## A wheel with the Rust binaries inside.
	@scripts/setup.sh build
	$(PY) -m build --wheel

docs:          ## Regenerates the reference pages.
	$(PY) scripts/gen_cli_docs.py

lock:          ## Pins all Python packages with hashes.
	.venv/bin/pip install --quiet pip-tools && .venv/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
	  --no-emit-find-links --no-header --extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis rust/target
