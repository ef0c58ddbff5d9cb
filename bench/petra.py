#!/usr/bin/env python3
"""Two pipeline stages on two cores: PETRA beside Outstep's other engines of stages, PyTorch's pipelines and one process.

    bench/petra.py --data cifar-10-batches-bin --rounds 3 --out docs/benchmarks/petra.jsonl

RevNet-18 of width 16, 32×32 images, micro-batches of 64, k of them a step, one thread a process unless said otherwise. PyTorch
runs with a glibc that keeps freed memory, on random images, with equal stages (5 + 5 blocks) and with the cut that Outstep
measured for its own 1f1b. Prints a table for each k. Measurements already in --out are not repeated.
"""

import json
import pathlib
import tempfile

from contenders import metrics
from rounds import KEEPS_MEMORY, PROGRAM, PYTHON, ROOT, Rounds, lines_of, parser, print_table, spread

STEPS = {1: 60, 4: 16, 16: 4}  # timed, by k: about as many micro-batches
MODES = ("petra", "delayed", "dsp", "pipedream", "reversible", "gpipe", "1f1b")
OUTSTEP = {"outstep one process": ("backprop", 1, ()), "outstep one process, 2 threads": ("backprop", 1, ("train.threads=2",))}
OUTSTEP |= {f"outstep {mode}": (mode, 2, ()) for mode in MODES}
OUTSTEP |= {f"outstep {mode} checkpointed": (mode, 2, ("engine.checkpoint=true",)) for mode in ("gpipe", "1f1b")}
TORCH = {"torch one process": ("alone", ()), "torch one process, row major": ("alone", ("--row-major",)), "torch one process, 2 threads": ("alone", ("--threads", "2"))}
for mode in ("gpipe", "1f1b"):
    TORCH[f"torch {mode}"] = (mode, ())
    TORCH[f"torch {mode} checkpointed"] = (mode, ("--checkpoint",))


def outstep(name, k, data):
    engine, stages, settings = OUTSTEP[name]
    warmup = max(STEPS[k] // 4, 1)  # filling included
    with tempfile.TemporaryDirectory(prefix="outstep-petra-") as folder:
        words = [f"engine.name={engine}", f"mesh.stages={stages}", f"train.accumulation={k}", f"data.path={data.resolve()}",
                 f"train.steps={warmup + STEPS[k]}", f"log.every={warmup + STEPS[k]}", *settings]
        summary = lines_of([PROGRAM, "train", ROOT / "bench/revnet18_petra.toml", "--json", f"--run-dir={folder}/run",
                            *(f"--{word}" for word in words)], {"OMP_NUM_THREADS": "1"})[0]
        line = metrics(f"{folder}/run", "train")[-1]
        cut = next((text for text in (pathlib.Path(folder) / "run/recipe.toml").read_text().splitlines()
                    if text.startswith("stages = [")), "").partition("  #")[0].removeprefix("stages = ")
        peaks = [max(entry.get("memory/peak_bytes", 0) for entry in map(json.loads, path.read_text().splitlines()))
                 for path in sorted((pathlib.Path(folder) / "run/metrics").glob("rank-*.jsonl"))]
    return {"samples_per_second": summary["samples_per_second"], "cut": cut, "peak_bytes": peaks,
            "staleness": line["staleness/max"]}


def torch(name, k):
    mode, flags = TORCH[name]
    command = [PYTHON, ROOT / "bench/peers/torch_pipeline.py", "--mode", mode, "--accumulation", k, "--steps", STEPS[k],
               "--warmup", max(STEPS[k] // 4, 1), *flags]
    if mode != "alone":
        command = [PROGRAM, "launch", "-n", "2", "--", *command]
    return lines_of(command, KEEPS_MEMORY | {"OMP_NUM_THREADS": "2" if "2 threads" in name else "1"})[0]


def main():
    options = parser(__doc__, rounds=3)
    options.add_argument("--data", type=pathlib.Path, required=True, help="folder of CIFAR-10's binary files")
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    # torch.distributed.pipelining wants at least as many micro-batches as stages.
    keys = [{"k": k, "contender": name} for k in STEPS for name in (*OUTSTEP, *TORCH)
            if k > 1 or name in OUTSTEP or TORCH[name][0] == "alone"]
    for key in rounds.missing(keys):
        name, k = key["contender"], key["k"]
        rounds.add(key, [outstep(name, k, arguments.data) if name in OUTSTEP else torch(name, k)])
    for k in STEPS:
        print(f"\nk = {k}\n")
        alone = rounds.median("samples_per_second", k=k, contender="outstep one process")
        rows = []
        for name in (*OUTSTEP, *TORCH):
            values = rounds.values("samples_per_second", k=k, contender=name)
            if not values:
                continue
            lines = [line for line in rounds.lines if line["k"] == k and line["contender"] == name]
            peaks = [line["peak_bytes"] for line in lines if line.get("peak_bytes")]
            memory = " + ".join(f"{max(stage) / 1e6:.0f}" for stage in zip(*peaks)) if peaks else ""
            cuts = ", ".join(sorted({line["cut"] for line in lines if line.get("cut")}))
            rows.append([name, spread(values, 0), len(values), f"{rounds.median('samples_per_second', k=k, contender=name) / alone:.2f}",
                         memory, cuts])
        print_table(["contender", "images/s (median, min–max)", "n", "÷ one process", "peak MB of tensors, by stage", "cut"], rows)


if __name__ == "__main__":
    main()
