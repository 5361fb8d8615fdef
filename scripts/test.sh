#!/usr/bin/env bash
# Everything that must pass, from nothing. Prints what it does; the last lines say what was skipped and why.
set -euo pipefail
cd "$(dirname "$0")/.."

SLOW_WORKERS_MAX=4 # each holds up to a dozen guests of 256 MiB

step() { printf '\n── %s ──\n' "$*"; }

step "set up"
scripts/setup.sh run build test

step "lint"
.venv/bin/ruff check .
.venv/bin/ruff format --check .

step "types"
.venv/bin/mypy

step "rust"
. scripts/rust.sh
use_recent_rust
(cd rust && cargo fmt --check && cargo clippy --quiet --release --all-targets -- -D warnings && cargo test --quiet --release)

step "fast tests"
.venv/bin/python -m pytest -q -n 4 -m "not slow" tests

step "tests with real guests"
# They wait half of the time. Deadlines bear a neighbour on the other core, not a crowd: one process a core, few in all.
# By file, since fixtures are what is expensive; in their order, in which the long files come first.
workers=$(nproc)
[ "$workers" -le "$SLOW_WORKERS_MAX" ] || workers=$SLOW_WORKERS_MAX
exec .venv/bin/python -m pytest -q -m slow -rs -n "$workers" --dist loadfile --no-loadscope-reorder --durations=15 tests
