#!/usr/bin/env python3
"""One stage of a pipeline of torch.distributed.pipelining, or one process without, training a RevNet-18 of plain blocks on
random images: the peers of Outstep's engines of stages.

Started once per rank with torchrun's variables. Rank 0 prints one JSON line: images per second over the timed steps.

  gpipe, 1f1b   ScheduleGPipe, Schedule1F1B over --stages blocks, "5,5"; --checkpoint wraps every block
  alone         one process
"""

import argparse
import json
import os
import time

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.utils.checkpoint import checkpoint


def conv_norm(inputs, outputs, kernel, stride=1, relu=True):
    layers = [torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), torch.nn.BatchNorm2d(outputs)]
    return torch.nn.Sequential(*layers, *([torch.nn.ReLU(inplace=True)] if relu else []))


class Stem(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = conv_norm(3, 2 * width, 3)

    def forward(self, images):
        x, other = self.layer(images).chunk(2, 1)
        layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        return x.contiguous(memory_format=layout), other.contiguous(memory_format=layout)


class Block(torch.nn.Module):
    """Reversible, or halving the image."""

    def __init__(self, width, down):
        super().__init__()
        outputs = 2 * width if down else width
        self.first = conv_norm(width, outputs, 3, 2 if down else 1)
        self.second = conv_norm(outputs, outputs, 3)
        self.shortcut = conv_norm(width, outputs, 1, 2, relu=False) if down else None

    def forward(self, x, other):
        first = self.first(x)
        if self.shortcut is None:
            return self.second(first) + other, x
        return self.second(first) + self.shortcut(other), first


class Head(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(2 * width, 10)

    def forward(self, x, other):
        return self.layer(torch.cat([x.mean((2, 3)), other.mean((2, 3))], 1))


class Blocks(torch.nn.Module):
    def __init__(self, blocks, checkpoints):
        super().__init__()
        self.blocks, self.checkpoints = torch.nn.ModuleList(blocks), checkpoints

    def forward(self, *streams):
        for block in self.blocks:
            streams = checkpoint(block, *streams, use_reentrant=False) if self.checkpoints else block(*streams)
            streams = streams if isinstance(streams, tuple) else (streams,)
        return streams if len(streams) > 1 else streams[0]


def revnet18(width):
    blocks, channels = [Stem(width)], width
    for down in (False, False, True, False, True, False, True, False):
        blocks.append(Block(channels, down))
        channels *= 2 if down else 1
    return [*blocks, Head(channels)]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mode", choices=("gpipe", "1f1b", "alone"), required=True)
    options.add_argument("--checkpoint", action="store_true")
    options.add_argument("--stages", default="5,5", help="blocks a stage")
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--micro-batch", type=int, default=64)
    options.add_argument("--accumulation", type=int, default=4, help="micro-batches a step")
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--warmup", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--row-major", action="store_true", help="one process: images not with channels last")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    blocks = revnet18(arguments.width)
    rank, num_stages = 0, 1
    if arguments.mode != "alone":
        dist.init_process_group("gloo")
        rank, num_stages = dist.get_rank(), dist.get_world_size()
        counts = [int(count) for count in arguments.stages.split(",")]
        begin = sum(counts[:rank])
        blocks = blocks[begin:begin + counts[rank]]
    # Stages send contiguous tensors alone, so that a pipeline cannot have the faster layout.
    layout = torch.channels_last if arguments.mode == "alone" and not arguments.row_major else torch.contiguous_format
    model = Blocks(blocks, arguments.checkpoint).to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randn(arguments.micro_batch * arguments.accumulation, 3, 32, 32)
    images = images.to(memory_format=layout)
    labels = torch.arange(len(images)) % 10
    loss_of = torch.nn.functional.cross_entropy
    if arguments.mode == "alone":
        def step():
            for part, target in zip(images.split(arguments.micro_batch), labels.split(arguments.micro_batch)):
                loss_of(model(part), target).backward()
    else:
        stage = PipelineStage(model, rank, num_stages, torch.device("cpu"))
        schedule_type = ScheduleGPipe if arguments.mode == "gpipe" else Schedule1F1B
        schedule = schedule_type(stage, arguments.accumulation, loss_fn=loss_of)

        def step():
            if rank == 0:
                schedule.step(images)
            elif rank == num_stages - 1:
                schedule.step(target=labels, losses=[])
            else:
                schedule.step()
    for number in range(arguments.warmup + arguments.steps):
        if number == arguments.warmup:
            if num_stages > 1:
                dist.barrier()
            begin = time.perf_counter()
        step()
        optimizer.step()
        optimizer.zero_grad()
    if num_stages > 1:
        dist.barrier()
    seconds = time.perf_counter() - begin
    if rank == 0:
        print(json.dumps({"samples_per_second": len(images) * arguments.steps / seconds}), flush=True)
    if num_stages > 1:
        dist.barrier()
        dist.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive the group


if __name__ == "__main__":
    main()
