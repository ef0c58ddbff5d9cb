#!/usr/bin/env python3
"""One rank at a quarter of its speed: gradients per second of ACCO beside zero1 with updates of the same size.

    bench/straggler.py --rounds 3 --out docs/benchmarks/acco_straggler.jsonl

Two ranks of the GPT of bench/gpt_4x256.toml, micro-batches of 8, over loopback; bench/slowed.py slows rank 1. In lockstep
nobody is faster than the slowest, so two ranks do twice what the slow one does; without waiting they do what both do alone,
which is measured with two processes that do not communicate. That ratio is the bound, 2.5 if the slow rank has exactly a
quarter.
"""

import statistics
import tempfile

import contenders
from rounds import PYTHON, ROOT, Rounds, lines_of, on_shaped_link, parser, print_table, spread

MICRO_BATCH = 8
BATCH_TOKENS = contenders.BATCH_TOKENS * MICRO_BATCH // 16
SETTINGS = (f"engine.micro_batch={MICRO_BATCH}", "log.every=1")
UPDATE = 5  # micro-batches a rank: of ACCO's commit, two rounds in which one rank adds 1 and the other 4


def measure(contender, commits):
    """A line: micro-batches per second of all ranks, and micro-batches a rank and update."""
    with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
        if contender == "none":  # both for as long: the fast one does four times as much
            steps = ["sh", "-c", f'test "$RANK" = 1 || set -- "$@" --train.steps={4 * commits}; exec "$@"', "sh"]
            command = steps + contenders.outstep_alone(commits, folder, 2, SETTINGS)
        elif contender == "acco":
            command = contenders.outstep("acco", UPDATE * (commits + 1), folder, 1, SETTINGS)
        else:
            command = contenders.outstep("zero1", commits, folder, UPDATE, SETTINGS)
        slowed = [PYTHON, ROOT / "bench/slowed.py", "--rank", 1, "--share", 0.25, "--", *command]
        summary = lines_of(on_shaped_link("", *slowed), {"OMP_NUM_THREADS": "1"})[0]
        if contender == "none":
            fast, slow = (statistics.median(line["tokens_per_second"] for line in
                                            contenders.metrics(f"{folder}/{rank}/run", "train")[1:]) for rank in (0, 1))
            return {"micro_batches_per_second": (fast + slow) / BATCH_TOKENS, "slow_rank": slow / BATCH_TOKENS}
        updates = contenders.metrics(f"{folder}/run", "train")[1:]
    return {"micro_batches_per_second": summary["tokens_per_second"] / BATCH_TOKENS,
            "update": statistics.mean(line["micro_batches"] / line["steps"] for line in updates) / 2}


def main():
    options = parser(__doc__, rounds=3)
    options.add_argument("--commits", type=int, default=4, help="updates, the first of which is not timed (4)")
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    for key in rounds.missing({"contender": name} for name in ("none", "acco", "zero1")):
        rounds.add(key, [measure(key["contender"], arguments.commits)])
    rows, zero1 = [], rounds.median("micro_batches_per_second", contender="zero1")
    for name in ("none", "acco", "zero1"):
        values = rounds.values("micro_batches_per_second", contender=name)
        update = "" if name == "none" else f"{rounds.median('update', contender=name):.1f}"
        rows.append([name, spread(values, 2), len(values), update, f"{statistics.median(values) / zero1:.2f}"])
    print_table(["contender", "micro-batches/s of both ranks (median, min–max)", "n", "micro-batches a rank and update",
                 "÷ zero1"], rows)
    both, slow = rounds.median("micro_batches_per_second", contender="none"), rounds.median("slow_rank", contender="none")
    print(f"\nthe slow rank has {slow / (both - slow):.3f} of the other's speed: bound {both / (2 * slow):.2f}")


if __name__ == "__main__":
    main()
