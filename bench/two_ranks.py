#!/usr/bin/env python3
"""Two ranks over a slow link: Outstep's ddp and zero1 beside PyTorch's, in one run.

    sudo bench/two_ranks.py --rates 280mbit 140mbit --rounds 3 --out docs/benchmarks/two_ranks.jsonl

Every contender trains the same GPT (4 layers x 256, context 128, bytes, batch 16 a rank, float32, one thread a rank) on a
link shaped by bench/shaped_link.sh. Rounds alternate between contenders, so that a machine that slows down slows all.
Prints a table: tokens per second (median, min-max over the rounds) and the share of the same run's ceiling, which is
Outstep on two processes that do not communicate. Measurements already in --out are not repeated.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/default/bin/outstep"
PYTHON = ROOT / ".venv/bin/python"
WORLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def outstep(sync, steps, folder):
    command = [PROGRAM, "train", ROOT / "bench/gpt_4x256.toml", "--json", f"--train.steps={steps}"]
    if sync != "none":
        return [*command, f"--run-dir={folder}/run", f"--sync.name={sync}"]
    # Two worlds of one rank each, at the same time on the same machine: what computing alone costs.
    alone = 'run="$0/run-$RANK"; unset ' + " ".join(WORLD) + '; exec "$@" --run-dir="$run"'
    return ["sh", "-c", alone, folder, *command, "--mesh.replicas=1", "--sync.name=none"]


def torch(mode, steps, _folder):
    return [PYTHON, ROOT / "bench/peers/torch_two_ranks.py", "--mode", mode, "--steps", str(steps)]


CONTENDERS = {
    "outstep none": (outstep, "none"), "outstep ddp": (outstep, "ddp"), "outstep zero1": (outstep, "zero1"),
    "torch ddp": (torch, "ddp"), "torch ddp-2mb": (torch, "ddp-2mb"), "torch zero": (torch, "zero"),
    "torch zero1": (torch, "zero1"),
}


def measure(contender, rate, steps):
    """Tokens per second of all ranks."""
    make, mode = CONTENDERS[contender]
    folder = tempfile.mkdtemp(prefix="outstep-bench-")
    try:
        command = [ROOT / "bench/shaped_link.sh", "--rate", rate, "--pin", "--env", "GLOO_SOCKET_IFNAME=link0",
                   "--env", "OMP_NUM_THREADS=1", "--", *make(mode, steps, folder)]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              errors="replace", timeout=600)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode != 0:
        sys.exit(f"{contender} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout)
    return result["tokens_per_second"] * (2 if contender == "outstep none" else 1)


def fingerprint():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    version = subprocess.run([PROGRAM, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {"processor": model, "cores": os.cpu_count(), "version": " ".join(version.split())}


def table(lines, rates):
    for rate in rates:
        print(f"\n{rate}\n| contender | tokens/s (median, min–max) | n | share of the ceiling |\n| --- | ---: | ---: | ---: |")
        of = {name: [line["tokens_per_second"] for line in lines if (line["rate"], line["contender"]) == (rate, name)]
              for name in CONTENDERS}
        ceiling = statistics.median(of["outstep none"])
        for name, values in of.items():
            median = statistics.median(values)
            print(f"| {name} | {median:,.0f} ({min(values):,.0f}–{max(values):,.0f}) | {len(values)} | "
                  f"{median / ceiling:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["280mbit", "140mbit"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; a run that was cut off goes on here")
    arguments = parser.parse_args()

    lines = []
    if arguments.out.exists():
        lines = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    done = {(line["rate"], line["contender"], line["round"]) for line in lines}
    machine = fingerprint()
    for number in range(arguments.rounds):
        for rate in arguments.rates:
            for contender in CONTENDERS:
                if (rate, contender, number) in done:
                    continue
                line = {"rate": rate, "contender": contender, "round": number,
                        "tokens_per_second": measure(contender, rate, arguments.steps), **machine}
                lines.append(line)
                with arguments.out.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                print(f"{rate:>8} {contender:<14} {line['tokens_per_second']:>9,.0f} tokens/s", file=sys.stderr)
    table(lines, arguments.rates)


if __name__ == "__main__":
    main()
