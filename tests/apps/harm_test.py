"""Ranks that are killed, stopped or asked to leave in the middle of a run, and what resume makes of it."""

import os
import random
import re
import signal
import sys
import time
import unittest

import support
from support import InTemporaryFolder, checkpoints, losses, model_hash

STEPS = 120
REPETITIONS = 2  # of each kill; --repetitions=20 for more
LAST_CHECKPOINT = r"The last checkpoint is (\S+/step-\d{8}); continue with: (\./)?outstep resume (\S+)"


class Ranks(support.Ranks):
    def launcher(self):
        """The process that the test started, of which the ranks are children."""
        return self._processes[0].popen.pid

    def is_running(self, rank):
        return self._processes[rank].seconds is None

    def send(self, number, index=0):
        """To a process that the test started (the launcher, or a rank under torchrun's variables), if it still lives."""
        self._processes[index].popen.send_signal(number)


class Harm(InTemporaryFolder):
    recipe_text = support.TINY
    _whole = {}  # (losses, model hash) of the run that nobody harmed, by recipe

    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml", self.recipe_text)

    def command(self, run, *more):
        return [support.PROGRAM, "train", self.recipe, "--run-dir", self.folder / run, f"--train.steps={STEPS}",
                "--checkpoint.every=20", *more]

    def whole_run(self):
        if self.recipe_text not in Harm._whole:
            with Ranks(self.command("whole"), folder=self.folder) as ranks:
                self.assertEqual(ranks.wait()[0].exit_code, 0)
            Harm._whole[self.recipe_text] = (losses(self.folder / "whole"), model_hash(self.folder / "whole"))
        return Harm._whole[self.recipe_text]

    def assert_resumes_to_the_same(self, run, *more):
        result = self.run_ok("resume", self.folder / run, *more)
        self.assertRegex(result.stderr + result.stdout, rf"after {STEPS} steps")
        self.assertEqual((losses(self.folder / run), model_hash(self.folder / run)), self.whole_run())

    def wait_until(self, holds, seconds=30):
        end = time.monotonic() + seconds
        while not holds():
            self.assertLess(time.monotonic(), end, "waited in vain")
            time.sleep(0.01)

    def a_step(self):
        return random.randrange(25, STEPS - 20)

    def end_by_repeating(self, ranks, number):
        """A second signal counts half a second after the first, so one may come too soon: it is sent until it does."""
        def has_ended():
            ranks.send(number)
            return not ranks.is_running(0)
        self.wait_until(has_ended)


