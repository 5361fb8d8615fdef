#!/usr/bin/env bash
# Installs what Midge needs on Debian 12 and builds it, once; says what it does, does nothing twice.
#   scripts/setup.sh run build [test] [kernel]
set -euo pipefail
cd "$(dirname "$0")/.."

RUST_MIN=1.87.0
say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

missing_packages() {
  local group package
  while read -r group package; do
    case "$group" in '' | '#'*) continue ;; esac
    [[ " $* " == *" $group "* ]] || continue
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s\n' "$package"
  done < scripts/packages.txt
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -eq 0 ] && return 0
  command -v apt-get >/dev/null || fail "these packages are missing and there is no apt-get: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "run as root, or install first: apt-get install ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

make_venv() {
  local python stamp wanted
  for python in python3.13 python3.12 python3.11 python3; do
    command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
  done || fail "Python 3.11 or newer is needed"
  stamp=.venv/.installed
  wanted=$(cat requirements.lock pyproject.toml | sha256sum)
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return 0
  say "installing Python packages into .venv"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  printf '%s' "$wanted" > "$stamp"
}

build_rust() {
  command -v cargo >/dev/null || fail "cargo is needed to build the guest init: install Rust $RUST_MIN or newer (rustup.rs)"
  local have
  have=$(rustc --version | awk '{print $2}')
  [ "$(printf '%s\n%s\n' "$RUST_MIN" "$have" | sort -V | head -n 1)" = "$RUST_MIN" ] ||
    fail "rustc $have is too old, $RUST_MIN or newer is needed: rustup update stable"
  if [ -n "$(find rust -name '*.rs' -newer rust/target/release/midge-init -not -path '*/target/*' 2>/dev/null | head -n 1)" ] ||
    [ ! -x rust/target/release/midge-init ] || [ ! -x rust/target/release/midge-shim ]; then
    say "building the Rust parts (about a minute, once)"
    (cd rust && cargo build --release --locked --quiet)
  fi
}

main() {
  local groups="$*"
  [ -n "$groups" ] || groups="run build"
  # shellcheck disable=SC2086
  install_packages $groups
  make_venv
  build_rust
}

main "$@"
