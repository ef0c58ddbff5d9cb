"""The commands of two ranks that train the GPT of bench/gpt_4x256.toml, Outstep's and PyTorch's, and what they say.

    lines_of(on_shaped_link("140mbit", *outstep("acco", steps=20, folder=folder)))
"""

import json
import pathlib

from rounds import LAUNCHER, PROGRAM, PYTHON, ROOT

BATCH_TOKENS = 16 * 128  # of a micro-batch


def outstep(sync, steps, folder, accumulation=1, settings=(), trace=False):
    """A rank of a world of two; the run's folder is FOLDER/run. settings: further ones, as "sync.counts=fixed"."""
    command = [PROGRAM, "train", ROOT / "bench/gpt_4x256.toml", "--json", f"--run-dir={folder}/run", f"--sync.name={sync}"]
    command += [f"--train.steps={steps}", f"--train.accumulation={accumulation}", *(f"--{word}" for word in settings)]
    return command + ["--trace"] * trace


def outstep_alone(steps, folder, accumulation=1, settings=()):
    """Two worlds of one rank each, at the same time on the same machine: what computing alone costs. The folders are
    FOLDER/0/run and FOLDER/1/run."""
    alone = 'run="$0/$RANK/run"; unset ' + " ".join(LAUNCHER) + '; mkdir -p "$0/$RANK"; exec "$@" --run-dir="$run"'
    command = outstep("none", steps, folder, accumulation, ["mesh.replicas=1", *settings])
    return ["sh", "-c", alone, folder, *(word for word in command if "--run-dir" not in str(word))]


def torch(mode, steps, accumulation=1, warmup=2):
    """A rank of bench/peers/torch_two_ranks.py; steps are those that are timed."""
    return [PYTHON, ROOT / "bench/peers/torch_two_ranks.py", "--mode", mode, "--steps", steps,
            "--accumulation", accumulation, "--warmup", warmup]


def metrics(folder, kind, rank=0):
    """The lines of that kind ("start", "train" …) in a run's metrics."""
    lines = (pathlib.Path(folder) / f"metrics/rank-{rank}.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]