class Kills(Harm):
    """SIGKILL."""

    def kill_under_torchruns_variables(self, victim):
        """Each rank is a process of this test, as under torchrun."""
        with Ranks(self.command("run"), world_size=2, folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(rf"step {self.a_step()}/", rank=0)
            ranks.kill(victim)
            results = ranks.wait()
        self.assertEqual(results[victim].exit_code, -signal.SIGKILL)
        other = results[1 - victim]
        self.assertEqual(other.exit_code, 4, other)
        self.assertRegex(other.stderr, rf"outstep(\[1\])?: communication error: rank {victim} \(127\.0\.0\.1:\d+\) ")
        self.assertRegex(other.stderr, LAST_CHECKPOINT)
        self.assertRegex(other.stderr, r"What the ranks did last: .*outstep inspect ")
        self.assertRegex(self.run_ok("inspect", self.folder / "run").stdout, rf"rank {1 - victim}")
        self.assert_resumes_to_the_same("run")

    def kill_under_own_launcher(self, victim):
        with Ranks(self.command("run"), folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(rf"step {self.a_step()}/")
            ranks.kill(victim)
            result = ranks.wait()[0]  # leaving the block checks that nothing is left running
        self.assertEqual(result.exit_code, 4, result)
        self.assertRegex(result.stderr, rf"outstep(\[1\])?: communication error: rank {victim} \(process \d+\) was ended "
                                        r"by signal 9 \(Killed\)")
        self.assertEqual(result.stderr.count("communication error"), 1, result.stderr)
        self.assertRegex(result.stderr, LAST_CHECKPOINT)
        self.assert_resumes_to_the_same("run")

    def repeat(self, test, *arguments):
        for repetition in range(REPETITIONS):
            with self.subTest(repetition=repetition):
                if repetition > 0:
                    self.setUp()
                test(*arguments)

    def test_rank_0_is_killed(self):
        self.repeat(self.kill_under_torchruns_variables, 0)

    def test_rank_1_is_killed(self):
        self.repeat(self.kill_under_torchruns_variables, 1)

    def test_rank_0_is_killed_under_the_own_launcher(self):
        self.repeat(self.kill_under_own_launcher, 0)

    def test_rank_1_is_killed_under_the_own_launcher(self):
        self.repeat(self.kill_under_own_launcher, 1)

    def test_the_launcher_is_killed_and_takes_its_ranks_along(self):
        with Ranks(self.command("run"), folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(r"step 30/")
            os.kill(ranks.launcher(), signal.SIGKILL)
            self.wait_until(lambda: ranks.processes() == [])
        self.assert_resumes_to_the_same("run")

    def test_a_run_killed_before_its_first_checkpoint_begins_again(self):
        with Ranks(self.command("run"), world_size=2, folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(r"step 5/", rank=0)
            ranks.kill(1)
            result = ranks.wait()[0]
        self.assertEqual(result.exit_code, 4, result)
        if checkpoints(self.folder / "run"):
            self.skipTest("too slow a kill: a checkpoint was there")
        self.assertRegex(result.stderr, r"There is no checkpoint yet; begin again with: (\./)?outstep resume ")
        self.assert_resumes_to_the_same("run")


class StandStill(Harm):
    """SIGSTOP."""

    def test_a_stopped_rank_is_given_up_at_the_deadline(self):
        command = self.command("run", "--comm.deadline_seconds=3")
        with Ranks(command, world_size=2, folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(r"step 45/", rank=0)
            ranks.stop(1)
            begin = time.monotonic()
            self.wait_until(lambda: not ranks.is_running(0))
            waited = time.monotonic() - begin
            ranks.kill(1)
            result = ranks.wait()[0]
        self.assertEqual(result.exit_code, 4, result)
        self.assertRegex(result.stderr, r"communication error: rank 1 \(127\.0\.0\.1:\d+\) did not answer")
        self.assertGreater(waited, 2)
        self.assertRegex(result.stderr, LAST_CHECKPOINT)
        self.assert_resumes_to_the_same("run")

    def test_a_stopped_rank_under_the_own_launcher(self):
        with Ranks(self.command("run", "--comm.deadline_seconds=2"), folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(r"step 45/")
            ranks.stop(1)
            result = ranks.wait()[0]
        self.assertEqual(result.exit_code, 4, result)
        self.assertRegex(result.stderr, r"communication error: rank 1 .* did not answer")


class Signals(Harm):
    """SIGINT and SIGTERM."""

    def stop_by(self, number, rank=None):
        world_size = None if rank is None else 2
        with Ranks(self.command("run"), world_size=world_size, folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(rf"step {self.a_step()}/", rank=0)
            os.kill(ranks.launcher() if rank is None else ranks.pid(rank), number)
            return ranks.wait()

    def assert_stopped_cleanly(self, results, number):
        for result in results:
            self.assertEqual(result.exit_code, 128 + number, result)
            self.assertNotIn("error", result.stderr)
        self.assertRegex(results[0].stdout, r"next +(\./)?outstep resume ")
        newest = int(re.search(r"step-0*(\d+)$", str(checkpoints(self.folder / "run")[-1])).group(1))
        self.assertLess(newest, STEPS)
        self.assertEqual(max(losses(self.folder / "run")), newest, "saved where it stopped")
        self.assert_resumes_to_the_same("run")

    def test_ctrl_c_saves_and_leaves(self):
        self.assert_stopped_cleanly(self.stop_by(signal.SIGINT), signal.SIGINT)

    def test_sigterm_saves_and_leaves(self):
        self.assert_stopped_cleanly(self.stop_by(signal.SIGTERM), signal.SIGTERM)

    def test_one_rank_that_is_asked_stops_all(self):
        results = self.stop_by(signal.SIGTERM, rank=1)
        self.assert_stopped_cleanly(results, signal.SIGTERM)

    def test_a_doubled_signal_is_one_wish(self):
        """GNU timeout signals its child and the child's group. Two signals alike may reach a process as one."""
        with Ranks(self.command("run"), folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(rf"step {self.a_step()}/")
            ranks.send(signal.SIGTERM)
            ranks.send(signal.SIGINT)
            results = ranks.wait()
        first = results[0].exit_code - 128
        self.assertIn(first, (signal.SIGTERM, signal.SIGINT), results[0])
        self.assert_stopped_cleanly(results, first)

    def test_a_second_ctrl_c_leaves_at_once(self):
        # Rank 1 stands still, so the first signal cannot be obeyed before the deadline, which is far away.
        with Ranks(self.command("run", "--comm.deadline_seconds=600"), folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(r"step 30/")
            ranks.stop(1)
            ranks.send(signal.SIGINT)
            ranks.wait_for_line("asked to stop: .* a second Ctrl-C leaves at once")
            self.end_by_repeating(ranks, signal.SIGINT)
            result = ranks.wait()[0]
        self.assertEqual(result.exit_code, 128 + signal.SIGINT, result)
        self.assert_resumes_to_the_same("run")

    def test_a_second_signal_ends_a_rank_that_is_on_its_own(self):
        command = self.command("run", "--comm.deadline_seconds=600")
        with Ranks(command, world_size=2, folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(r"step 30/", rank=0)
            ranks.stop(1)
            self.end_by_repeating(ranks, signal.SIGINT)
            ranks.kill(1)
            self.assertEqual(ranks.wait()[0].exit_code, 128 + signal.SIGINT)


class Worlds(Harm):
    """A run that goes on in another world, or beside another."""

    def test_resumes_with_another_number_of_replicas(self):
        with Ranks(self.command("run"), folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(rf"step {self.a_step()}/")
            ranks.send(signal.SIGINT)
            ranks.wait()
        result = self.run_ok("resume", self.folder / "run", "--mesh.replicas=1")
        self.assertIn("not bit for bit the run it was", result.stdout)
        self.assertEqual(max(losses(self.folder / "run")), STEPS)

    def test_goes_on_beyond_its_end(self):
        with Ranks(self.command("run"), folder=self.folder) as ranks:
            self.assertEqual(ranks.wait()[0].exit_code, 0)
        result = self.run_ok("resume", self.folder / "run", f"--train.steps={STEPS + 5}")
        self.assertIn(f"after {STEPS + 5} steps", result.stdout)

    def test_one_replica_goes_on_as_two_and_with_another_sync(self):
        self.write("alone.toml", support.TINY.replace("replicas = 2", "replicas = 1").replace('name = "zero1"', ""))
        self.run_ok("train", "alone.toml", "--run-dir", "run", "--train.steps=2")
        result = support.outstep("resume", "run", "--mesh.replicas=2", "--train.steps=4", folder=self.folder)
        self.assert_fails(result, 2, r'config error: .*sync "none" is for one replica.* --sync\.name=ddp')
        for steps, more in [(4, ["--mesh.replicas=2", "--sync.name=ddp"]), (6, ["--sync.name=zero1"]),
                            (8, ["--mesh.replicas=1", "--sync.name=none"])]:
            result = self.run_ok("resume", "run", f"--train.steps={steps}", *more)
            self.assertIn(f"after {steps} steps", result.stdout)
        self.assertEqual(sorted(losses(self.folder / "run")), list(range(1, 9)))
        result = support.outstep("resume", "run", "--sync.name=ddp", "--log.evry=2", folder=self.folder)
        self.assert_fails(result, 2, r'config error: --log\.evry: unknown key "evry" in \[log\]; did you mean "every"')

    def test_a_run_is_trained_by_one_program_at_a_time(self):
        with Ranks(self.command("run", "--comm.deadline_seconds=600"), folder=self.folder, deadline=60) as ranks:
            ranks.wait_for_line(r"step 30/")
            ranks.stop(1)
            result = support.outstep("resume", "run", folder=self.folder)
            self.assert_fails(result, 3, "data error: run is being trained by another process")
            ranks.resume(1)
            self.assertEqual(ranks.wait()[0].exit_code, 0)
        self.assertEqual((losses(self.folder / "run"), model_hash(self.folder / "run")), self.whole_run())


# The same with a method that computes while it communicates, in repeatable steps.
ACCO = support.TINY.replace('name = "zero1"', 'name = "acco"\ncounts = "fixed"').replace("[train]", "[train]\naccumulation = 2")


class AccoKills(Kills):
    recipe_text = ACCO


class AccoStandStill(StandStill):
    recipe_text = ACCO


class AccoSignals(Signals):
    recipe_text = ACCO


class AccoWorlds(Harm):
    recipe_text = ACCO
    test_resumes_with_another_number_of_replicas = Worlds.test_resumes_with_another_number_of_replicas


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if argument.startswith("--repetitions="):
            REPETITIONS = int(argument.partition("=")[2])
            sys.argv.remove(argument)
    support.main(globals())
