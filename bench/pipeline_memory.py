#!/usr/bin/env python3
"""How much memory a pipeline needs at its peak: the tensors of each stage, counted exactly, by engine and number of stages.

    bench/pipeline_memory.py --data cifar-10-batches-bin --out docs/benchmarks/petra_memory.jsonl

Two networks: RevNet-18 of width 16 with micro-batches of 64 images, a third of whose blocks are not reversible, and a reversible
GPT of 8 layers × 128 with micro-batches of 32 × 128 bytes, whose blocks all are but the embedding and the head. Eight
micro-batches a step, equal cuts for all engines. Measurements already in --out are not repeated.
"""

import json
import pathlib
import tempfile

from rounds import PROGRAM, ROOT, Rounds, output_of, parser, print_table

NETWORKS = {
    "RevNet-18": ("bench/revnet18_petra.toml", {2: "[4, 6]", 4: "[2, 2, 3, 3]"}, ()),
    "reversible GPT": ("recipes/petra_revgpt.toml", {2: "[9, 9]", 4: "[5, 4, 4, 5]"},
                       ("model.n_layer=8", "model.n_positions=128", "engine.micro_batch=32", "schedule.warmup_steps=1",
                        "evaluation.every=0", "evaluation.max_batches=1", "checkpoint.every=0")),
}
ENGINES = {"petra": ("engine.name=petra",), "petra, last stage rebuilds": ("engine.name=petra", "engine.last_stage=rebuild"),
           "delayed": ("engine.name=delayed",), "gpipe": ("engine.name=gpipe",), "1f1b": ("engine.name=1f1b",),
           "gpipe checkpointed": ("engine.name=gpipe", "engine.checkpoint=true"),
           "1f1b checkpointed": ("engine.name=1f1b", "engine.checkpoint=true")}


def peaks(network, engine, stages, data):
    recipe, cuts, settings = NETWORKS[network]
    words = [*ENGINES[engine], *settings, f"mesh.stages={stages}", f"engine.stages={cuts[stages]}", "train.accumulation=8",
             "train.steps=4", "log.every=1"]
    if network == "RevNet-18":
        words.append(f"data.path={data.resolve()}")
    with tempfile.TemporaryDirectory(prefix="outstep-memory-") as folder:
        output_of([PROGRAM, "train", ROOT / recipe, f"--run-dir={folder}/run", *(f"--{word}" for word in words)],
                  {"OMP_NUM_THREADS": "1"})
        return [max(entry.get("memory/peak_bytes", 0) for entry in map(json.loads, path.read_text().splitlines()))
                for path in sorted(pathlib.Path(folder, "run/metrics").glob("rank-*.jsonl"))]


def main():
    options = parser(__doc__, rounds=1)
    options.add_argument("--data", type=pathlib.Path, required=True, help="folder of CIFAR-10's binary files")
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    keys = [{"network": network, "stages": stages, "engine": engine}
            for network in NETWORKS for stages in (2, 4) for engine in ENGINES]
    for key in rounds.missing(keys):
        rounds.add(key, [{"peak_bytes": peaks(key["network"], key["engine"], key["stages"], arguments.data)}])
    rows = []
    for key in keys:
        found = rounds.values("peak_bytes", **key)[0]
        of_1f1b = sum(rounds.values("peak_bytes", **(key | {"engine": "1f1b"}))[0])
        rows.append([key["network"], key["stages"], key["engine"], " + ".join(f"{size / 1e6:.0f}" for size in found),
                     f"{sum(found) / 1e6:.0f}", f"{sum(found) / of_1f1b:.2f}"])
    print_table(["network", "stages", "engine", "peak MB, by stage", "together", "÷ 1f1b"], rows)


if __name__ == "__main__":
    main()
