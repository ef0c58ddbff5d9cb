#!/usr/bin/env python3
"""What is a population worth, as models by themselves, together and as one average? WASH, PAPA and DART beside members that
share nothing, at equal epochs: how fading, p, depth, moments, initialisation and regularisation matter.

    bench/wash_quality.py --data fashion-mnist --cifar cifar-10-batches-bin --out docs/benchmarks/wash_quality.jsonl \
        --figure docs/benchmarks/wash_accuracy.svg

recipes/wash_cifar10.toml with micro-batches of 64, on Fashion-MNIST (750 steps, 0.8 epochs; evaluated on its 10,000 test images)
and CIFAR-10 (1,000 steps, 1.6 epochs; batch 5 held out). Takes about two and a half hours of two cores, with --width 8 half of that.
Runs already in --out are not repeated; the most important come first. Prints a table for each data set, initialisation,
regularisation and number of members: accuracies in percent, mean and range over seeds, of members over all of them.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

import wash_figure
from rounds import PROGRAM, ROOT, fingerprint, lines_of, print_table

FASHION, CIFAR = "fashion_mnist", "cifar10"
MICRO_BATCH, WIDTH = 64, 16
STEPS = {FASHION: 750, CIFAR: 1000}
FADING = {"ensemble.name": "wash", "ensemble.p": 0.05, "ensemble.p_schedule": "with_lr"}
METHODS = {
    "none": {"ensemble.name": "none"},
    "papa": {"ensemble.name": "papa"},  # alpha 0.99
    "papa 0.9": {"ensemble.name": "papa", "ensemble.alpha": 0.9},
    "wash": FADING,
    "wash, constant p": FADING | {"ensemble.p_schedule": "constant"},
    "wash, p 0.01": FADING | {"ensemble.p": 0.01},
    "wash, p 0.2": FADING | {"ensemble.p": 0.2},
    "wash, p 0.5": FADING | {"ensemble.p": 0.5},
    "wash, constant p 0.2": FADING | {"ensemble.p": 0.2, "ensemble.p_schedule": "constant"},
    "wash, all layers alike": FADING | {"ensemble.depth": "constant"},
    "wash_opt": FADING | {"ensemble.name": "wash_opt"},
    "dart": {"ensemble.name": "dart"},  # its timing goes by the length of the run
}
# What tells runs apart in --out, beside their steps and the model's width.
NAMES = ("data", "init", "regularization", "members", "method", "seed")


def experiments():
    """In the order of NAMES, the most important first."""
    main = ("none", "papa", "wash")
    variants = ("wash, constant p", "wash, p 0.01", "wash, all layers alike", "wash_opt", "papa 0.9", "dart", "wash, p 0.2")
    rescued = ("none", "wash", "wash, all layers alike", "papa 0.9")
    fashion = [*((FASHION, "same", "same", 3, method) for method in (*main, *variants)),
               *((FASHION, "independent", "same", 3, method) for method in rescued),
               *((FASHION, "same", "heterogeneous", 3, method) for method in (*main, "dart"))]
    for experiment in fashion:
        yield *experiment, 1
    for method in (*main, "wash_opt", "dart", "wash, p 0.2"):
        yield CIFAR, "same", "same", 3, method, 1
    for seed in (2, 3):
        for experiment in fashion[:len(main)]:
            yield *experiment, seed
    for method in main:
        yield FASHION, "same", "same", 5, method, 1
    for method in main:
        yield CIFAR, "same", "heterogeneous", 3, method, 1
    for method in rescued[:3]:
        yield CIFAR, "independent", "same", 3, method, 1
    for data in (FASHION, CIFAR):
        for method in ("wash, p 0.5", "wash, constant p 0.2"):
            yield data, "same", "same", 3, method, 1
    for others in (fashion[len(main):len(main) + len(variants)], fashion[len(main) + len(variants):]):
        for seed in (2, 3):
            for experiment in others:
                yield *experiment, seed


def settings_of(key):
    steps = key["steps"]
    settings = {"data.name": key["data"], "mesh.members": key["members"], "model.width": key["width"], "train.seed": key["seed"],
                "engine.micro_batch": MICRO_BATCH, "train.steps": steps, "train.threads": 1, "schedule.warmup_steps": steps // 10,
                "ensemble.init": key["init"], "evaluation.every": 0, "log.tensorboard": "false"} | METHODS[key["method"]]
    if key["regularization"] != "same":
        settings["ensemble.regularization"] = key["regularization"]
    if key["method"] == "dart":  # eight rounds of branches, each of which ends at the mean
        settings |= {"ensemble.start_step": steps % (steps // 8), "ensemble.interval": steps // 8}
    return settings


def train(key, data):
    """Accuracies in percent."""
    with tempfile.TemporaryDirectory(prefix="outstep-wash-quality-") as folder:
        settings = settings_of(key) | {"data.path": data.resolve()}
        summary = lines_of([PROGRAM, "train", ROOT / "recipes/wash_cifar10.toml", "--json", f"--run-dir={folder}/run",
                            *(f"--{name}={value}" for name, value in settings.items())],
                           {"OMP_NUM_THREADS": "1"}, timeout=7200)[0]
    population = summary["population"]
    result = {name: 100 * population[name]["accuracy"] for name in ("ensemble", "average", "greedy")}
    return result | {"accuracies": [100 * member["accuracy"] for member in population["members"]],
                     "greedy_members": population["greedy"]["members"], "relative_distance": population["relative_distance"],
                     "bytes_sent": summary["bytes_sent"], "train_seconds": summary["train_seconds"]} | fingerprint()


class Results:
    def __init__(self, path, width, steps):
        """width and steps (by data set): of the runs; lines of others are left alone."""
        self._path, self._width, self._steps = path, width, steps
        self._lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def key(self, **names):
        """What tells runs apart; data is among the names."""
        return names | {"width": self._width, "steps": self._steps[names["data"]]}

    def find(self, **names):
        """Lines, by seed."""
        found = [line for line in self._lines if self.key(**names).items() <= line.items()]
        return sorted(found, key=lambda line: line["seed"])

    def add(self, line):
        self._lines.append(line)
        with self._path.open("a") as out:
            out.write(json.dumps(line) + "\n")


def over(values):
    """"88.12 (87.90–88.40)": mean and range."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def behind_independent(results, setting, found):
    """Mean accuracy of a member, less that of members which share nothing, seed by seed."""
    none = {line["seed"]: line for line in results.find(**setting, method="none")}
    gaps = [statistics.mean(line["accuracies"]) - statistics.mean(none[line["seed"]]["accuracies"])
            for line in found if line["seed"] in none]
    return f"{statistics.mean(gaps):+.2f}" if gaps else ""


