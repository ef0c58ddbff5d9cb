#!/usr/bin/env python3
"""From the command to the first step, beside a PyTorch script; and the memory of a run beside what `outstep plan` said.

    bench/startup.py --rounds 5 --out docs/benchmarks/startup.jsonl

Two ranks of the GPT of bench/gpt_4x256.toml over loopback. The time runs from the start of the command (outstep train,
torchrun) to the end of the first step; the peer is bench/peers/torch_two_ranks.py. Memory is what the counting allocator
saw at its peak: a run of each recipe below, and the plan of the same recipe.
"""

import statistics
import tempfile
import time

from rounds import PROGRAM, PYTHON, ROOT, Rounds, lines_of, output_of, parser, print_table, spread

RECIPES = {
    "gpt 4x256, zero1": ["bench/gpt_4x256.toml"],
    "gpt 4x256, ddp": ["bench/gpt_4x256.toml", "--sync.name=ddp"],
    "gpt 4x256, zero1, bf16": ["bench/gpt_4x256.toml", "--engine.precision=bf16"],
    "quickstart": ["recipes/quickstart.toml", "--train.threads=1"],
    "fashion_mnist_resnet": ["recipes/fashion_mnist_resnet.toml", "--train.threads=1"],
}


def outstep_start():
    with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
        command = [PROGRAM, "train", ROOT / "bench/gpt_4x256.toml", "--json", f"--run-dir={folder}/run"]
        return lines_of([*command, "--train.steps=2"])[0]["seconds_to_first_step"]


def torch_start():
    begin = time.time()
    lines = lines_of([ROOT / ".venv/bin/torchrun", "--no-python", "--nproc-per-node", 2, PYTHON,
                      ROOT / "bench/peers/torch_two_ranks.py", "--mode", "ddp", "--steps", 2])
    return lines[0]["first_step_at"] - begin


def memory(recipe):
    words = RECIPES[recipe]
    plan = lines_of([PROGRAM, "plan", ROOT / words[0], *words[1:], "--json"])[0]
    with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
        run = lines_of([PROGRAM, "train", ROOT / words[0], *words[1:], "--json", f"--run-dir={folder}/run",
                        "--train.steps=4", "--schedule.warmup_steps=1", "--evaluation.max_batches=1"])[0]
    return {"planned_bytes": plan["total_bytes"], "peak_bytes": run["peak_memory_bytes"]}


def main():
    arguments = parser(__doc__).parse_args()
    output_of([PROGRAM, "--version"])
    rounds = Rounds(arguments.out, arguments.rounds)
    starts = {"outstep": outstep_start, "torch": torch_start}
    for key in rounds.missing({"contender": name} for name in starts):
        rounds.add(key, [{"seconds_to_first_step": starts[key["contender"]]()}])
    rounds.count = 1  # memory does not vary
    for key in rounds.missing({"recipe": name} for name in RECIPES):
        rounds.add(key, [memory(key["recipe"])])
    times = {name: rounds.values("seconds_to_first_step", contender=name) for name in starts}
    print_table(["contender", "command to first step, s (median, min–max)", "÷ outstep"],
                [[name, spread(values, 2), f"{statistics.median(values) / statistics.median(times['outstep']):.2f}"]
                 for name, values in times.items()])
    print()
    rows = []
    for name in RECIPES:
        planned, peak = rounds.median("planned_bytes", recipe=name), rounds.median("peak_bytes", recipe=name)
        rows.append([name, f"{planned / 2**20:.1f}", f"{peak / 2**20:.1f}", f"{planned / peak:.3f}"])
    print_table(["recipe", "planned, MiB", "peak of the run, MiB", "planned ÷ peak"], rows)


if __name__ == "__main__":
    main()
