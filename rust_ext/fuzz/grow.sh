#!/bin/sh
# Runs every fuzz target for SECONDS (60); its corpus in crates/fuzz/corpus becomes the fewest inputs that reach all that was reached. Stable Rust and a C++
# compiler are enough: coverage is LLVM's own, asked for by name (cargo-fuzz works here, too, with a nightly compiler and sanitizers).
# A target that breaks a promise ends the run; libFuzzer says which file holds the input.
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
for source in fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    corpus=../crates/fuzz/corpus/$target
    found=$(mktemp -d)
    trap 'rm -rf "$found"' EXIT
    echo "== $target: $(ls "$corpus" | wc -l) inputs, ${seconds} s"
    "$built/$target" -max_total_time="$seconds" -max_len=1024 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$target-failed-" "$found" "$corpus" 2>&1 | grep -E '^stat::number_of|ERROR|panicked|Test unit|DONE' || true
    ! ls "$target"-failed-* 2>/dev/null || exit 1
    fewest=$(mktemp -d)
    "$built/$target" -set_cover_merge=1 "$fewest" "$corpus" "$found" >/dev/null 2>&1
    rm -r "$corpus"
    cp -r "$fewest" "$corpus"
    chmod 755 "$corpus"
    rm -rf "$found" "$fewest"
done
