#!/usr/bin/env python3
"""Two ranks over a slow link: Outstep's ddp and zero1 beside PyTorch's, in one run.

    sudo bench/two_ranks.py --rates 280mbit 140mbit --rounds 3 --out docs/benchmarks/two_ranks.jsonl

Every contender trains the same GPT (4 layers x 256, context 128, bytes, batch 16 a rank, float32, one thread a rank) on a
link shaped by bench/shaped_link.sh. Rounds alternate between contenders, so that a machine that slows down slows all.
Prints a table: tokens per second of both ranks (median, min-max over the rounds) and the share of the same run's ceiling,
which is Outstep on two processes that do not communicate. Measurements already in --out are not repeated.
"""

import statistics
import tempfile

import contenders
from rounds import Rounds, lines_of, on_shaped_link, parser, print_table, spread

OUTSTEP = {"outstep ddp": "ddp", "outstep zero1": "zero1"}
TORCH = {"torch ddp": "ddp", "torch ddp-2mb": "ddp-2mb", "torch zero": "zero", "torch zero1": "zero1"}
CONTENDERS = ["outstep none", *OUTSTEP, *TORCH]


def measure(contender, rate, steps):
    """Tokens per second of all ranks."""
    with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
        if contender in TORCH:
            command = contenders.torch(TORCH[contender], steps)
        elif contender in OUTSTEP:
            command = contenders.outstep(OUTSTEP[contender], steps, folder)
        else:
            command = contenders.outstep_alone(steps, folder)
        text = lines_of(on_shaped_link(rate, *command))
    return text[0]["tokens_per_second"] * (2 if contender == "outstep none" else 1)


def table(rounds, rates):
    for rate in rates:
        ceiling = rounds.median("tokens_per_second", rate=rate, contender="outstep none")
        rows = []
        for name in CONTENDERS:
            values = rounds.values("tokens_per_second", rate=rate, contender=name)
            rows.append([name, spread(values, 0), len(values), f"{statistics.median(values) / ceiling:.2f}"])
        print(f"\n{rate}\n")
        print_table(["contender", "tokens/s (median, min–max)", "n", "share of the ceiling"], rows)


def main():
    options = parser(__doc__, rounds=3)
    options.add_argument("--rates", nargs="+", default=["280mbit", "140mbit"])
    options.add_argument("--steps", type=int, default=20)
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    for key in rounds.missing({"rate": rate, "contender": name} for rate in arguments.rates for name in CONTENDERS):
        rate = measure(key["contender"], key["rate"], arguments.steps)
        rounds.add(key, [{"tokens_per_second": rate}])
    table(rounds, arguments.rates)


if __name__ == "__main__":
    main()
