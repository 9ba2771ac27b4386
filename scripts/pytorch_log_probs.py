#!/usr/bin/env python3
"""From hidden states to log-probs and their gradients in PyTorch, alternating with this library.

    cargo build --release -p policy-loss-cli
    scripts/pytorch_log_probs.py --tokens 2048 --hidden 576 --vocab 49152

Needs PyTorch and a built `policy-loss`. Measured in turns, so that whatever else the machine does
falls on all of them: PyTorch with all logits, in chunks under `torch.utils.checkpoint`, its own
chunked linear cross entropy, Liger-Kernel's fused linear cross entropy and Apple's cut cross entropy
where they are installed, the products alone, and what `policy-loss bench --what log-probs` measures.
`--dtype f32 tf32 bf16 f16` measures several types of PyTorch in one run; ours is measured in the
types of that list that it has. Medians, in milliseconds, and TFLOP/s of three products.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
from torch.utils.checkpoint import checkpoint

TYPES = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def log_probs(hidden, weight, targets):
    logits = hidden @ weight
    return torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None]).squeeze(-1)


def naive(hidden, weight, targets, chunk):
    log_probs(hidden, weight, targets).mean().backward()


def checkpointed_chunks(hidden, weight, targets, chunk):
    parts = [
        checkpoint(log_probs, h, weight, t, use_reentrant=False)
        for h, t in zip(hidden.split(chunk), targets.split(chunk))
    ]
    torch.cat(parts).mean().backward()


def three_products(hidden, weight, targets, chunk):
    with torch.no_grad():
        logits = hidden @ weight
        hidden.grad = logits @ weight.T
        weight.grad = hidden.T @ logits


def ways():
    """What is installed, by name."""
    found = {
        "three products": three_products,
        "naive": naive,
        "checkpointed chunks": checkpointed_chunks,
    }
    functional = torch.nn.functional
    if hasattr(functional, "linear_cross_entropy"):
        found["linear_cross_entropy"] = lambda hidden, weight, targets, chunk: (
            functional.linear_cross_entropy(hidden, weight.T, targets).backward()
        )
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        found["Liger fused linear cross entropy"] = lambda hidden, weight, targets, chunk: (
            liger_fused_linear_cross_entropy(hidden, weight.T.contiguous(), targets).backward()
        )
    except ImportError:
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy

        found["cut cross entropy"] = lambda hidden, weight, targets, chunk: (
            linear_cross_entropy(hidden, weight.T, targets).backward()
        )
    except ImportError:
        pass
    return found


def synchronize(hidden):
    if hidden.is_cuda:
        torch.cuda.synchronize()


def milliseconds(way, hidden, weight, targets, chunk):
    hidden.grad = weight.grad = None
    synchronize(hidden)
    start = time.perf_counter()
    way(hidden, weight, targets, chunk)
    synchronize(hidden)
    return (time.perf_counter() - start) * 1e3


def ours(arguments, dtype):
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("tokens", "hidden", "vocab")]
    command = [arguments.program, "bench", "--what=log-probs", "--rounds=1", "--json"]
    command += [f"--device={arguments.device}", f"--dtype={dtype}", *sizes]
    if arguments.budget:
        command.append(f"--budget={arguments.budget}")
    return json.loads(subprocess.check_output(command))["contestants"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--dtype", nargs="+", choices=TYPES, default=["f32"])
    parser.add_argument("--chunk", type=int, default=512, help="tokens in a chunk of PyTorch's")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="flex", help="our device, or `none` (default: flex)")
    parser.add_argument("--budget", type=int, help="our memory budget in bytes")
    parser.add_argument("--torch-device", default="cpu", help="PyTorch's device (default: cpu)")
    parser.add_argument("--program", default="target/release/policy-loss")
    arguments = parser.parse_args()

    torch.manual_seed(1)
    torch.set_default_device(arguments.torch_device)
    exact = torch.randn(arguments.tokens, arguments.hidden)
    exact_weight = torch.randn(arguments.hidden, arguments.vocab) * 3 / arguments.hidden**0.5
    targets = torch.randint(arguments.vocab, (arguments.tokens,))
    where = f"{torch.get_num_threads()} threads"
    if targets.is_cuda:
        where = torch.cuda.get_device_name()
    print(f"PyTorch {torch.__version__}, {where}", flush=True)
    flops = 6.0 * arguments.tokens * arguments.hidden * arguments.vocab

    for dtype in arguments.dtype:
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        hidden = exact.to(TYPES[dtype]).clone().requires_grad_()
        weight = exact_weight.to(TYPES[dtype]).clone().requires_grad_()
        times = {}
        peaks = {}
        for turn in range(arguments.turns + 1):
            for name, way in ways().items():
                if targets.is_cuda:
                    hidden.grad = weight.grad = None
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                try:
                    elapsed = milliseconds(way, hidden, weight, targets, arguments.chunk)
                except Exception as error:  # a peer that does not run here is a row, too
                    if turn == 0:
                        print(f"{dtype:5} PyTorch {name:32} {type(error).__name__}: {error}"[:160])
                    continue
                if targets.is_cuda:
                    peak = torch.cuda.max_memory_allocated() - before
                    gradients = sum(x.numel() * x.element_size() for x in (hidden, weight))
                    peaks["PyTorch " + name] = (peak - gradients) / 2**20
                if turn > 0:  # the first one fills pools
                    times.setdefault("PyTorch " + name, []).append(elapsed)
            if turn > 0 and arguments.device != "none" and dtype != "tf32":
                for line in ours(arguments, dtype):
                    times.setdefault(line["name"], []).append(line["median_ms"])
        for name, values in times.items():
            median = statistics.median(values)
            peak = f"{peaks[name]:9.0f} MiB beyond gradients" if name in peaks else ""
            print(f"{dtype:5} {name:40} {median:9.2f} ms {flops / median / 1e9:8.1f} TFLOP/s{peak}", flush=True)


if __name__ == "__main__":
    main()
