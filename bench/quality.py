#!/usr/bin/env python3
"""What does computing gradients ahead of time cost in loss? Lockstep, ACCO, DPU and WP at the same tokens and the same
tokens per update, over seeds, lengths, learning rates and ACCO's settings.

    bench/quality.py --data english-classics --out docs/benchmarks/quality.jsonl

Every run is a world of one with fixed counts, which to rounding is N ranks that add the same micro-batches, so two runs fit
on two cores. Runs already in --out are not repeated. Prints tables of validation losses (nats per byte).
"""

import argparse
import concurrent.futures
import json
import pathlib
import statistics
import tempfile
import threading

from rounds import PROGRAM, ROOT, fingerprint, lines_of, print_table

SYNC = {
    "lockstep": {"sync.name": "none"},
    "acco": {"sync.name": "acco", "sync.counts": "fixed"},
    "dpu": {"sync.name": "dpu", "sync.counts": "fixed"},
    "wp": {"sync.name": "wp", "sync.counts": "fixed"},
    "acco int8": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_dtype": "int8"},
    "acco w=1/4": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_micro_batches": 1},
    "acco w=3/4": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_micro_batches": 3},
    "acco scale=0": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_scale": 0},
    "acco scale=1/2": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_scale": 0.5},
    "acco scale=3/4": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_scale": 0.75},
    "acco scale=5/4": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_scale": 1.25},
    "acco scale=3/2": {"sync.name": "acco", "sync.counts": "fixed", "sync.estimate_scale": 1.5},
    "acco 50 synchronous": {"sync.name": "acco", "sync.counts": "fixed", "sync.synchronous_steps": 50},
}


def experiments():
    """(method, data, steps, lr, seed), the most important first."""
    for method in ("lockstep", "acco", "dpu", "wp", "acco w=3/4", "acco w=1/4"):
        yield method, "classics", 625, 1e-3, 1
    for method in ("lockstep", "acco"):
        yield method, "shakespeare", 500, 1e-3, 1
    for seed in (2, 3):
        for method in ("lockstep", "acco", "acco w=3/4", "dpu", "wp"):
            yield method, "classics", 625, 1e-3, seed
    for method in SYNC:
        if method.startswith("acco ") and "w=" not in method:  # int8, scales, synchronous steps
            yield method, "classics", 625, 1e-3, 1
    for seed in (2, 3):
        yield "acco scale=5/4", "classics", 625, 1e-3, seed
    for steps, lr in ((250, 1e-3), (625, 3e-3), (625, 3e-4), (1250, 1e-3)):
        for method in ("lockstep", "acco", "acco scale=5/4"):
            yield method, "classics", steps, lr, 1
    yield "acco w=3/4", "classics", 625, 3e-4, 1
    for method in ("lockstep", "acco"):
        yield method, "shakespeare", 500, 1e-3, 2


def train(experiment, classics):
    method, data, steps, lr, seed = experiment
    settings = dict(SYNC[method], **{"train.steps": steps, "optimizer.lr": lr, "train.seed": seed})
    if data == "classics":
        settings["data.path"] = classics.resolve()
    with tempfile.TemporaryDirectory(prefix="outstep-quality-") as folder:
        command = [PROGRAM, "train", ROOT / "bench/gpt_quality.toml", "--json", f"--run-dir={folder}/run"]
        command += [f"--{key}={value}" for key, value in settings.items()]
        summary = lines_of(command, {"OMP_NUM_THREADS": "1"}, timeout=7200)[0]
    return {"validation_loss": summary["validation_loss"], "train_loss": summary["train_loss"],
            "train_seconds": summary["train_seconds"]} | fingerprint()


class Results:
    def __init__(self, path):
        self._path, self._lock = path, threading.Lock()
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._loss = {self._key(line): line["validation_loss"] for line in lines}

    @staticmethod
    def _key(line):
        return line["method"], line["data"], line["steps"], line["lr"], line["seed"]

    def __contains__(self, experiment):
        return experiment in self._loss

    def add(self, experiment, result):
        line = dict(zip(("method", "data", "steps", "lr", "seed"), experiment)) | result
        with self._lock, self._path.open("a") as out:
            out.write(json.dumps(line) + "\n")
            self._loss[experiment] = line["validation_loss"]

    def losses(self, method, data, steps, lr):
        """Of all seeds."""
        return {key[4]: loss for key, loss in self._loss.items() if key[:4] == (method, data, steps, lr)}


def row(results, method, data, steps, lr):
    """Losses of the seeds, and how far behind lockstep with the same seed."""
    losses, lockstep = results.losses(method, data, steps, lr), results.losses("lockstep", data, steps, lr)
    gaps = [losses[seed] - lockstep[seed] for seed in losses if seed in lockstep]
    if not losses:
        return None
    gap = f"{statistics.mean(gaps):+.4f}" if gaps else ""
    if len(gaps) > 1:
        gap += f" ({min(gaps):+.4f} to {max(gaps):+.4f})"
    return [method, data, steps, f"{lr:g}", len(losses), f"{statistics.mean(losses.values()):.4f}",
            f"{min(losses.values()):.4f}–{max(losses.values()):.4f}", gap]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; a run that was cut off goes on here")
    options.add_argument("--data", type=pathlib.Path, required=True, help="folder of the English classics")
    options.add_argument("--at-once", type=int, default=2, help="runs side by side, one thread each (2)")
    options.add_argument("--print-only", action="store_true", help="the table of what --out has")
    arguments = options.parse_args()
    results = Results(arguments.out)
    missing = [] if arguments.print_only else [run for run in experiments() if run not in results]
    with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
        for job in [pool.submit(lambda e=e: results.add(e, train(e, arguments.data))) for e in missing]:
            job.result()
    settings = dict.fromkeys(experiment[:4] for experiment in experiments())
    rows = [row(results, *setting) for setting in settings]
    print_table(["method", "data", "updates", "lr", "seeds", "loss", "range", "behind lockstep"], [r for r in rows if r])


if __name__ == "__main__":
    main()
