#!/usr/bin/env bash
# What a machine with a GPU has to show, in one go: correctness, the loss and the head beside PyTorch.
#
#   cargo build --release -p policy-loss-cli --features vulkan,cuda,autotune
#   scripts/gpu_check.sh target/release/policy-loss
#
# Builds nothing. Every part is bounded, every line is printed as it comes, and a part that fails or
# runs out of time is a row of the table at the end. Most of the time goes into Burn's choice among
# its kernels, once for each shape (20 to 35 seconds for each product of the large head); the choices
# are kept on disk, so that a second run takes three minutes. PyTorch, Liger-Kernel and
# cut-cross-entropy are measured where they are installed. Test programs (built with
# `cargo test --no-run`) may follow: each is run with the parts of CUDA and wgpu. With MODEL=DIR, a language
# model as Hugging Face lays it out, and LANGUAGE_MODEL=target/release/train-language-model, built with
# `--features cuda,autotune`, a step of GRPO is measured beside `transformers`.
set -uo pipefail
cd "$(dirname "$0")/.."
program=${1:-target/release/policy-loss}
shift || true
rows=()

# part NAME SECONDS COMMAND...
part() {
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    printf '\n== %s (%ss, at most %ss)\n' "$name" "$start" "$limit"
    timeout "$limit" "$@" 2>&1
    local state=$?
    case $state in
    0) state=passed ;;
    124) state="out of time" ;;
    *) state="failed ($state)" ;;
    esac
    rows+=("$(printf '%-44s %-12s %4ss' "$name" "$state" $((SECONDS - start)))")
}

head=("$program" bench --what log-probs)
large=(--tokens 4096 --hidden 4096 --vocab 128256)
small=(--tokens 2048 --hidden 576 --vocab 49152)
both=one_product,forward_only,three_products,linear_policy_loss

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
part "devices" 10 "$program" devices
part "head, CUDA, bf16, large, all at once" 150 \
    "${head[@]}" --device cuda --dtype bf16 "${large[@]}" --budget $((4 << 30)) --contestants three_products,linear_policy_loss
part "head, CUDA, bf16, large, in blocks" 120 \
    "${head[@]}" --device cuda --dtype bf16 "${large[@]}" --budget $((320 << 20)) --contestants forward_only,linear_policy_loss,linear_log_probs --errors
part "head, CUDA, f32, small" 60 \
    "${head[@]}" --device cuda "${small[@]}" --contestants $both,linear_log_probs --errors
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    part "PyTorch, large" 50 python3 scripts/pytorch_log_probs.py --device none --torch-device cuda \
        --dtype bf16 --chunk 1024 "${large[@]}"
    part "PyTorch, small" 40 python3 scripts/pytorch_log_probs.py --device none --torch-device cuda \
        --dtype f32 tf32 bf16 --chunk 1024 "${small[@]}"
fi
part "head, wgpu, f32, small" 60 "${head[@]}" --device wgpu "${small[@]}" --contestants $both
part "head, wgpu, f16, small" 60 "${head[@]}" --device wgpu --dtype f16 "${small[@]}" --contestants $both
part "loss, CUDA" 20 "$program" bench --device cuda --batch 1024 --tokens 4096
part "loss, wgpu" 20 "$program" bench --device wgpu --batch 1024 --tokens 4096
if [ -n "${MODEL:-}" ]; then
    part "a step of GRPO, 64 x 256, CUDA" 100 python3 scripts/pytorch_grpo_step.py --model "$MODEL" \
        --program "${LANGUAGE_MODEL:-target/release/train-language-model}" --device cuda --torch-device cuda \
        --dtype f32 tf32 bf16 --microbatch 64 --passes 1
fi
for tests in "$@"; do
    for backend in cuda wgpu; do
        part "$(basename "$tests"), $backend" 120 "$tests" "$backend::" --test-threads 1
    done
done

printf '\n== what was run (%ss)\n' "$SECONDS"
printf '%s\n' "${rows[@]}"
