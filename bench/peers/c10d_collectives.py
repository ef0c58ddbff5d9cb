"""The peer of comm_bench: PyTorch's own collectives over Gloo, and the same exchange made by hand of isend and irecv.

    torchrun --nproc-per-node 2 bench/peers/c10d_collectives.py --bytes 67108864
    bench/shaped_link.sh --rate 280mbit -- python bench/peers/c10d_collectives.py --rate 280mbit

Prints one JSON line an operation, in comm_bench's form; a call's time is that of its slowest rank.
"""

import argparse
import json
import time

import torch
import torch.distributed as dist


def bits_per_second(text):
    for unit, factor in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)):
        if text.endswith(unit):
            return float(text[:-len(unit)]) * factor
    raise ValueError(f"not a rate: {text}")


class Operations:
    """Each leaves its result in self.output, or in self.own, this rank's shard of it."""

    def __init__(self, num_bytes):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        length = num_bytes // 4 // self.size * self.size
        generator = torch.Generator().manual_seed(self.rank)
        self.input = torch.randn(length, generator=generator)
        self.output = torch.zeros(length)
        self.shard = length // self.size
        self.own = self.output.narrow(0, self.rank * self.shard, self.shard)
        self.arriving = torch.zeros(self.size, self.shard)

    def reduce_scatter(self):
        dist.reduce_scatter_tensor(self.own, self.input)

    def all_gather(self):
        dist.all_gather_into_tensor(self.output, self.own.clone())

    def reduce_scatter_all_gather(self):
        self.reduce_scatter()
        self.all_gather()

    def all_reduce(self):
        dist.all_reduce(self.output)

    def reduce_scatter_by_hand(self):
        works = [dist.irecv(self.arriving[peer], peer) for peer in range(self.size) if peer != self.rank]
        works += [dist.isend(self.input.narrow(0, peer * self.shard, self.shard), peer)
                  for peer in range(self.size) if peer != self.rank]
        for work in works:
            work.wait()
        self.arriving[self.rank].copy_(self.input.narrow(0, self.rank * self.shard, self.shard))
        torch.sum(self.arriving, 0, out=self.own)

    def all_gather_by_hand(self):
        parts = self.output.view(self.size, self.shard)
        works = [dist.irecv(parts[peer], peer) for peer in range(self.size) if peer != self.rank]
        works += [dist.isend(self.own, peer) for peer in range(self.size) if peer != self.rank]
        for work in works:
            work.wait()

    def verify(self):
        total = sum(torch.randn(self.input.numel(), generator=torch.Generator().manual_seed(rank))
                    for rank in range(self.size))
        for reduce_scatter, all_gather in ((self.reduce_scatter, self.all_gather),
                                           (self.reduce_scatter_by_hand, self.all_gather_by_hand)):
            self.output.zero_()
            reduce_scatter()
            all_gather()
            assert torch.allclose(self.output, total, atol=1e-5)
        self.output.zero_()

    def wire_bytes(self, name):
        once = self.input.numel() * 4 * (self.size - 1) / self.size
        return 2 * once if name in ("all_reduce", "reduce_scatter_all_gather") else once


def measure(name, operations, flags):
    times = []
    for i in range(-flags.warmup, flags.iterations):
        dist.barrier()
        begin = time.perf_counter()
        getattr(operations, name)()
        seconds = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        if i >= 0:
            times.append(seconds.item())
    times.sort()
    line = dict(program="torch", operation=name, backend="gloo", wire="exact", world_size=operations.size,
                bytes=operations.input.numel() * 4, median_seconds=times[len(times) // 2], min_seconds=times[0],
                max_seconds=times[-1], n=len(times), torch=torch.__version__)
    if flags.rate:
        line["wire_seconds"] = operations.wire_bytes(name) * 8 / bits_per_second(flags.rate)
        line["ratio_to_wire"] = line["median_seconds"] / line["wire_seconds"]
    if operations.rank == 0:
        print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operation", nargs="+",
                        default=["reduce_scatter", "all_gather", "reduce_scatter_all_gather", "all_reduce",
                                 "reduce_scatter_by_hand", "all_gather_by_hand"])
    parser.add_argument("--bytes", type=int, nargs="+", default=[13_293_568])
    parser.add_argument("--rate", default="")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for num_bytes in flags.bytes:
        operations = Operations(num_bytes)
        operations.verify()
        for name in flags.operation:
            measure(name, operations, flags)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
