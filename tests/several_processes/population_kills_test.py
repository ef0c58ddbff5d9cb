"""A member of a population killed or stopped in the middle of training: the others end with an error that names it, in time, and
resuming reaches the models of a run that nobody harmed; or, with ensemble.on_loss = "continue", they go on without it."""

import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "apps"))
import support  # noqa: E402
from support import InTemporaryFolder  # noqa: E402

STEPS = 400
DEADLINE_SECONDS = 3  # ranks also meet within it, on a machine that may be busy
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
        self.assertIn("Or without a member that is lost: ", said)
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

    def test_the_error_names_the_other_way_out(self):
        command = [support.PROGRAM, "train", self.recipe, "--run-dir", self.folder / "run"]
        with support.Ranks(command, deadline=90) as ranks:
            ranks.wait_for_line(r"step +60/")
            ranks.kill(1)
            (result,) = ranks.wait()
        self.assertEqual(result.exit_code, 4, result)
        self.assertRegex(result.stderr, r"rank 1 \(process \d+\) was ended by signal 9 \(Killed\)\n  The last checkpoint is .*"
                                        r"\n  Or without member 1: \S+ resume \S+/run --ensemble.lost=\[1\]\n")


class MembersGoOn(InTemporaryFolder):
    """Started alone, so that the program starts its ranks itself, and the survivors anew."""

    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml", RECIPE)

    def start(self, run, *settings):
        command = [support.PROGRAM, "train", self.recipe, "--run-dir", self.folder / run, "--ensemble.on_loss=continue",
                   "--checkpoint.keep=99", "--comm.deadline_seconds=30", *settings]
        return support.Ranks(command, deadline=90)

    def went_on(self, result, lost, left):
        """Finished, and told who went on from where; returns the step."""
        self.assertEqual(result.exit_code, 0, result)
        message = rf"outstep: lost {lost}; the run goes on with {left} from step (\d+), \S+\n"
        self.assertRegex(result.stderr, message)
        return int(re.search(message, result.stderr).group(1))

    def models(self, run):
        checkpoint = support.checkpoints(self.folder / run)[-1]
        return {path.relative_to(checkpoint): path.read_bytes() for path in checkpoint.rglob("model.safetensors")}

    def resume_by_hand(self, run, step, lost):
        """From the same checkpoint, with the recipe that it was saved with; returns its models."""
        by_hand = self.folder / f"{run}-by-hand"
        shutil.copytree(self.folder / run, by_hand)
        for checkpoint in support.checkpoints(by_hand):
            if checkpoint.name > f"step-{step:08}":
                shutil.rmtree(checkpoint)
        shutil.copy(support.checkpoints(by_hand)[-1] / "recipe.toml", by_hand)
        result = self.run_ok("resume", by_hand, f"--ensemble.lost={lost}")
        self.assertIn("not bit for bit the run it was, since the other members go on among themselves", result.stdout)
        return self.models(by_hand)

    def test_killed(self):
        with self.start("run", "--ensemble.delayed=true") as ranks:
            ranks.wait_for_line(r"step +60/")
            ranks.kill(1)
            (result,) = ranks.wait()
        step = self.went_on(result, r"member 1: rank 1 \(process \d+\) was ended by signal 9 \(Killed\)", "members 0, 2")
        self.assertRegex(result.stdout, rf"after {STEPS} steps \(without member 1\)")
        self.assertRegex(result.stdout, r"greedy soup of [02]")
        models = self.models("run")
        self.assertEqual(sorted(str(path.parent) for path in models), ["member-00", "member-02"])
        self.assertEqual(self.resume_by_hand("run", step, [1]), models)
        self.assertIn("the mean of 2 models", self.run_ok("soup", self.folder / "run", "--to", "soup").stdout)
        self.run_ok("eval", support.checkpoints(self.folder / "run")[-1] / "member-02")
        # The run knows who it is of.
        again = self.run_ok("resume", self.folder / "run", f"--train.steps={STEPS + 20}")
        self.assertIn("2 members (without member 1)", again.stdout)

    def test_stopped(self):
        with self.start("run", "--json", f"--comm.deadline_seconds={DEADLINE_SECONDS}") as ranks:
            ranks.wait_for_line(r"step +60/")
            ranks.stop(1)
            (result,) = ranks.wait()
        step = self.went_on(result, r"member 1: rank 1 \(process \d+\) did not answer, nor end when .*", "members 0, 2")
        summary = json.loads(result.stdout)
        self.assertEqual(summary["lost_members"], [1])
        self.assertEqual([member["member"] for member in summary["population"]["members"]], [0, 2])
        self.assertEqual(self.resume_by_hand("run", step, [1]), self.models("run"))

    def test_one_after_another(self):
        with self.start("run") as ranks:
            ranks.wait_for_line(r"step +60/")
            ranks.kill(0)
            ranks.wait_for_line(r"going on from ")
            ranks.kill(1)
            (result,) = ranks.wait()
        self.went_on(result, "member 0: .*", "members 1, 2")
        step = self.went_on(result, r"member 2: rank 1 .*", "member 1")
        self.assertEqual(self.resume_by_hand("run", step, [0, 2]), self.models("run"))
        self.run_ok("eval", self.folder / "run")  # of one model, as it lies

    def test_a_member_of_two_replicas(self):
        with self.start("run", "--mesh.members=2", "--mesh.replicas=2") as ranks:
            ranks.wait_for_line(r"step +60/")
            ranks.kill(1)
            (result,) = ranks.wait()
        step = self.went_on(result, "member 0: rank 1 .*", "member 1")
        self.assertEqual(self.resume_by_hand("run", step, [0]), self.models("run"))

    def test_all_of_them(self):
        with self.start("run") as ranks:
            ranks.wait_for_line(r"step +60/")
            for pid in [ranks.pid(rank) for rank in range(3)]:
                os.kill(pid, signal.SIGKILL)
            (result,) = ranks.wait()
        self.assertEqual(result.exit_code, 4, result)
        self.assertNotIn("goes on", result.stderr)

    def test_a_wish_to_stop_is_no_loss(self):
        with self.start("run") as ranks:
            ranks.wait_for_line(r"step +60/")
            ranks.signal(1, signal.SIGTERM)
            (result,) = ranks.wait()
        self.assertEqual(result.exit_code, 143, result)
        self.assertNotIn("lost", result.stderr)


if __name__ == "__main__":
    support.main(globals())
