#!/bin/sh
# Runs what cargo has built, tests one process each: none sees descriptors, children or settings of another.
# Cargo calls it (.cargo/config.toml) with a program and its arguments, among them the names `cargo test` was given.
set -u

case "$1" in
*/deps/*) ;;
*) exec "$@" ;; # `cargo run`
esac
shown=''
for argument in "$@"; do
    case "$argument" in
    --list | --help | -h) exec "$@" ;;
    --nocapture | --no-capture | --show-output) shown=yes ;;
    esac
done

program=$1
shift
tests=$("$program" "$@" --list --format terse) || exit
passed=0
failed=0
ignored=0
for name in $(printf '%s\n' "$tests" | sed -n 's/: test$//p'); do
    if output=$("$program" ${shown:+--nocapture} --exact "$name" 2>&1); then
        case "$output" in
        *'1 passed; 0 failed'*) passed=$((passed + 1)) ;;
        *) ignored=$((ignored + 1)) ;;
        esac
        [ -z "$shown" ] || printf '%s\n' "$output"
    else
        failed=$((failed + 1))
        printf '%s\n' "$output"
    fi
done
[ "$failed" -eq 0 ] && result=ok || result=FAILED
printf 'test result: %s. %s passed; %s failed; %s ignored; one process each: %s\n' \
    "$result" "$passed" "$failed" "$ignored" "${program##*/}"
[ "$failed" -eq 0 ]
