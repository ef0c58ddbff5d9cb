"""Stages of a pipeline killed or stopped while it fills, when it is full, as it evaluates and as it saves: the other stage says
who it was, in time, and resuming reaches the model of a run that nobody harmed. petra_peer.cc is the stage that strikes
itself."""

import pathlib
import re
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "apps"))
import support  # noqa: E402
from support import InTemporaryFolder, losses, model_hash  # noqa: E402

PEER = ""
STEPS = 10
DEADLINE_SECONDS = 2
RECIPE = f"""
[model]
name = "revgpt"
n_layer = 2
n_head = 2
n_embd = 16
n_positions = 16
[data]
path = "{support.ROOT}/data/tinyshakespeare"
[mesh]
stages = 2
[engine]
name = "petra"
micro_batch = 2
stages = [3, 3]
[comm]
deadline_seconds = {DEADLINE_SECONDS}
[train]
steps = {STEPS}
accumulation = 2
threads = 1
[evaluation]
every = 4
max_batches = 4
[checkpoint]
every = 4
[log]
every = 1
"""
# By victim, a message that it sends, and of which micro-batch: stage 0 sends activations, stage 1 gradients. A step has two.
STRIKES = {
    "fill": {0: ("activations", 1), 1: ("gradients", 0)},
    "full": {0: ("activations", 13), 1: ("gradients", 11)},
    "evaluation": {0: ("activations to evaluate", 2), 1: ("mark", 2)},
    "checkpoint": {0: ("mark", 3), 1: ("mark", 3)},
    "end": {0: ("activations", 20), 1: ("gradients", 19)},
}


# Nothing of the message, or only its beginning: it may have been under way.
SILENT = "(nothing came|did not answer)"


class Struck(InTemporaryFolder):
    _whole = None  # (losses, model hash) of the run that nobody harmed
    waits = []     # (seconds from the strike to the other stage's end, which)

    @classmethod
    def tearDownClass(cls):
        if cls.waits:
            print(f"{cls.__name__}: {len(cls.waits)} strikes; the longest time to another stage's end was "
                  "{:.3f} s ({})".format(*max(cls.waits)), file=sys.stderr)

    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml", RECIPE)

    def whole_run(self):
        if Struck._whole is None:
            self.run_ok("train", self.recipe, "--run-dir", self.folder / "whole")
            Struck._whole = (losses(self.folder / "whole"), model_hash(self.folder / "whole"))
        return Struck._whole

    def ranks(self, victim, what, micro_batch, run, number, world_size=2):
        command = [PEER, self.recipe, self.folder / run, "--victim", victim, "--what", what, "--micro-batch", micro_batch,
                   "--signal", int(number)]
        return support.Ranks(command, world_size=world_size, deadline=60)

    def assert_names(self, other, victim):
        """By stage and rank, where it waited for the stage; by rank, where it waited for anything else."""
        self.assertEqual(other.exit_code, 4, other)
        self.assertRegex(other.stderr, rf"(?m)^communication error: .*rank {victim} \(127\.0\.0\.1:\d+\)")

    def assert_resumes_to_the_same(self, run):
        self.run_ok("resume", self.folder / run)
        self.assertEqual((losses(self.folder / run), model_hash(self.folder / run)), self.whole_run())


class Kills(Struck):
    """SIGKILL. The connection breaks, so nobody has to wait for a deadline."""

    waits = []

    def test_in_every_phase(self):
        for phase, by_victim in STRIKES.items():
            for victim, (what, micro_batch) in by_victim.items():
                with self.subTest(phase=phase, victim=victim):
                    run = f"{phase}-{victim}"
                    with self.ranks(victim, what, micro_batch, run, signal.SIGKILL) as ranks:
                        results = ranks.wait()
                    self.assertEqual(results[victim].exit_code, -signal.SIGKILL, results[victim])
                    self.assert_names(results[1 - victim], victim)
                    ends = [process.begin + process.seconds for process in ranks._processes]
                    self.waits.append((ends[1 - victim] - ends[victim], run))
                    self.assertLess(self.waits[-1][0], DEADLINE_SECONDS)
                    self.assert_resumes_to_the_same(run)


class StandStill(Struck):
    """SIGSTOP, of a full pipeline: the other stage waits for its deadline, and names stage and
    micro-batch."""

    waits = []

    def test_when_full(self):
        for victim, (what, micro_batch) in STRIKES["full"].items():
            with self.subTest(victim=victim):
                run = f"stopped-{victim}"
                with self.ranks(victim, what, micro_batch, run, signal.SIGSTOP) as ranks:
                    ranks.wait_for_line("struck", rank=victim)
                    begin = time.monotonic()
                    while ranks._processes[1 - victim].seconds is None and time.monotonic() < begin + 30:
                        time.sleep(0.01)
                    ranks.kill(victim)
                    results = ranks.wait()
                self.assert_names(results[1 - victim], victim)
                awaited = "activations" if victim == 0 else "gradients"
                self.assertRegex(results[1 - victim].stderr, rf"waiting for {awaited} of micro-batch \d+ from stage {victim} \(rank {victim} .*{SILENT}")
                process = ranks._processes[1 - victim]
                self.waits.append((process.begin + process.seconds - begin, run))
                self.assertLess(self.waits[-1][0], DEADLINE_SECONDS + 2)
                self.assert_resumes_to_the_same(run)

    def test_of_three_stages_a_neighbour_notices_first(self):
        """The third stage waits for a healthy one, and leaves it the time to say who it is that stands still."""
        self.recipe = self.write("three.toml", RECIPE.replace("stages = 2", "stages = 3").replace("[3, 3]", "[2, 2, 2]"))
        for victim, (what, micro_batch) in {0: ("activations", 13), 1: ("gradients", 12), 2: ("gradients", 11)}.items():
            with self.subTest(victim=victim):
                run = f"third-stopped-{victim}"
                others = [rank for rank in range(3) if rank != victim]
                with self.ranks(victim, what, micro_batch, run, signal.SIGSTOP, world_size=3) as ranks:
                    ranks.wait_for_line("struck", rank=victim)
                    begin = time.monotonic()
                    while any(ranks._processes[rank].seconds is None for rank in others) and time.monotonic() < begin + 30:
                        time.sleep(0.01)
                    ranks.kill(victim)
                    results = ranks.wait()
                said = [results[rank].stderr for rank in others]
                noticed = [text for text in said if re.search(SILENT, text)]
                self.assertGreater(len(noticed), 0, said)
                for text in noticed:
                    self.assertRegex(text, rf"(?m)^communication error: waiting for .* from stage {victim} \(rank {victim} ")
                for rank in others:
                    self.assertEqual(results[rank].exit_code, 4, results[rank])
                    process = ranks._processes[rank]
                    self.waits.append((process.begin + process.seconds - begin, run))
                    self.assertLess(self.waits[-1][0], 2 * DEADLINE_SECONDS + 2)


if __name__ == "__main__":
    PEER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    support.main(globals())
