#!/usr/bin/env bash
# Installs what Midge needs on Debian 12 and builds it, once; says what it does, does nothing twice.
#   scripts/setup.sh run build [test] [kernel]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/rust.sh

RUST_ADVICE="install Rust $RUST_MIN or newer (rustup.rs)"
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

apt_update() { # once
  [ -z "${APT_UPDATED-}" ] || return 0
  apt-get update -qq
  APT_UPDATED=1
}

apt_install() {
  say "installing Debian packages: $*"
  apt_update
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -eq 0 ] && return 0
  command -v apt-get >/dev/null || fail "these packages are missing and there is no apt-get: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "run as root, or install first: apt-get install ${missing[*]}"
  apt_install "${missing[@]}"
}

# Debian keeps a recent Rust beside its own for what browsers are built with. It takes the place of the packages cargo
# and rustc, which are too old here anyway, and of nothing else.
install_rust() {
  local packages=(cargo-web rustc-web) candidate others
  command -v apt-get >/dev/null || fail "cargo is needed to build the guest init: $RUST_ADVICE"
  [ "$(id -u)" = 0 ] || fail "no Rust of version $RUST_MIN was found: run as root, or $RUST_ADVICE"
  apt_update
  candidate=$(apt-cache policy cargo-web | awk '$1 == "Candidate:" {print $2}')
  at_least "${candidate:-0}" "$RUST_MIN" || fail "apt has no cargo-web of version $RUST_MIN: $RUST_ADVICE"
  others=$(apt-get install -s --no-install-recommends "${packages[@]}" |
    awk '$1 == "Remv" && $2 != "cargo" && $2 != "rustc" {print $2}' | xargs)
  [ -z "$others" ] || fail "${packages[*]} would remove these packages: $others. Remove them, or $RUST_ADVICE"
  apt_install "${packages[@]}"
  use_recent_rust || fail "cargo of ${packages[*]} does not run: $RUST_ADVICE"
}

# With rustup these come as components; Debian has packages.
install_rust_checks() {
  [[ " $* " == *" test "* ]] || return 0
  local packages=()
  command -v cargo-fmt >/dev/null || packages+=(rustfmt-web)
  command -v cargo-clippy >/dev/null || packages+=(rust-web-clippy)
  [ "${#packages[@]}" -eq 0 ] && return 0
  [ "$(command -v cargo)" = "$RUST_OF_DEBIAN/cargo" ] || fail "cargo fmt and clippy are needed: rustup component add rustfmt clippy"
  [ "$(id -u)" = 0 ] || fail "run as root, or install first: apt-get install ${packages[*]}"
  apt_install "${packages[@]}"
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
  use_recent_rust || install_rust
  # shellcheck disable=SC2086
  install_rust_checks $groups
  make_venv
  build_rust
}

main "$@"
