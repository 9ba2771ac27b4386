#!/usr/bin/env python3
"""The gradient of a language model by GRPO's loss in PyTorch and `transformers`, beside ours.

    cargo build --release -p train-language-model
    scripts/pytorch_grpo_step.py --model target/smollm2 --sequences 64 --tokens 256

Forward, loss and backward for all weights on random tokens, in parts of `--microbatch` sequences, in
turns with `train-language-model bench-learning`. No update of the weights. Needs PyTorch,
`transformers` and a release build. `--dtype f32 tf32 bf16` measures several types of PyTorch; ours is
f32. PyTorch holds all logits of a part. Medians, and the peak of memory: of the device's pools, or on
the CPU of ours what was allocated, and of PyTorch the process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import time

import torch
from transformers import AutoModelForCausalLM

TYPES = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def step(model, sequences, microbatch):
    answer_tokens = sequences[:, 1:].numel()
    for start in range(0, len(sequences), microbatch):
        tokens = sequences[start : start + microbatch]
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        log_probs = torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
        ratio = (log_probs - log_probs.detach()).exp()
        # As good as bad, one after the other, as ours.
        rows = torch.arange(start, start + len(tokens), device=tokens.device)
        advantages = (1.0 - 2.0 * (rows % 2))[:, None]
        term = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        (-term.sum() / answer_tokens).backward()
    model.zero_grad()


def theirs(model, sequences, arguments):
    cuda = sequences.is_cuda
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    seconds = []
    # The first is not counted.
    for _ in range(1 + arguments.rounds):
        synchronize()
        start = time.perf_counter()
        step(model, sequences, arguments.microbatch)
        synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds[1:]), "peak_bytes": peak}


def ours(arguments):
    command = [arguments.program, "bench-learning", "--model", arguments.model, "--device", arguments.device]
    for name in ["sequences", "tokens", "microbatch", "rounds"]:
        command += [f"--{name}", str(getattr(arguments, name))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the model, as Hugging Face lays it out")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--microbatch", type=int, default=8)
    parser.add_argument("--dtype", nargs="+", choices=TYPES, default=["f32"])
    parser.add_argument("--device", default="flex", help="our device (default: flex)")
    parser.add_argument("--torch-device", default="cpu", help="PyTorch's device (default: cpu)")
    parser.add_argument("--program", default="target/release/train-language-model")
    parser.add_argument("--passes", type=int, default=2, help="alternations")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps in a pass")
    arguments = parser.parse_args()

    torch.set_num_threads(os.cpu_count())
    results = {}
    for _ in range(arguments.passes):
        for dtype in arguments.dtype:
            torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
            model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=TYPES[dtype])
            model = model.to(arguments.torch_device)
            shape = (arguments.sequences, arguments.tokens)
            generator = torch.Generator().manual_seed(0)
            sequences = torch.randint(model.config.vocab_size, shape, generator=generator)
            measured = theirs(model, sequences.to(arguments.torch_device), arguments)
            results.setdefault(f"PyTorch, {dtype}", []).append(measured)
            del model
        results.setdefault("policy-loss, f32", []).append(ours(arguments))

    tokens = arguments.sequences * arguments.tokens
    for name, measured in results.items():
        seconds = statistics.median(it["seconds"] for it in measured)
        peak = max(it["peak_bytes"] for it in measured) / 2**30
        print(f"{name:<18} {seconds:8.3f} s {tokens / seconds:10.0f} tokens/s {peak:7.2f} GiB at the peak")


if __name__ == "__main__":
    main()
