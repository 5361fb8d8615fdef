# Which Rust builds and tests; sourced by the other scripts.
# shellcheck shell=bash

RUST_MIN=1.87.0        # as in rust/Cargo.toml
RUST_OF_DEBIAN=/usr/bin # where Debian's packages put cargo and rustc; rustup's lie elsewhere

# Whether version $1 is $2 or newer.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The version of cargo and rustc alike, whichever is older; empty where one is missing or does not run.
rust_version() {
  local cargo rustc
  cargo=$(cargo --version 2>/dev/null | awk '{print $2}') || return 0
  rustc=$(rustc --version 2>/dev/null | awk '{print $2}') || return 0
  [ -n "$cargo" ] && [ -n "$rustc" ] && printf '%s\n%s\n' "$cargo" "$rustc" | sort -V | head -n 1
}

# Leaves PATH as it is where its Rust is recent enough, else puts Debian's in front; fails where neither is.
use_recent_rust() {
  at_least "$(rust_version)" "$RUST_MIN" && return 0
  at_least "$(PATH="$RUST_OF_DEBIAN:$PATH" rust_version)" "$RUST_MIN" || return 1
  export PATH="$RUST_OF_DEBIAN:$PATH"
}
