#!/usr/bin/env python3
"""One rank of a data-parallel PyTorch run on random bytes: the peers of Outstep's ddp and zero1.

Started once per rank with torchrun's variables (or by bench/shaped_link.sh). Rank 0 prints one JSON line:
seconds per step (median, min, max over the timed steps), tokens per second over all ranks and all timed steps, as Outstep
counts them, and the time of day at which the first step had ended.

  none       no communication: the ceiling
  ddp        DistributedDataParallel, default 25 MB buckets
  ddp-2mb    the same with 2 MB buckets; ddp-1mb
  zero       DDP gradients + ZeroRedundancyOptimizer
  zero1      hand-written: reduce_scatter_tensor, sharded fused AdamW, all_gather_into_tensor

A step is --accumulation micro-batches a rank; gradients travel with the last alone (DDP's no_sync).
"""

import argparse
import contextlib
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from torch_models import Gpt

MODES = ("none", "ddp", "ddp-1mb", "ddp-2mb", "zero", "zero1")


class HandWrittenZero1:
    """Flat parameters and gradients; each rank updates its slice."""

    def __init__(self, model, rank, world_size, lr):
        parameters = list(model.parameters())
        total = sum(p.numel() for p in parameters)
        self.shard = -(-total // world_size)
        self.flat = torch.zeros(self.shard * world_size)
        self.grad = torch.zeros_like(self.flat)
        offset = 0
        for p in parameters:
            end = offset + p.numel()
            self.flat[offset:end] = p.data.flatten()
            p.data = self.flat[offset:end].view_as(p)
            p.grad = self.grad[offset:end].view_as(p)
            offset = end
        self.mine = self.flat[rank * self.shard : (rank + 1) * self.shard]
        self.mine_parameter = torch.nn.Parameter(self.mine.clone())
        self.mine_parameter.grad = torch.zeros(self.shard)
        self.optimizer = torch.optim.AdamW([self.mine_parameter], lr=lr, fused=True)
        self.world_size = world_size

    def zero_grad(self):
        self.grad.zero_()

    def step(self):
        dist.reduce_scatter_tensor(self.mine_parameter.grad, self.grad)
        self.mine_parameter.grad.div_(self.world_size)
        self.optimizer.step()
        with torch.no_grad():
            self.mine.copy_(self.mine_parameter)
            dist.all_gather_into_tensor(self.flat, self.mine)


def build(mode, model, rank, world_size, lr):
    if mode == "zero1":
        return model, HandWrittenZero1(model, rank, world_size, lr)
    if mode == "none":
        return model, torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    bucket = {"bucket_cap_mb": int(mode[len("ddp-"):-len("mb")])} if mode.startswith("ddp-") else {}
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, **bucket)
    if mode == "zero":
        return wrapped, ZeroRedundancyOptimizer(
            wrapped.parameters(), optimizer_class=torch.optim.AdamW, lr=lr, fused=True
        )
    return wrapped, torch.optim.AdamW(wrapped.parameters(), lr=lr, fused=True)


def step(model, optimizer, batches):
    """One update; each batch is tokens [B, T + 1]."""
    optimizer.zero_grad()
    for i, data in enumerate(batches):
        travels = i == len(batches) - 1 or not isinstance(model, DistributedDataParallel)
        with contextlib.nullcontext() if travels else model.no_sync():
            (model(data[:, :-1], data[:, 1:]) / len(batches)).backward()
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--steps", type=int, default=12, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before these")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches a rank and step")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=128)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    model, optimizer = build(arguments.mode, Gpt(context=arguments.context), rank, world_size, 1e-3)

    seconds, first_step_at = [], None
    shape = (arguments.accumulation, arguments.batch, arguments.context + 1)
    for _ in range(arguments.steps + arguments.warmup):
        batches = torch.randint(0, 256, shape)
        begin = time.perf_counter()
        step(model, optimizer, batches)
        seconds.append(time.perf_counter() - begin)
        first_step_at = first_step_at or time.time()
    seconds = seconds[arguments.warmup:]
    if rank == 0:
        tokens = arguments.accumulation * arguments.batch * arguments.context * world_size
        print(json.dumps({
            "program": "torch", "torch": torch.__version__, "mode": arguments.mode,
            "accumulation": arguments.accumulation, "n": len(seconds),
            "median_seconds": statistics.median(seconds), "min_seconds": min(seconds), "max_seconds": max(seconds),
            "tokens_per_second": tokens * len(seconds) / sum(seconds), "first_step_at": first_step_at,
        }), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
