#!/usr/bin/env python3
"""Fused AdamW, SGD and the gradient's norm beside torch's fused optimizers and beside the memory bandwidth, in turns.

    bench/optimizers.py --rounds 3 --out docs/benchmarks/optimizers.jsonl

The bound is a loop over as many vectors, read and written alike, in the same process (bench/optim_bench.cc).
"""

import statistics

from rounds import KEEPS_MEMORY, PYTHON, ROOT, Rounds, lines_of, parser, print_table, spread

SETTINGS = [{"loop": loop, "size": size, "threads": threads}
            for loop in ("adamw", "sgd", "norm") for size in (3_300_000, 25_000_000) for threads in (1, 2)]
CONTENDERS = {
    "outstep": [ROOT / "build/default/bench/optim_bench"],
    "torch": [PYTHON, ROOT / "bench/peers/torch_optim.py"],
}


def main():
    options = parser(__doc__, rounds=3)
    options.add_argument("--seconds", type=float, default=2, help="of timed updates, a contender, setting and round")
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    for key in rounds.missing(setting | {"contender": name} for setting in SETTINGS for name in CONTENDERS):
        flags = [word for name in ("loop", "size", "threads") for word in (f"--{name}", key[name])]
        command = [*CONTENDERS[key["contender"]], *flags, "--seconds", arguments.seconds]
        rounds.add(key, lines_of(command, KEEPS_MEMORY | {"OMP_NUM_THREADS": str(key["threads"])}))
    rows = []
    for setting in SETTINGS:
        ours = rounds.values("median_ns", contender="outstep", **setting)
        theirs = rounds.values("median_ns", contender="torch", **setting)
        rows.append([f"{setting['loop']}, {setting['size'] / 1e6:g} M, {setting['threads']}", spread(ours, 2),
                     f"{rounds.median('bound_median_ns', contender='outstep', **setting):.2f}",
                     f"{rounds.median('ratio_to_bound', contender='outstep', **setting):.2f}",
                     spread(theirs, 2), f"{statistics.median(theirs) / statistics.median(ours):.2f}"])
    print_table(["loop, elements, threads", "outstep, ns an element", "bound, ns", "÷ bound", "torch fused, ns",
                 "torch ÷ outstep"], rows)


if __name__ == "__main__":
    main()
