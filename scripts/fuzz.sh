#!/usr/bin/env bash
# Looks for input that the library or the program does not stand: runs each target of `fuzz/`, guided by
# coverage, side by side.
#
#   scripts/fuzz.sh                      # every target for a minute
#   scripts/fuzz.sh 3600 losses          # one target for an hour
#
# Installs nothing. What was learned is kept below `target/fuzz`, or below `$CARGO_TARGET_DIR/fuzz`, else
# `$CARGO_BUILD_TARGET_DIR/fuzz`, where one is set, and the next run goes on from it. An input that was found lies in
# `fuzz/artifacts/TARGET`: put it into `fuzz/seeds/TARGET`, where `cargo test` replays it, and mend its cause.
#
# The targets are laid out for cargo-fuzz, and `cargo fuzz run TARGET` runs them too; it instruments all
# dependencies, which takes an hour and more to build. Here only the packages of this repository are
# watched, and Burn is the one that `--release` builds.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
[[ $seconds =~ ^[1-9][0-9]*$ ]] || {
    echo "error: \`$seconds\` is no number of seconds; usage: scripts/fuzz.sh [SECONDS] [TARGET...]" >&2
    exit 2
}
mapfile -t targets < <(printf '%s\n' "$@" | awk 'NF && !seen[$0]++')
[ ${#targets[@]} -gt 0 ] || targets=(batch_file objective losses heads)
missing=()
command -v c++ >/dev/null || missing+=("a C++ compiler, which libFuzzer is built with: g++ or clang")
for target in "${targets[@]}"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || missing+=("the target \`$target\`; there are: $(ls fuzz/seeds | xargs)")
done
if [ ${#missing[@]} -gt 0 ]; then
    printf 'missing: %s\n' "${missing[@]}" >&2
    exit 2
fi

built=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}
RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/rustc-with-coverage.sh" \
    cargo build --release --target-dir "$built" -p policy-loss-fuzz
directory=$built/fuzz
failed=()
declare -A running
for target in "${targets[@]}"; do
    mkdir -p "$directory/corpus/$target" "$directory/logs" "fuzz/artifacts/$target"
    words=()
    [ ! -f "fuzz/dictionaries/$target" ] || words=(-dict="fuzz/dictionaries/$target")
    # Notes of the program go to the standard error, which libFuzzer closes for them and not for itself.
    # An input that takes two minutes is a finding, and so is one that takes 4 GB.
    "$built/release/$target" "$directory/corpus/$target" "fuzz/seeds/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -close_fd_mask=2 -timeout=120 \
        -report_slow_units=60 -rss_limit_mb=4096 -len_control=20 -max_len=4096 "${words[@]}" -print_final_stats=1 \
        >"$directory/logs/$target" 2>&1 &
    running[$target]=$!
done
for target in "${targets[@]}"; do
    wait "${running[$target]}" || failed+=("$target")
    echo "== $target"
    grep -aE "number_of_executed_units|average_exec_per_sec|Test unit written" "$directory/logs/$target" || true
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'found something, or failed: %s (see '"$directory"'/logs)\n' "${failed[@]}" >&2
    exit 1
fi
