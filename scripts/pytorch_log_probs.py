#!/usr/bin/env python3
"""From hidden states to log-probs and their gradients in PyTorch, alternating with this library.

    cargo build --release -p policy-loss-cli
    scripts/pytorch_log_probs.py --tokens 2048 --hidden 576 --vocab 49152

Needs PyTorch and a built `policy-loss`; two ways in PyTorch (all logits; chunks under
`torch.utils.checkpoint`) and what `policy-loss bench --what log-probs` measures, in turns, so that
whatever else the machine does falls on all of them. Medians, in milliseconds.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
from torch.utils.checkpoint import checkpoint


def log_probs(hidden, weight, targets):
    logits = hidden @ weight
    return torch.log_softmax(logits, -1).gather(-1, targets[:, None]).squeeze(-1)


def naive(hidden, weight, targets, chunk):
    return log_probs(hidden, weight, targets)


def checkpointed_chunks(hidden, weight, targets, chunk):
    parts = [
        checkpoint(log_probs, h, weight, t, use_reentrant=False)
        for h, t in zip(hidden.split(chunk), targets.split(chunk))
    ]
    return torch.cat(parts)


def synchronize(hidden):
    if hidden.is_cuda:
        torch.cuda.synchronize()


def milliseconds(way, hidden, weight, targets, chunk):
    hidden.grad = weight.grad = None
    synchronize(hidden)
    start = time.perf_counter()
    way(hidden, weight, targets, chunk).mean().backward()
    synchronize(hidden)
    return (time.perf_counter() - start) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--chunk", type=int, default=512, help="tokens in a chunk of PyTorch's")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="flex", help="our device (default: flex)")
    parser.add_argument("--torch-device", default="cpu", help="PyTorch's device (default: cpu)")
    parser.add_argument("--program", default="target/release/policy-loss")
    arguments = parser.parse_args()

    torch.manual_seed(1)
    torch.set_default_device(arguments.torch_device)
    hidden = torch.randn(arguments.tokens, arguments.hidden, requires_grad=True)
    weight = torch.randn(arguments.hidden, arguments.vocab) * 3 / arguments.hidden**0.5
    weight.requires_grad_()
    targets = torch.randint(arguments.vocab, (arguments.tokens,))

    times = {}
    for turn in range(arguments.turns + 1):
        for way in (naive, checkpointed_chunks):
            elapsed = milliseconds(way, hidden, weight, targets, arguments.chunk)
            if turn > 0:  # the first one fills pools
                times.setdefault("PyTorch " + way.__name__, []).append(elapsed)
        if turn > 0:
            sizes = [f"--{name}={getattr(arguments, name)}" for name in ("tokens", "hidden", "vocab")]
            command = [arguments.program, "bench", "--what=log-probs", "--rounds=1", "--json"]
            command += [f"--device={arguments.device}", *sizes]
            report = json.loads(subprocess.check_output(command))
            for line in report["contestants"]:
                times.setdefault(line["name"], []).append(line["median_ms"])
    where = f"{torch.get_num_threads()} threads"
    if hidden.is_cuda:
        where = torch.cuda.get_device_name()
    print(f"PyTorch {torch.__version__}, {where}")
    for name, values in times.items():
        print(f"{name:32} {statistics.median(values):9.1f} ms")


if __name__ == "__main__":
    main()
