#!/usr/bin/env python3
"""One rank: forward and backward beside PyTorch eager, the same model, batch, threads and precision, in turns.

    bench/step.py --rounds 5 --out docs/benchmarks/step.jsonl

Runs bench/step_bench and bench/peers/torch_step.py, the latter also with a glibc that keeps freed memory ("torch-kept").
A round measures every contender once in every setting, seconds apart; a round's figure is its median step, the table's the
median over rounds.
"""

import statistics

from rounds import KEEPS_MEMORY, PYTHON, ROOT, Rounds, lines_of, parser, print_table, spread

SETTINGS = [{"model": model, "precision": precision, "threads": threads}
            for model in ("gpt", "resnet18w16") for precision in ("fp32", "bf16") for threads in (1, 2)]
CONTENDERS = {
    "outstep": ([ROOT / "build/default/bench/step_bench"], {}),
    "torch": ([PYTHON, ROOT / "bench/peers/torch_step.py"], {}),
    "torch-kept": ([PYTHON, ROOT / "bench/peers/torch_step.py"], KEEPS_MEMORY),
}


def main():
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=4, help="of timed steps, a contender, setting and round")
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    for key in rounds.missing(setting | {"program": name} for setting in SETTINGS for name in CONTENDERS):
        command, environment = CONTENDERS[key["program"]]
        flags = [word for name in ("model", "precision", "threads") for word in (f"--{name}", key[name])]
        environment = environment | {"OMP_NUM_THREADS": str(key["threads"])}
        rounds.add(key, lines_of([*command, *flags, "--seconds", arguments.seconds], environment))
    rows = []
    for setting in SETTINGS:
        times = {name: rounds.values("median_seconds", program=name, **setting) for name in CONTENDERS}
        best = statistics.median(times["outstep"])
        rows.append([" ".join(map(str, setting.values()))] +
                    [spread([1e3 * value for value in values]) for values in times.values()] +
                    [f"{statistics.median(times[name]) / best:.2f}" for name in ("torch", "torch-kept")])
    print_table(["model, precision, threads", *(f"{name}, ms" for name in CONTENDERS), "torch ÷ outstep",
                 "torch-kept ÷ outstep"], rows)


if __name__ == "__main__":
    main()
