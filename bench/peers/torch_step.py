#!/usr/bin/env python3
"""Times forward + backward of PyTorch eager, the peer of bench/step_bench.cc: same models, batches and precisions.

  .venv/bin/python bench/peers/torch_step.py --model gpt --precision fp32 --threads 1 --seconds 5

Prints one JSON line a setting: model, precision, threads, median/min/max seconds per step, least
processor time of a step, n, loss. The GPT is written
as nanoGPT writes it (torch_models.py: fused scaled-dot-product attention), the ResNet as torchvision, channels last.
Freed memory is kept for reuse if the environment says so, which only the caller can choose:

  MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=67108864
"""
import argparse
import json
import os
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from torch_models import Gpt


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet18(nn.Module):
    def __init__(self, width=16, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        blocks, channels = [], width
        for stage in range(4):
            for i in range(2):
                blocks.append(Residual(channels, width << stage, 2 if stage and not i else 1))
                channels = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, classes)

    def forward(self, images, targets):
        logits = self.fc(self.blocks(self.stem(images)).mean((2, 3)))
        return F.cross_entropy(logits.float(), targets)


def make(name):
    torch.manual_seed(1)
    if name == "gpt":
        tokens = torch.randint(256, (16, 129))
        model = Gpt()
        nn.init.normal_(model.wte.weight, std=0.02)
        return model, tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    width = int(name.removeprefix("resnet18w"))
    images = torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last)
    return ResNet18(width).to(memory_format=torch.channels_last), images, torch.randint(10, (64,))


def measure(name, precision, threads, seconds):
    torch.set_num_threads(threads)
    model, inputs, targets = make(name)
    model.train()

    def step():
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(inputs, targets)
        loss.backward()
        return loss.detach()

    for _ in range(3):
        loss = step()
    times, cpu_times, until = [], [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 5:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        step()
        cpu_times.append(time.process_time() - cpu_begin)
        times.append(time.perf_counter() - begin)
    kept = "MALLOC_MMAP_THRESHOLD_" in os.environ
    print(json.dumps({"program": "torch-kept" if kept else "torch", "model": name, "precision": precision,
                      "threads": threads, "median_seconds": statistics.median(times), "min_seconds": min(times),
                      "max_seconds": max(times), "min_cpu_seconds": min(cpu_times), "n": len(times), "loss": loss.item()}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="gpt, resnet18w16, resnet18w64 (any width); may be repeated")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16"])
    parser.add_argument("--threads", action="append", type=int)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    for name in options.model or ["gpt", "resnet18w16"]:
        for precision in options.precision or ["fp32", "bf16"]:
            for threads in options.threads or [1, 2]:
                measure(name, precision, threads, options.seconds)


if __name__ == "__main__":
    main()
