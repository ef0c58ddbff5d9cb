#!/usr/bin/env python3
"""What does the delay of pipeline stages cost in accuracy? PETRA with k = 1, 4 and 16 micro-batches an update beside reversible
backpropagation at the same epochs and the same tokens an update, and the other modes in ticks at k = 1.

    bench/petra_quality.py --data cifar-10-batches-bin --out docs/benchmarks/petra_quality.jsonl

RevNet-18 of width 16 on CIFAR-10 (batch 5 held out), a stage a block as in the paper (10 processes), micro-batches of 64, SGD
with Nesterov momentum, learning rate 0.1 · 64 k / 256, cosine. Runs already in --out are not repeated.
"""

import argparse
import json
import pathlib
import statistics
import tempfile

from rounds import PROGRAM, ROOT, fingerprint, lines_of, print_table

IMAGES = 40_000
MODES = ("reversible", "petra", "delayed", "dsp", "approx_input")


def experiments(epochs):
    """(mode, k, epochs, seed), the most important first."""
    for k in (1, 4, 16):
        for mode in ("reversible", "petra"):
            yield mode, k, epochs, 1
    for mode in MODES[2:]:
        yield mode, 1, epochs, 1
    for k in (1, 4):
        for mode in ("reversible", "petra"):
            yield mode, k, epochs, 2


def train(experiment, data):
    mode, k, epochs, seed = experiment
    steps = IMAGES * epochs // (64 * k)
    # Reversible backpropagation is the same with any number of stages; with one it does not wait.
    stages = 1 if mode == "reversible" else 10
    settings = {"engine.name": mode, "mesh.stages": stages, "train.accumulation": k, "train.steps": steps, "train.seed": seed,
                "train.threads": 2 if stages == 1 else 1, "optimizer.lr": 0.1 * 64 * k / 256, "data.path": data.resolve(),
                "schedule.warmup_steps": steps // 10, "evaluation.every": 0, "checkpoint.every": 0,
                "engine.stages": "[" + ", ".join(["1"] * 10) + "]" if stages > 1 else "auto"}
    with tempfile.TemporaryDirectory(prefix="outstep-petra-quality-") as folder:
        summary = lines_of([PROGRAM, "train", ROOT / "recipes/petra_cifar10.toml", "--json", f"--run-dir={folder}/run",
                            *(f"--{key}={value}" for key, value in settings.items())],
                           {"OMP_NUM_THREADS": "1"}, timeout=7200)[0]
    return {name: summary[name] for name in ("accuracy", "validation_loss", "train_seconds")} | fingerprint()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; a run that was cut off goes on here")
    options.add_argument("--data", type=pathlib.Path, required=True, help="folder of CIFAR-10's binary files")
    options.add_argument("--epochs", type=int, default=5, help="of 40,000 images (5)")
    arguments = options.parse_args()
    names = ("mode", "k", "epochs", "seed")
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    for experiment in experiments(arguments.epochs):
        key = dict(zip(names, experiment))
        if any(key.items() <= line.items() for line in lines):
            continue
        lines.append(key | train(experiment, arguments.data))
        with arguments.out.open("a") as out:
            out.write(json.dumps(lines[-1]) + "\n")
    rows = []
    for mode, k in dict.fromkeys(experiment[:2] for experiment in experiments(arguments.epochs)):
        found = [line["accuracy"] for line in lines if (line["mode"], line["k"], line["epochs"]) == (mode, k, arguments.epochs)]
        if found:
            rows.append([mode, k, arguments.epochs, len(found), f"{100 * statistics.mean(found):.2f}",
                         f"{100 * min(found):.2f}–{100 * max(found):.2f}"])
    print_table(["mode", "k", "epochs", "seeds", "accuracy, %", "range"], rows)


if __name__ == "__main__":
    main()
