#!/usr/bin/env python3
"""What members of a population send each other, and what that costs: WASH beside PAPA, SPARTA, no exchange and DDP.

    sudo bench/wash.py --rounds 3 --out docs/benchmarks/wash.jsonl

ResNet-18 on random images of 32×32 and 100 classes, a thread a rank. Three parts, each a table:

  volume    width 64: bytes that ranks counted, beside the formulas. Σ p_l d_l is of the parameters in the model's file, read here
  overhead  width 16, micro-batches of 64: parts of a step, from the traces and metrics of the run
  link      the same, two ranks with a link of 100 Mbit/s between them (bench/shaped_link.sh): images per second

Measurements already in --out are not repeated.
"""

import array
import json
import math
import pathlib
import random
import statistics
import struct
import tempfile

from contenders import metrics
from rounds import PROGRAM, ROOT, Rounds, lines_of, on_shaped_link, parser, print_table, spread

P, SPARTA_P, PAPA_INTERVAL = 0.001, 0.005, 10
NONE, DDP = "none", "ddp"
SETTINGS = {  # of [ensemble]; DDP has replicas of one model in place of members
    NONE: (),
    "wash": ("name=wash", f"p={P}"),
    "wash delayed": ("name=wash", f"p={P}", "delayed=true"),
    "wash_opt": ("name=wash_opt", f"p={P}"),
    "papa": ("name=papa", f"interval={PAPA_INTERVAL}"),
    "sparta": ("name=sparta", f"p={SPARTA_P}"),
    DDP: (),
}
PARTS = {  # contenders, ranks, steps of a run
    "volume": (("wash", "wash delayed", "wash_opt", "papa", "sparta", DDP), (2, 3), 40),
    "overhead": ((NONE, "wash", "wash delayed"), (2, 3, 4), 40),
    "link": ((NONE, "wash", "wash delayed", "wash_opt", "papa", DDP), (2,), 100),
}
BYTES = 4  # of a scalar
WARM_UP = 5  # steps that overhead leaves out: the first shuffle compares layouts


