"""What the tests of the program share: where it is, a run that takes seconds, and reading what a run left."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "several_processes"))
from harness import LAUNCHER_VARIABLES, Ranks, free_port  # noqa: E402, F401

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ""  # set by main()

# Two ranks, ZeRO-1, a language model of 20,000 parameters: hundreds of steps a second, a checkpoint every fifth of it.
TINY = """
[model]
name = "gpt2"
n_layer = 2
n_head = 2
n_embd = 24
n_positions = 16
[data]
name = "text"
[mesh]
replicas = 2
[engine]
micro_batch = 2
[sync]
name = "zero1"
[optimizer]
name = "adamw"
lr = 1e-3
[schedule]
name = "cosine"
[train]
steps = 10
threads = 1
clip_norm = 1.0
[evaluation]
max_batches = 4
[checkpoint]
every = 5
[log]
every = 1
[comm]
deadline_seconds = 10
"""


def environment(**more):
    kept = {name: value for name, value in os.environ.items()
            if not LAUNCHER_VARIABLES.match(name) and not name.startswith("OUTSTEP_")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def outstep(*arguments, folder=None, timeout=120, **more):
    """Runs the program to its end; more are environment variables."""
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=folder, timeout=timeout,
                          env=environment(**more), stdin=subprocess.DEVNULL)


def losses(run):
    """{step: loss} as rank 0 wrote it, every digit."""
    lines = map(json.loads, (pathlib.Path(run) / "metrics" / "rank-0.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def checkpoints(run):
    return sorted(folder for folder in (pathlib.Path(run) / "checkpoints").glob("step-*") if (folder / "DONE").exists())


def model_hash(run):
    """Of the newest checkpoint's model.safetensors."""
    return hashlib.sha256((checkpoints(run)[-1] / "model.safetensors").read_bytes()).hexdigest()


class InTemporaryFolder(unittest.TestCase):
    """Each test has a folder of its own, with the tiny recipe in it."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.recipe = self.write("tiny.toml", TINY)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def run_ok(self, *arguments, **more):
        result = outstep(*arguments, folder=self.folder, **more)
        self.assertEqual(result.returncode, 0, result.stderr + result.stdout)
        return result

    def assert_fails(self, result, exit_code, pattern):
        """With the code, a message that matches from its first letter, and nothing on stdout."""
        self.assertEqual(result.returncode, exit_code, result.stderr)
        self.assertRegex(result.stderr, re.compile(r"\A(.*\n)*outstep(\[\d+\])?: " + pattern))


def main(variables):
    """Takes the program's path off the command line, sets it everywhere, and runs the tests."""
    global PROGRAM
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    variables["PROGRAM"] = PROGRAM
    unittest.main(module="__main__")
