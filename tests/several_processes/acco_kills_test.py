"""ACCO's ranks killed or stopped in every phase of a round: the other rank says who it was, in time, and resuming reaches the
model of a run that nobody harmed. acco_peer.cc is the rank that strikes itself."""

import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "apps"))
import support  # noqa: E402
from support import InTemporaryFolder, losses, model_hash  # noqa: E402

PEER = ""
REPETITIONS = 1  # of each strike, at another step and round; --repetitions=3 for more
STEPS = 10
DEADLINE_SECONDS = 10  # of a group, as support.TINY has it
RECIPE = (support.TINY.replace('name = "zero1"', 'name = "acco"\ncounts = "fixed"')
          .replace("[data]\n", f'[data]\npath = "{support.ROOT}/data/tinyshakespeare"\n')
          .replace("steps = 10", f"steps = {STEPS}\naccumulation = 2")
          .replace("every = 5", "every = 4"))
# What to strike, and whether at a step before which a checkpoint is saved.
PHASES = {"accumulate": ("accumulate", False), "counts": ("counts", False), "reduce_scatter": ("reduce_scatter", False),
          "norm": ("norm", False), "all_gather": ("all_gather", False), "swap": ("swap", False),
          "pause": ("reduce_scatter", True), "checkpoint": ("checkpoint", True)}


class Ranks(support.Ranks):
    def ended_at(self, rank):
        process = self._processes[rank]
        return process.begin + process.seconds

    def is_running(self, rank):
        return self._processes[rank].seconds is None


class Struck(InTemporaryFolder):
    deadline_seconds = DEADLINE_SECONDS
    _whole = None  # (losses, model hash) of the run that nobody harmed
    waits = []     # (seconds from the strike to the other rank's end, phase and victim)

    @classmethod
    def tearDownClass(cls):
        if cls.waits:
            print(f"{cls.__name__}: {len(cls.waits)} strikes; the longest time to the other rank's end was "
                  "{:.3f} s ({})".format(*max(cls.waits)), file=sys.stderr)

    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml", RECIPE.replace(f"deadline_seconds = {DEADLINE_SECONDS}",
                                                             f"deadline_seconds = {self.deadline_seconds}"))

    def whole_run(self):
        if Struck._whole is None:
            self.run_ok("train", self.recipe, "--run-dir", self.folder / "whole")
            Struck._whole = (losses(self.folder / "whole"), model_hash(self.folder / "whole"))
        return Struck._whole

    def strike_in_every_phase(self, victims=lambda number, repetition: (0, 1)):
        """victims: which ranks are struck in a phase, by its number."""
        for repetition in range(REPETITIONS):
            for number, name in enumerate(PHASES):
                for victim in victims(number, repetition):
                    with self.subTest(phase=name, victim=victim, repetition=repetition):
                        self.strike(name, victim, repetition, f"{name}-{victim}-{repetition}")

    def ranks(self, name, victim, repetition, run, number):
        phase, at_checkpoint = PHASES[name]
        step = 8 if at_checkpoint else 5 + repetition % 3
        command = [PEER, self.recipe, self.folder / run, "--victim", victim, "--phase", phase, "--step", step, "--round",
                   0 if at_checkpoint else repetition % 2, "--signal", int(number)]
        return Ranks(command, world_size=2, deadline=60)

    def assert_names(self, other, victim, what):
        self.assertEqual(other.exit_code, 4, other)
        self.assertRegex(other.stderr, rf"(?m)^communication error: rank {victim} \(127\.0\.0\.1:\d+\) {what}")

    def assert_in_time(self, seconds, run, at_most):
        self.waits.append((seconds, run))
        self.assertLess(seconds, at_most)

    def assert_resumes_to_the_same(self, run):
        self.run_ok("resume", self.folder / run, f"--comm.deadline_seconds={DEADLINE_SECONDS}")
        self.assertEqual((losses(self.folder / run), model_hash(self.folder / run)), self.whole_run())


class Kills(Struck):
    """SIGKILL. The connection breaks, so nobody has to wait for a deadline."""

    waits = []

    def strike(self, name, victim, repetition, run):
        with self.ranks(name, victim, repetition, run, signal.SIGKILL) as ranks:
            results = ranks.wait()
        self.assertEqual(results[victim].exit_code, -signal.SIGKILL, results[victim])
        self.assert_names(results[1 - victim], victim, "closed its connection")
        self.assert_in_time(ranks.ended_at(1 - victim) - ranks.ended_at(victim), run, self.deadline_seconds)
        self.assert_resumes_to_the_same(run)

    def test_in_every_phase(self):
        self.strike_in_every_phase()


class StandStill(Struck):
    """SIGSTOP. The other rank's deadline begins when it waits, which may be a round later; beside a checkpoint ranks have ten
    times as long. All this takes time, so that ranks take turns."""

    waits = []
    deadline_seconds = 2  # it has to pass

    def strike(self, name, victim, repetition, run):
        with self.ranks(name, victim, repetition, run, signal.SIGSTOP) as ranks:
            ranks.wait_for_line("struck", rank=victim)
            begin = time.monotonic()
            while ranks.is_running(1 - victim) and time.monotonic() < begin + 30:
                time.sleep(0.01)
            ranks.kill(victim)
            results = ranks.wait()
        self.assert_names(results[1 - victim], victim, "did not answer")
        patience = 10 if PHASES[name][1] else 2
        self.assert_in_time(ranks.ended_at(1 - victim) - begin, run, patience * self.deadline_seconds + 2)
        self.assert_resumes_to_the_same(run)

    def test_in_every_phase(self):
        self.strike_in_every_phase(lambda number, repetition: [(number + repetition) % 2])


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if argument.startswith("--repetitions="):
            REPETITIONS = int(argument.partition("=")[2])
            sys.argv.remove(argument)
    PEER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    support.main(globals())
