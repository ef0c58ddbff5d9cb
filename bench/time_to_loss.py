#!/usr/bin/env python3
"""How long to a given loss on a link where an exchange takes as long as a micro-batch?

    bench/time_to_loss.py --data english-classics --speeds docs/benchmarks/acco.jsonl --out docs/benchmarks/time_to_loss.jsonl

With fixed counts the loss after so many updates does not depend on the link, so the answer is a product of two measurements:
how many updates a method needs (the model of bench/quality.py, evaluated every --every updates; lockstep stands for ddp,
zero1 and their peers), and how long an update takes at c = 1 (bench/acco.py, updates of the same number of micro-batches), in
units of an update without communication. Prints a table; curves already in --out are not measured again.
"""

import argparse
import concurrent.futures
import json
import pathlib
import statistics
import tempfile

from contenders import metrics
from rounds import PROGRAM, ROOT, output_of, print_table

FIXED = ("sync.name=acco", "sync.counts=fixed")
CURVES = {"lockstep": ("sync.name=none",), "acco": FIXED, "dpu": ("sync.name=dpu", "sync.counts=fixed")}
# A contender of acco.py, and the curve that it follows.
CONTENDERS = {"outstep acco fixed": "acco", "outstep dpu": "dpu", "outstep zero1": "lockstep",
              "outstep zero1 overlap": "lockstep", "outstep ddp": "lockstep", "torch ddp-1mb": "lockstep",
              "torch ddp-2mb": "lockstep", "torch ddp": "lockstep", "torch zero": "lockstep", "torch zero1": "lockstep"}


def curve(name, arguments):
    """Pairs of updates and validation loss."""
    with tempfile.TemporaryDirectory(prefix="outstep-loss-") as folder:
        settings = [*CURVES[name], f"data.path={arguments.data.resolve()}", f"evaluation.every={arguments.every}",
                    "evaluation.max_batches=32", f"train.seed={arguments.seed}"]
        output_of([PROGRAM, "train", ROOT / "bench/gpt_quality.toml", "--json", f"--run-dir={folder}/run",
                   *(f"--{setting}" for setting in settings)], {"OMP_NUM_THREADS": "1"}, timeout=7200)
        return [(line["step"], line["validation_loss"]) for line in metrics(f"{folder}/run", "validation")]


def curves(arguments):
    path = arguments.out
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {line["curve"]: line["points"] for line in lines if line["seed"] == arguments.seed}
    missing = [name for name in CURVES if name not in known]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, points in zip(missing, pool.map(lambda name: curve(name, arguments), missing)):
            known[name] = points
            with path.open("a") as out:
                out.write(json.dumps({"curve": name, "seed": arguments.seed, "points": points}) + "\n")
    return known


def updates_to(points, loss):
    """Interpolated; None if it is not reached."""
    for (before, higher), (after, lower) in zip(points, points[1:]):
        if lower <= loss < higher:
            return before + (after - before) * (higher - loss) / (higher - lower)
    return None


def slowness(path):
    """Contender: seconds of an update at c = 1, over those of computing alone."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]

    def rate(contender):
        return statistics.median(line["tokens_per_second"] for line in lines
                                 if line.get("c") == 1 and line.get("contender") == contender)
    return {name: rate("outstep none") / rate(name) for name in CONTENDERS}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=pathlib.Path, required=True, help="folder of the English classics")
    options.add_argument("--speeds", type=pathlib.Path, required=True, help="JSON lines of bench/acco.py")
    options.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; a run that was cut off goes on here")
    options.add_argument("--every", type=int, default=25, help="updates between evaluations (25)")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--losses", type=float, nargs="+", default=[2.4, 2.1, 1.95, 1.9])
    arguments = options.parse_args()
    known, slow = curves(arguments), slowness(arguments.speeds)
    rows = []
    for name, of in CONTENDERS.items():
        needed = [updates_to(known[of], loss) for loss in arguments.losses]
        rows.append([name, f"{slow[name]:.2f}", *(f"{n * slow[name]:.0f}" if n else "–" for n in needed)])
    print_table(["contender", "an update"] + [f"to {loss:g}" for loss in arguments.losses], rows)


if __name__ == "__main__":
    main()
