#!/usr/bin/env python3
"""The policy loss in PyTorch beside `policy-loss bench`, alternating, on the same machine.

Forward and backward of the clipped loss with its three metrics, in plain formulas, eager and under
torch.compile, with as many threads as ours uses, or on a GPU (`--torch-device cuda`). Needs PyTorch and a release build of the program:

    cargo build --release -p policy-loss-cli
    python3 scripts/pytorch_baseline.py --batch 256 --tokens 4096
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch


def policy_loss(log_probs, old_log_probs, advantages, action_mask, low, high):
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.clamp(-20.0, 20.0).exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1.0 - low, 1.0 + high) * advantages
    count = action_mask.sum()
    loss = -(torch.min(unclipped, clipped) * action_mask).sum() / count
    clip_ratio = ((clipped < unclipped).float() * action_mask).sum() / count
    ppo_kl = (-log_ratio.detach() * action_mask).sum() / count
    return loss, clip_ratio, ppo_kl


def step(function, inputs):
    log_probs = inputs[0].detach().requires_grad_()
    loss, clip_ratio, ppo_kl = function(log_probs, *inputs[1:], 0.2, 0.28)
    loss.backward()
    return log_probs.grad, clip_ratio, ppo_kl


def synchronize(inputs):
    if inputs[0].is_cuda:
        torch.cuda.synchronize()


def median_ns_per_token(function, inputs, rounds):
    times = []
    for _ in range(rounds):
        synchronize(inputs)
        start = time.perf_counter_ns()
        kept = step(function, inputs)
        synchronize(inputs)
        times.append(time.perf_counter_ns() - start)
        del kept
    return statistics.median(times) / inputs[0].numel()


def ours(program, arguments):
    command = [program, "bench", "--json", "--device", arguments.device, "--objective", "dapo"]
    command += ["--batch", str(arguments.batch), "--tokens", str(arguments.tokens)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--device", default="flex", help="our device (default: flex)")
    parser.add_argument("--torch-device", default="cpu", help="PyTorch's device (default: cpu)")
    parser.add_argument("--program", default="target/release/policy-loss")
    parser.add_argument("--passes", type=int, default=3, help="alternations")
    parser.add_argument("--rounds", type=int, default=21, help="timed steps in a pass")
    arguments = parser.parse_args()

    torch.set_num_threads(os.cpu_count())
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch, arguments.tokens)
    log_probs = -3.0 * torch.rand(shape, generator=generator)
    old_log_probs = log_probs + 0.8 * (torch.rand(shape, generator=generator) - 0.5)
    advantages = 4.0 * (torch.rand(shape, generator=generator) - 0.5)
    action_mask = (torch.rand(shape, generator=generator) < 0.8).float()
    inputs = [log_probs, old_log_probs, advantages, action_mask]
    inputs = [tensor.to(arguments.torch_device) for tensor in inputs]

    functions = {"eager": policy_loss, "compile": torch.compile(policy_loss)}
    seconds_to_compile = time.perf_counter()
    for function in functions.values():
        for _ in range(3):
            step(function, inputs)
    synchronize(inputs)
    seconds_to_compile = time.perf_counter() - seconds_to_compile

    results = {"fused": [], "composed": [], "copy": [], "eager": [], "compile": []}
    for _ in range(arguments.passes):
        report = ours(arguments.program, arguments)
        for name in ("fused", "composed", "copy"):
            results[name].append(report[f"{name}_ns_per_token"])
        for name, function in functions.items():
            results[name].append(median_ns_per_token(function, inputs, arguments.rounds))

    print(f"{arguments.batch} x {arguments.tokens}, ns per token, median of {arguments.passes} passes")
    for name, values in results.items():
        values = [value for value in values if value is not None]
        if values:
            print(f"  {name:9} {statistics.median(values):8.3f}   {sorted(values)}")
    where = f"{torch.get_num_threads()} threads"
    if inputs[0].is_cuda:
        where = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}, "
          f"first steps with compilation {seconds_to_compile:.1f} s")


if __name__ == "__main__":
    main()
