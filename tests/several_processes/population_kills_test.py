"""A member of a population killed or stopped in the middle of training: the others end with an error that names it, in time, and
resuming reaches the models of a run that nobody harmed."""

import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "apps"))
import support  # noqa: E402
from support import InTemporaryFolder  # noqa: E402

STEPS = 400
DEADLINE_SECONDS = 1
RECIPE = f"""
[model]
name = "gpt2"
n_layer = 2
n_head = 2
n_embd = 16
n_positions = 16
[data]
path = "{support.ROOT}/data/tinyshakespeare"
[mesh]
members = 3
[ensemble]
name = "wash"
p = 0.05
[engine]
micro_batch = 2
[comm]
deadline_seconds = {DEADLINE_SECONDS}
[train]
steps = {STEPS}
threads = 1
[evaluation]
max_batches = 4
[checkpoint]
every = 20
[log]
every = 20
"""


class MembersLost(InTemporaryFolder):
    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml", RECIPE)

    def members(self, run):
        checkpoint = support.checkpoints(self.folder / run)[-1]
        return [(checkpoint / f"member-{m:02}" / "model.safetensors").read_bytes() for m in range(3)]

    def ranks(self, run, *settings):
        command = [support.PROGRAM, "train", self.recipe, "--run-dir", self.folder / run, *settings]
        return support.Ranks(command, world_size=3, deadline=90)

    def lose(self, run, number, *settings):
        """Rank 1 is struck once a checkpoint is there; when the others have ended it is killed for good."""
        with self.ranks(run, *settings) as ranks:
            ranks.wait_for_line(r"step +60/")
            ranks.signal(1, number)
            begin = time.monotonic()
            others = [ranks._processes[rank] for rank in (0, 2)]
            while any(process.seconds is None for process in others) and time.monotonic() < begin + 60:
                time.sleep(0.01)
            if number == signal.SIGSTOP:
                ranks.kill(1)
            results = ranks.wait()
        for rank in (0, 2):
            self.assertEqual(results[rank].exit_code, 4, results[rank])
        # A rank that was about to agree on a checkpoint waits for ten deadlines (train/agree.h) for one that is silent.
        at_most = 10 * DEADLINE_SECONDS + 10 if number == signal.SIGSTOP else DEADLINE_SECONDS
        last = max(process.begin + process.seconds for process in others)
        self.assertLess(last - begin, at_most)
        # One of them names the lost one; the other may have lost this one first.
        said = results[0].stderr + results[2].stderr
        self.assertRegex(said, r"communication error: .*rank 1 \(127\.0\.0\.1:\d+\)")

    def test_killed_and_resumed(self):
        for name in ("synchronous", "delayed"):
            with self.subTest(name):
                settings = ["--ensemble.delayed=" + ("true" if name == "delayed" else "false")]
                self.run_ok("train", self.recipe, "--run-dir", self.folder / f"{name}-whole", *settings)
                self.lose(name, signal.SIGKILL, *settings)
                self.run_ok("resume", self.folder / name)
                self.assertEqual(self.members(name), self.members(f"{name}-whole"))

    def test_stopped(self):
        self.lose("stopped", signal.SIGSTOP)


if __name__ == "__main__":
    support.main(globals())
