#!/bin/sh
# Runs every fuzz target for SECONDS (60); what libFuzzer found and its corpus in crates/fuzz/corpus become few inputs that reach all that was reached. Inputs
# that have a name, and not a hash for one, stay. Stable Rust and a C++ compiler are enough: coverage is LLVM's own, asked for by name (cargo-fuzz works here,
# too, with a nightly compiler and sanitizers). A target that breaks a promise, or does not run, ends it all and changes no corpus of its own.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
command -v "${CXX:-c++}" >/dev/null || { echo "libFuzzer is C++: install g++ (or set CXX) and try again" >&2; exit 1; }
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# The flags are for the targets and not for build scripts: hence --target.
RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions $coverage" \
    cargo build --locked --release --quiet --target "$host"
built=${CARGO_TARGET_DIR:-target}/$host/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Runs a target with these arguments; when it fails, says with which words.
run() {
    "$built/$target" "$@" >"$work/log" 2>&1 && return
    grep -aE -A1 'panicked|ERROR|Test unit' "$work/log" >&2 || tail -n 20 "$work/log" >&2
    echo "$target failed: rust_ext/fuzz/README.md says what to do with the input" >&2
    exit 1
}

for source in fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    corpus=../crates/fuzz/corpus/$target
    mkdir "$work/$target.found" "$work/$target.few"
    echo "== $target: $(ls "$corpus" | wc -l) inputs, ${seconds} s"
    run -max_total_time="$seconds" -max_len=1024 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$target-failed-" "$work/$target.found" "$corpus"
    grep -aE '^stat::number_of_executed|DONE' "$work/log"
    find "$corpus" -type f -name '*[!0-9a-f]*' -exec cp {} "$work/$target.few" \;
    # How often a line is reached is no reason to keep an input: the corpora are to stay small.
    run -merge=1 -use_counters=0 "$work/$target.few" "$corpus" "$work/$target.found"
    find "$corpus" -type f -exec rm {} +
    cp "$work/$target.few"/* "$corpus"
    echo "   $(ls "$corpus" | wc -l) inputs reach as much"
done
