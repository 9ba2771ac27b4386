#!/usr/bin/env bash
# Looks for input that the library or the program does not stand: runs each target of `fuzz/`, guided by
# coverage, side by side.
#
#   scripts/fuzz.sh                      # every target for a minute
#   scripts/fuzz.sh 3600 losses          # one target for an hour
#
# Installs nothing. The first build takes long, because Burn is built once more; set CARGO_TARGET_DIR
# to keep it elsewhere than below `target/fuzz`. What was learned is kept there as well, and the next
# run goes on from it. An input that was found lies in `fuzz/artifacts/TARGET`: put it into
# `fuzz/seeds/TARGET`, where `cargo test` replays it, and mend its cause.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
[[ $seconds =~ ^[1-9][0-9]*$ ]] || {
    echo "error: \`$seconds\` is no number of seconds; usage: scripts/fuzz.sh [SECONDS] [TARGET...]" >&2
    exit 2
}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(batch_file objective losses)
missing=()
cargo fuzz --version >/dev/null 2>&1 || missing+=("cargo-fuzz: cargo install cargo-fuzz --locked")
command -v c++ >/dev/null || missing+=("a C++ compiler, which libFuzzer is built with: g++ or clang")
for target in "${targets[@]}"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || missing+=("the target \`$target\`; there are: $(ls fuzz/seeds | xargs)")
done
if [ ${#missing[@]} -gt 0 ]; then
    printf 'missing: %s\n' "${missing[@]}" >&2
    exit 2
fi

directory=${CARGO_TARGET_DIR:-target/fuzz}
# No sanitizer: there is little unsafe code, and without one a stable compiler does.
options=(--sanitizer none --codegen-units 4 --target-dir "$directory")
cargo fuzz build "${options[@]}"
failed=()
declare -A running
for target in "${targets[@]}"; do
    mkdir -p "$directory/corpus/$target" "$directory/logs"
    words=()
    [ ! -f "fuzz/dictionaries/$target" ] || words=(-dict="fuzz/dictionaries/$target")
    # Notes of the program go to the standard error, which libFuzzer closes for them and not for itself.
    # An input that takes two minutes is a finding, and so is one that takes 4 GB.
    cargo fuzz run "${options[@]}" "$target" "$directory/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -close_fd_mask=2 -timeout=120 -report_slow_units=60 -rss_limit_mb=4096 -len_control=20 \
        -max_len=4096 "${words[@]}" -print_final_stats=1 \
        >"$directory/logs/$target" 2>&1 &
    running[$target]=$!
done
for target in "${targets[@]}"; do
    wait "${running[$target]}" || failed+=("$target")
    echo "== $target"
    grep -E "number_of_executed_units|average_exec_per_sec|Test unit written" "$directory/logs/$target" || true
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'found something, or failed: %s (see '"$directory"'/logs)\n' "${failed[@]}" >&2
    exit 1
fi
