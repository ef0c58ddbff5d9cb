"""What the benchmark scripts share: rounds that alternate between contenders, and a file of JSON lines that a run that was
cut off takes up again.

    rounds = Rounds(arguments.out, arguments.rounds)
    for key in rounds.missing({"rate": rate, "contender": name} for rate in rates for name in contenders):
        rounds.add(key, lines_of(command_for(key)))
    values = rounds.values("tokens_per_second", rate="280mbit", contender="outstep ddp")
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/default/bin/outstep"
PYTHON = ROOT / ".venv/bin/python"
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# What keeps glibc from handing freed memory back, as Outstep's allocator does: for peers, beside their default.
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592",
                "MALLOC_TOP_PAD_": "67108864"}


def parser(description, rounds=5):
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; a run that was cut off goes on here")
    result.add_argument("--rounds", type=int, default=rounds, help=f"times that every contender is measured ({rounds})")
    return result


def fingerprint():
    """What a number means nothing without."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    version = subprocess.run([PROGRAM, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {"processor": model, "cores": os.cpu_count(), "version": " ".join(version.split())}


def output_of(command, environment=None, timeout=600):
    """Standard output of a command that succeeds; else the script ends with what it said."""
    command = [str(word) for word in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                          timeout=timeout, env=os.environ | (environment or {}))
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode} of {' '.join(command)}:\n{done.stderr[-2000:]}")
    return done.stdout


def lines_of(command, environment=None, timeout=600):
    """The JSON objects that a command prints, one over several lines (as outstep's --json) or one a line."""
    text = output_of(command, environment, timeout)
    objects, decoder, at = [], json.JSONDecoder(), text.find("{")
    while at >= 0:
        found, at = decoder.raw_decode(text, at)
        objects.append(found)
        at = text.find("{", at)
    return objects


def on_shaped_link(rate, *command):
    """The command as two ranks, a core each, with a link of that rate between them; without a rate, over loopback."""
    if rate:
        return [ROOT / "bench/shaped_link.sh", "--rate", rate, "--pin", "--env", "GLOO_SOCKET_IFNAME=link0",
                "--env", "OMP_NUM_THREADS=1", "--", *command]
    return [PROGRAM, "launch", "-n", "2", "--", *command]


class Rounds:
    def __init__(self, path, count):
        self.path, self.count = path, count
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._machine = fingerprint()

    def missing(self, keys):
        """{**key, "round": i} of what is not in the file yet, each key once a round."""
        keys = list(keys)
        for number in range(self.count):
            for key in keys:
                key = key | {"round": number}
                if not any(key.items() <= line.items() for line in self.lines):
                    yield key

    def add(self, key, lines):
        with self.path.open("a") as out:
            for line in lines:
                line = key | line | self._machine
                self.lines.append(line)
                out.write(json.dumps(line) + "\n")
        print(" ".join(map(str, key.values())), "done", file=sys.stderr)

    def values(self, name, **which):
        """Of all rounds, sorted."""
        return sorted(line[name] for line in self.lines if which.items() <= line.items() and name in line)

    def median(self, name, **which):
        return statistics.median(self.values(name, **which))


def spread(values, digits=1):
    """"12.3 (12.0–12.9)": median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def print_table(header, rows):
    print("| " + " | ".join(header) + " |\n| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
