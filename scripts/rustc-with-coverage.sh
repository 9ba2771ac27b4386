#!/usr/bin/env bash
# The compiler, for `scripts/fuzz.sh`: what it compiles tells libFuzzer which branches are taken, and what
# is compared with what. The flags are those of cargo-fuzz, but for the depth of the stack and one unit of
# code generation.
exec "$@" --cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Ccodegen-units=4