def print_tables(results):
    settings = dict.fromkeys(experiment[:4] for experiment in experiments())
    for setting in (dict(zip(NAMES, setting)) for setting in settings):
        rows = []
        for method in METHODS:
            found = results.find(**setting, method=method)
            if not found:
                continue
            members = [accuracy for line in found for accuracy in line["accuracies"]]
            gap = statistics.mean(line["average"] - line["ensemble"] for line in found)
            rows.append([method, len(found), over(members),
                         behind_independent(results, setting, found), over([line["ensemble"] for line in found]),
                         over([line["average"] for line in found]), f"{gap:+.2f}", over([line["greedy"] for line in found]),
                         f"{statistics.mean(line['relative_distance'] for line in found):.2f}",
                         f"{statistics.mean(line['bytes_sent'] for line in found) / 1e6:,.2f}"])
        if rows:
            print("\n{data}, {members} members, init {init}, regularisation {regularization}\n".format(**setting))
            print_table(["method", "seeds", "member, %", "− of none", "ensemble", "average", "− ensemble", "greedy soup",
                         "distance ÷ norm", "MB sent by a rank"], rows)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; a run that was cut off goes on here")
    options.add_argument("--data", type=pathlib.Path, help="folder of Fashion-MNIST's files")
    options.add_argument("--cifar", type=pathlib.Path, help="folder of CIFAR-10's binary files")
    options.add_argument("--width", type=int, default=WIDTH, help=f"channels of the first stage ({WIDTH})")
    options.add_argument("--steps", type=int, help="of every run, for a trial")
    options.add_argument("--first", type=int, help="only so many experiments, for a trial")
    options.add_argument("--print-only", action="store_true", help="the tables of what --out has")
    options.add_argument("--figure", type=pathlib.Path, help="accuracy of the average over bytes sent, an SVG file")
    arguments = options.parse_args()
    folders = {FASHION: arguments.data, CIFAR: arguments.cifar}
    steps = {data: arguments.steps or usual for data, usual in STEPS.items()}
    results = Results(arguments.out, arguments.width, steps)
    for experiment in [] if arguments.print_only else list(experiments())[:arguments.first]:
        names = dict(zip(NAMES, experiment))
        if results.find(**names):
            continue
        if not folders[names["data"]]:
            options.error(f"{names['data']} is still to be run: name its folder, or --print-only")
        key = results.key(**names)
        results.add(key | train(key, folders[names["data"]]))
        print(" ".join(map(str, experiment)), "done", file=sys.stderr)
    print_tables(results)
    if arguments.figure:
        wash_figure.draw(arguments.figure, results, METHODS)


if __name__ == "__main__":
    main()
