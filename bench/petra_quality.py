#!/usr/bin/env python3
"""What does the delay of pipeline stages cost in accuracy? PETRA with k = 1, 4 and 16 micro-batches an update beside reversible
backpropagation at the same epochs and the same images an update, and the other modes in ticks at k = 1; and on text.

    bench/petra_quality.py --data cifar-10-batches-bin --text english-classics --out docs/benchmarks/petra_quality.jsonl

RevNet-18 of width 16 on CIFAR-10 (batch 5 held out), a stage a block as in the paper (10 processes) or fewer, micro-batches of
64, SGD with Nesterov momentum, learning rate 0.1 · 64 k / 256 (the paper's rule) or a quarter of it, which rises over a share of
the run and then falls as a cosine. The paper's runs have 300 epochs and a warm-up of five.

A reversible GPT of 4 layers × 128 that reads bytes of English classics, two stages, AdamW, 8,192 bytes an update, cut into k
micro-batches. Runs already in --out are not repeated.
"""

import argparse
import json
import pathlib
import statistics
import tempfile

from rounds import PROGRAM, ROOT, fingerprint, lines_of, print_table

IMAGES = 40_000
TEXT_STEPS, TEXT_WINDOWS = 600, 128  # updates; windows of 64 bytes in each


def text_experiments():
    """(mode, k, updates, seed); without stages k does not matter."""
    for mode, k in (("backprop", 8), ("petra", 8), ("petra", 32), ("petra", 64), ("delayed", 8)):
        yield mode, k, TEXT_STEPS, 1


# Blocks a stage; reversible backpropagation is the same with any number of stages, and with one it does not wait.
CUTS = {1: "auto", 2: "[4, 6]", 4: "[2, 2, 3, 3]", 10: "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"}
IMAGE_NAMES = ("mode", "stages", "k", "lr", "warmup", "epochs", "seed")


def experiments(epochs):
    """Of IMAGE_NAMES, the most important first. lr: times the rule's; warmup: the share of the run in which it rises."""
    pair = (("reversible", 1), ("petra", 10))
    for warmup in (0.1, 0.5):
        for mode, stages in pair:
            yield mode, stages, 1, 1, warmup, epochs, 1
    for mode in ("delayed", "dsp", "approx_input"):
        yield mode, 10, 1, 1, 0.1, epochs, 1
    for stages in (2, 4):
        yield "petra", stages, 1, 1, 0.1, epochs, 1
    for mode, stages in pair:
        yield mode, stages, 1, 0.25, 0.1, epochs, 1
    for k in (4, 16):
        for mode, stages in (*pair, ("petra", 2)):
            yield mode, stages, k, 1, 0.1, epochs, 1
    for k in (16, 4, 1):
        for mode, stages in (*pair, ("petra", 2)):
            yield mode, stages, k, 1, 0.1, epochs, 2


def run(recipe, settings, names):
    with tempfile.TemporaryDirectory(prefix="outstep-petra-quality-") as folder:
        summary = lines_of([PROGRAM, "train", ROOT / recipe, "--json", f"--run-dir={folder}/run",
                            *(f"--{key}={value}" for key, value in settings.items())],
                           {"OMP_NUM_THREADS": "1"}, timeout=7200)[0]
    return {name: summary[name] for name in names} | fingerprint()


def train_text(experiment, data):
    mode, k, steps, seed = experiment
    stages = 1 if mode == "backprop" else 2
    settings = {"engine.name": mode, "mesh.stages": stages, "train.accumulation": k, "engine.micro_batch": TEXT_WINDOWS // k,
                "train.steps": steps, "train.seed": seed, "train.threads": 2 if stages == 1 else 1, "data.path": data.resolve(),
                "evaluation.every": 0, "evaluation.max_batches": 200, "checkpoint.every": 0}
    return run("recipes/petra_revgpt.toml", settings, ("validation_loss", "train_seconds"))


def train(experiment, data):
    mode, stages, k, lr, warmup, epochs, seed = experiment
    steps = IMAGES * epochs // (64 * k)
    settings = {"engine.name": mode, "mesh.stages": stages, "train.accumulation": k, "train.steps": steps, "train.seed": seed,
                "train.threads": 2 if stages == 1 else 1, "optimizer.lr": lr * 0.1 * 64 * k / 256, "data.path": data.resolve(),
                "schedule.warmup_steps": int(steps * warmup), "evaluation.every": 0, "checkpoint.every": 0,
                "engine.stages": CUTS[stages]}
    return run("recipes/petra_cifar10.toml", settings, ("accuracy", "validation_loss", "train_seconds"))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; a run that was cut off goes on here")
    options.add_argument("--data", type=pathlib.Path, required=True, help="folder of CIFAR-10's binary files")
    options.add_argument("--text", type=pathlib.Path, required=True, help="folder of the English classics")
    options.add_argument("--epochs", type=int, default=5, help="of 40,000 images (5)")
    options.add_argument("--print-only", action="store_true", help="the tables of what --out has")
    arguments = options.parse_args()
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []

    def complete(task, names, planned, work):
        """Makes the runs that are missing; yields a row for each mode and k of what there is."""
        planned = list(planned)
        for experiment in planned:
            key = {"task": task} | dict(zip(names, experiment))
            if arguments.print_only or any(key.items() <= line.items() for line in lines):
                continue
            lines.append(key | work(experiment))
            with arguments.out.open("a") as out:
                out.write(json.dumps(lines[-1]) + "\n")
        for setting in dict.fromkeys(experiment[:-1] for experiment in planned):
            key = {"task": task} | dict(zip(names, setting))
            found = [line for line in lines if key.items() <= line.items()]
            if found:
                yield setting, found

    rows = []
    for setting, found in complete("text", ("mode", "k", "updates", "seed"), text_experiments(),
                                   lambda experiment: train_text(experiment, arguments.text)):
        losses = [line["validation_loss"] for line in found]
        rows.append([*setting, len(losses), f"{statistics.mean(losses):.4f}"])
    print_table(["mode", "k", "updates", "seeds", "nats per byte"], rows)
    rows = []
    for setting, found in complete("images", IMAGE_NAMES, experiments(arguments.epochs),
                                   lambda experiment: train(experiment, arguments.data)):
        accuracies = [100 * line["accuracy"] for line in found]
        rows.append([*setting, len(accuracies), f"{statistics.mean(accuracies):.2f}",
                     f"{min(accuracies):.2f}–{max(accuracies):.2f}"])
    print_table([*IMAGE_NAMES[:-1], "seeds", "accuracy, %", "range"], rows)


if __name__ == "__main__":
    main()
