#!/usr/bin/env bash
# Everything that must pass, from nothing. Prints what it does; the last lines say what was skipped and why.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n── %s ──\n' "$*"; }

step "set up"
scripts/setup.sh run build test

step "lint"
.venv/bin/ruff check .
.venv/bin/ruff format --check .

step "types"
.venv/bin/mypy

step "rust"
(cd rust && cargo fmt --check && cargo clippy --quiet --release --all-targets -- -D warnings && cargo test --quiet --release)

step "fast tests"
.venv/bin/python -m pytest -q -n 4 -m "not slow" tests

step "tests with real guests"
# One at a time: they boot machines, and time-outs assume a host that does one thing.
exec .venv/bin/python -m pytest -q -m slow -rs tests