def write_images(path, count=512, classes=100):
    """A file of data.name = "tensors"."""
    draw = random.Random(1)
    pixels = array.array("f", (draw.gauss(0, 1) for _ in range(count * 3 * 32 * 32))).tobytes()
    labels = array.array("q", (i % classes for i in range(count))).tobytes()
    header = json.dumps({
        "inputs": {"dtype": "F32", "shape": [count, 3, 32, 32], "data_offsets": [0, len(pixels)]},
        "labels": {"dtype": "I64", "shape": [count], "data_offsets": [len(pixels), len(pixels) + len(labels)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + pixels + labels)


def command(key, steps, images, run, words=(), flags=()):
    axis = "replicas" if key["contender"] == DDP else "members"
    settings = [f"mesh.{axis}={key['ranks']}", f"train.steps={steps}", f"data.path={images}", *words]
    settings += [f"ensemble.{word}" for word in SETTINGS[key["contender"]]]
    return [PROGRAM, "train", ROOT / "bench/resnet18_wash.toml", "--json", f"--run-dir={run}", *flags,
            *(f"--{word}" for word in settings)]


# ---- volume


def layer_sizes(run):
    """Elements by layer: a weight of two or more dims and the vectors behind it. From the header of a model of the run."""
    with next(run.glob("**/model.safetensors")).open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    sizes = []
    for name, entry in header.items():
        if name == "__metadata__" or name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        if len(entry["shape"]) >= 2:
            sizes.append(0)
        sizes[-1] += math.prod(entry["shape"])
    return sizes


def expected(key, sizes, steps):
    """Scalars of a rank and step by the formulas, and the deviation of their mean over the steps."""
    contender, ranks = key["contender"], key["ranks"]
    leaves, all_reduce, parameters = 1 - 1 / ranks, 2 * (ranks - 1) / ranks, sum(sizes)
    if contender == "papa":
        return all_reduce * parameters / PAPA_INTERVAL, 0
    if contender == "sparta":
        return (all_reduce * SPARTA_P * parameters,
                all_reduce * math.sqrt(SPARTA_P * (1 - SPARTA_P) * parameters / steps))
    if contender == DDP:
        return all_reduce * parameters, 0
    moves = [P * (1 - layer / (len(sizes) - 1)) * leaves for layer in range(len(sizes))]  # probability that one leaves
    mean = sum(q * size for q, size in zip(moves, sizes))
    deviation = math.sqrt(sum(q * (1 - q) * size for q, size in zip(moves, sizes)) / steps)
    vectors = 2 if contender == "wash_opt" else 1  # SGD's momentum
    return vectors * mean, vectors * deviation


def measure_volume(key, steps, images, folder):
    lines_of(command(key, steps, images, folder / "run", ("model.width=64", "engine.micro_batch=2")))
    sent = [sum(line["bytes_sent"] for line in metrics(folder / "run", "train", rank)) / steps for rank in range(key["ranks"])]
    sizes = layer_sizes(folder / "run")
    mean, deviation = expected(key, sizes, steps)
    share = sum((1 - layer / (len(sizes) - 1)) * size for layer, size in enumerate(sizes)) / sum(sizes)
    return {"bytes_sent": sent, "formula_bytes": BYTES * mean, "deviation_bytes": BYTES * deviation,
            "parameters": sum(sizes), "layers": len(sizes), "decreasing_share": share, "steps": steps}


def print_volume(rounds):
    lines = [line for line in rounds.lines if line["part"] == "volume"]
    for facts in {(line["parameters"], line["layers"], line["steps"], line["decreasing_share"]) for line in lines}:
        print("\nvolume: {:,} parameters, {} layers, {} steps, Σ p_l d_l / (p d) = {:.4f}\n".format(*facts))
    rows = []
    for line in sorted(lines, key=lambda line: line["ranks"]):
        formula, deviation = line["formula_bytes"], line["deviation_bytes"]
        ddp = BYTES * 2 * (line["ranks"] - 1) / line["ranks"] * line["parameters"]
        off = [sent - formula for sent in line["bytes_sent"]]
        rows.append([line["contender"], line["ranks"], f"{statistics.mean(line['bytes_sent']):,.0f}", f"{formula:,.0f}",
                     f"{100 * max(map(abs, off)) / formula:.2f} %",
                     f"{max(map(abs, off)) / deviation:.1f}" if deviation else "", f"1/{ddp / formula:,.0f}"])
    print_table(["contender", "ranks", "bytes sent, a rank and step", "formula", "farthest rank", "in σ", "of ddp"], rows)


# ---- overhead


def spans(path):
    """Seconds of the span "shuffle", by step."""
    return {event["args"]["step"]: event["dur"] / 1e6 for event in json.loads(path.read_text())["traceEvents"]
            if event["ph"] == "X" and event["name"] == "shuffle"}


def measure_overhead(key, steps, images, folder):
    """Medians over steps and ranks, in milliseconds. own: plan, lists, gather, scatter. exchange: what the rank takes that comes
    last, which finds the others there already; waiting: how much longer it is for a rank, on the mean, for others have not come
    yet or have no core. Delayed, both are beside the next step, and idle is what of them computing waited for."""
    run = folder / "run"
    summary = lines_of(command(key, steps, images, run, ("log.every=1",), ("--trace",)))[0]
    ranks = [metrics(run, "train", rank)[WARM_UP:] for rank in range(key["ranks"])]
    result = {"samples_per_second": summary["samples_per_second"],
              "step_ms": 1e3 * statistics.median(line["step_seconds"] for lines in ranks for line in lines)}
    if key["contender"] == NONE:
        return result
    own = []
    for rank, lines in enumerate(ranks):
        shuffles = spans(run / f"trace-{rank}.json")  # numbered by the updates before, lines by those made
        own += [shuffles[line["step"] - 1] - line["idle_seconds"] for line in lines]
    together = [[line["communication_seconds"] for line in of_step] for of_step in zip(*ranks)]
    idle = [line["idle_seconds"] for lines in ranks for line in lines]
    return result | {"own_ms": 1e3 * statistics.median(own),
                     "exchange_ms": 1e3 * statistics.median(map(min, together)),
                     "waiting_ms": 1e3 * statistics.mean(statistics.mean(step) - min(step) for step in together),
                     "idle_ms": 1e3 * statistics.median(idle)}


def print_overhead(rounds):
    def lines(ranks, contender):
        key = {"part": "overhead", "ranks": ranks, "contender": contender}
        return [line for line in rounds.lines if key.items() <= line.items()]

    def values(found, *names):
        """Their sum, in each round."""
        return [sum(line[name] for name in names) for line in found]

    if not lines(2, NONE):
        return
    alone = statistics.median(values(lines(2, NONE), "step_ms"))
    rows = []
    for ranks in PARTS["overhead"][1]:
        rates = values(lines(ranks, NONE), "samples_per_second")
        for contender in PARTS["overhead"][0]:
            found = lines(ranks, contender)
            if not found:
                continue
            row = [contender, ranks, spread(values(found, "step_ms"))]
            if contender == NONE:
                row += [""] * 5
            else:
                row += [spread(values(found, name), 2) for name in ("own_ms", "exchange_ms", "waiting_ms", "idle_ms")]
                costs = values(found, "own_ms", "idle_ms" if contender == "wash delayed" else "exchange_ms")
                row.append(f"{spread([100 * cost / alone for cost in costs], 3)} %")
            rate = statistics.median(values(found, "samples_per_second"))
            rows.append([*row, f"{rate / statistics.median(rates):.3f}" if rates else ""])
    print("\noverhead: milliseconds of a step; cost: own work and exchange, delayed own work and idle, as a share of a step that has"
          "\na core for itself (none, 2 members)\n")
    print_table(["contender", "members", "step", "own work", "exchange", "waiting (mean)", "idle", "cost", "images/s ÷ none"], rows)


# ---- link


def measure_link(key, steps, images, folder, rate="100mbit"):
    run = folder / "run"
    summary = lines_of(on_shaped_link(rate, *command(key, steps, images, run)))[0]
    return {"rate": rate, "samples_per_second": summary["samples_per_second"], "bytes_sent": summary["bytes_sent"] / steps}


def print_link(rounds):
    rates = {name: rounds.values("samples_per_second", part="link", contender=name) for name in PARTS["link"][0]}
    if not rates[NONE]:
        return
    print("\nlink: two ranks, 100 Mbit/s\n")
    print_table(["contender", "images/s (median, min–max)", "n", "÷ none", "bytes sent, a rank and step"],
                [[name, spread(values), len(values), f"{statistics.median(values) / statistics.median(rates[NONE]):.3f}",
                  f"{rounds.median('bytes_sent', part='link', contender=name):,.0f}"] for name, values in rates.items() if values])


MEASURE = {"volume": measure_volume, "overhead": measure_overhead, "link": measure_link}


def main():
    options = parser(__doc__, rounds=3)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all")
    options.add_argument("--steps", type=int, help="of each run, for a trial; a multiple of 10")
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="outstep-wash-") as folder:
        images = pathlib.Path(folder) / "images.safetensors"
        write_images(images)
        for part in arguments.parts:
            contenders, sizes, steps = PARTS[part]
            keys = [{"part": part, "ranks": ranks, "contender": name} for ranks in sizes for name in contenders]
            for key in rounds.missing(keys):
                if part == "volume" and key["round"] > 0:
                    continue  # counters are the same every time
                with tempfile.TemporaryDirectory(prefix="outstep-wash-") as run:
                    rounds.add(key, [MEASURE[part](key, arguments.steps or steps, images, pathlib.Path(run))])
    print_volume(rounds)
    print_overhead(rounds)
    print_link(rounds)


if __name__ == "__main__":
    main()
