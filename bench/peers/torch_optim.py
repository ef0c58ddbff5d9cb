#!/usr/bin/env python3
"""Times PyTorch's fused optimizers, the peer of bench/optim_bench.cc: one flat parameter, its best case.

  .venv/bin/python bench/peers/torch_optim.py --size 3300000 --threads 1 --seconds 3

Prints one JSON line a setting: loop, size, threads, nanoseconds per element (median, min, max, n). "norm" is
torch.nn.utils.get_total_norm, which clip_grad_norm_ calls.
"""
import argparse
import json
import statistics
import time

import torch


def make_step(loop, size):
    param = torch.rand(size).requires_grad_(True)
    param.grad = torch.rand(size)
    if loop == "adamw":
        return torch.optim.AdamW([param], lr=1e-6, fused=True).step
    if loop == "sgd":
        return torch.optim.SGD([param], lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True).step
    return lambda: torch.nn.utils.get_total_norm([param.grad])


def measure(loop, size, threads, seconds):
    torch.set_num_threads(threads)
    step = make_step(loop, size)
    for _ in range(3):
        step()
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 5:
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) / size * 1e9)
    print(json.dumps({"program": "torch " + torch.__version__, "loop": loop, "size": size, "threads": threads,
                      "median_ns": statistics.median(times), "min_ns": min(times), "max_ns": max(times),
                      "n": len(times)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", nargs="+", default=["adamw", "sgd", "norm"])
    parser.add_argument("--size", nargs="+", type=int, default=[3_300_000, 25_000_000, 124_000_000])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3)
    flags = parser.parse_args()
    for loop in flags.loop:
        for size in flags.size:
            for threads in flags.threads:
                measure(loop, size, threads, flags.seconds)


if __name__ == "__main__":
    main()
