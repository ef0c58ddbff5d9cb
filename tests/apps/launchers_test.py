"""The same recipe under every launcher: the same losses and the same model, bit for bit."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import unittest

import support
from support import ROOT, InTemporaryFolder, Ranks, environment, losses, model_hash

TORCHRUN = ROOT / ".venv" / "bin" / "torchrun"
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe"]


def mpirun_is_here():
    return shutil.which("mpirun") is not None


class Launchers(InTemporaryFolder):
    def train(self, name, prefix=(), *more):
        command = [*map(str, prefix), support.PROGRAM, "train", str(self.recipe), "--run-dir", name, *more]
        result = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=120, env=environment())
        self.assertEqual(result.returncode, 0, result.stderr + result.stdout)
        return self.folder / name

    def assert_same_run(self, one, other):
        self.assertEqual(losses(one), losses(other))
        self.assertEqual(len(losses(one)), 10)
        self.assertEqual(model_hash(one), model_hash(other))

    def test_its_own_launch_command(self):
        own = self.train("own")
        launched = self.folder / "launched"
        self.run_ok("launch", "-n", 2, self.recipe, "--run-dir", launched)
        self.assert_same_run(own, launched)
        self.run_ok("launch", "-n", 2, "--", support.PROGRAM, "train", self.recipe, "--run-dir", "as-program")
        self.assert_same_run(own, self.folder / "as-program")

    def test_ranks_as_threads(self):
        self.assert_same_run(self.train("own"), self.train("threads", (), "--local"))

    @unittest.skipUnless(TORCHRUN.exists(), "needs torchrun in .venv")
    def test_torchrun(self):
        torchrun = [TORCHRUN, "--no-python", "--nproc-per-node", 2, "--master-port", support.free_port()]
        self.assert_same_run(self.train("own"), self.train("torchrun", torchrun))

    def test_variables_as_torchrun_sets_them(self):
        own = self.train("own")
        command = [support.PROGRAM, "train", self.recipe, "--run-dir", self.folder / "by-hand"]
        with Ranks(command, world_size=2, folder=self.folder) as ranks:
            self.assertEqual([result.exit_code for result in ranks.wait()], [0, 0])
        self.assert_same_run(own, self.folder / "by-hand")

    @unittest.skipUnless(mpirun_is_here(), "needs mpirun")
    def test_mpirun_with_gloo_and_with_mpi(self):
        own = self.train("own")
        self.assert_same_run(own, self.train("mpirun-gloo", [*MPIRUN, "-n", 2]))
        self.assert_same_run(own, self.train("mpirun-mpi", [*MPIRUN, "-n", 2], "--comm.backend=mpi"))

    def test_ddp_is_zero1_is_one_rank_that_accumulates(self):
        own = self.train("own")
        self.assert_same_run(own, self.train("ddp", (), "--sync.name=ddp"))
        alone = self.train("alone", (), "--mesh.replicas=1", "--sync.name=none", "--train.accumulation=2")
        self.assert_same_run(own, alone)

    def test_the_saved_recipe_reproduces_the_run(self):
        first = self.train("first", (), "--optimizer.lr=2e-3")
        self.run_ok("train", first / "recipe.toml", "--run-dir", "again")
        self.assert_same_run(first, self.folder / "again")

    def test_a_world_of_another_size_is_refused(self):
        with Ranks([support.PROGRAM, "train", self.recipe], world_size=3, folder=self.folder) as ranks:
            for result in ranks.wait():
                self.assertEqual(result.exit_code, 2, result)
                self.assertIn("config error: the recipe's mesh is 2 replicas", result.stderr)
                self.assertIn("has 3; start as many, or set --mesh.replicas=3", result.stderr)

    def test_any_program_can_be_launched(self):
        result = self.run_ok("launch", "-n", 2, "--all-output", "--", "sh", "-c", "echo $RANK of $WORLD_SIZE")
        self.assertEqual(result.stdout, "0 of 2\n")
        self.assertEqual(result.stderr, "[1] 1 of 2\n")
        result = support.outstep("launch", "-n", 2, "--", "sh", "-c", "echo said by $RANK; exit $((RANK * 5))")
        self.assertEqual(result.returncode, 5)
        self.assertRegex(result.stderr, r"outstep\[1\]: launch error: rank 1 \(process \d+\) left with exit code 5\n"
                                        r"  \[rank 1\] said by 1\n")
        result = support.outstep("launch", "-n", 2, "--", "no-such-program")
        self.assertEqual(result.returncode, 2)
        self.assertIn('cannot start "no-such-program": No such file or directory', result.stderr)

    def test_a_rank_that_never_stops_writing(self):
        flood = "echo begun; [ $RANK = 0 ] && exec sleep 60; exec yes"
        with Ranks([support.PROGRAM, "launch", "-n", "2", "--", "sh", "-c", flood], folder=self.folder) as ranks:
            ranks.wait_for_line("begun")
            os.kill(ranks.processes()[0], signal.SIGINT)  # the launcher, which began first
            (result,) = ranks.wait()
        self.assertEqual(result.exit_code, 130)

    def test_lines_are_what_a_terminal_would_show(self):
        bar = "[ $RANK = 0 ] || printf ' 1%%\\r50%%\\r100%%\\nwindows\\r\\n'"
        result = self.run_ok("launch", "-n", 2, "--all-output", "--", "sh", "-c", bar)
        self.assertEqual(result.stderr, "[1] 100%\n[1] windows\n")

    def test_ends_of_ranks_are_seen_where_a_parent_ignores_them(self):
        result = subprocess.run(["sh", "-c", f"trap '' CHLD; exec {support.PROGRAM} launch -n 2 -- sh -c 'exit 3'"],
                                capture_output=True, text=True, timeout=60, env=environment())
        self.assertEqual(result.returncode, 3, result)

    def test_several_machines(self):
        """Two launchers that each believe to be a machine of its own."""
        port = support.free_port()
        own = self.train("own")
        command = [support.PROGRAM, "launch", "-n", "1", "--nnodes", "2", "--master", f"127.0.0.1:{port}"]
        launchers = [subprocess.Popen([*command, "--node-rank", str(node), str(self.recipe), "--run-dir", "nodes"],
                                      cwd=self.folder, env=environment(), stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True) for node in (0, 1)]
        said = [launcher.communicate(timeout=60)[0] for launcher in launchers]
        self.assertEqual([launcher.returncode for launcher in launchers], [0, 0], said)
        self.assert_same_run(own, self.folder / "nodes")


class Hosts(InTemporaryFolder):
    """Populations in worlds of fewer processes than ranks: each process hosts some."""

    def setUp(self):
        super().setUp()
        self.population = ["--mesh.members=3", "--mesh.replicas=1", "--sync.name=none", "--ensemble.name=wash", "--ensemble.p=0.2"]

    def assert_right(self, *runs):
        """With the models of a run that starts its ranks itself."""
        self.run_ok("train", self.recipe, "--run-dir", "own", *self.population)
        for member in range(3):
            models = {(support.checkpoints(self.folder / run)[-1] / f"member-{member:02}" / "model.safetensors").read_bytes()
                      for run in ("own", *runs)}
            self.assertEqual(len(models), 1)

    def command(self, run, *more):
        return [support.PROGRAM, "train", str(self.recipe), "--run-dir", run, *self.population, *more]

    def start(self, run, launcher):
        result = subprocess.run([*map(str, launcher), *self.command(run)], capture_output=True, text=True, cwd=self.folder,
                                timeout=120, env=environment())
        self.assertEqual(result.returncode, 0, result.stderr + result.stdout)

    def test_ranks_as_threads(self):
        """Which ensemble/wash_test.cc holds against one process: so processes over Gloo do what one does (Spec 2)."""
        self.run_ok("train", self.recipe, "--run-dir", "threads", "--local", *self.population)
        self.assert_right("threads")

    def test_its_own_launch_command(self):
        self.run_ok("launch", "-n", 2, self.recipe, "--run-dir", "two", *self.population)
        self.start("one", [support.PROGRAM, "launch", "-n", 1, "--"])
        self.assert_right("two", "one")

    @unittest.skipUnless(TORCHRUN.exists(), "needs torchrun in .venv")
    def test_torchrun(self):
        self.start("torchrun", [TORCHRUN, "--no-python", "--nproc-per-node", 2, "--master-port", support.free_port()])
        self.assert_right("torchrun")

    @unittest.skipUnless(mpirun_is_here(), "needs mpirun")
    def test_mpirun(self):
        self.start("mpirun", [*MPIRUN, "-n", 2])
        self.assert_right("mpirun")
        result = subprocess.run([*MPIRUN, "-n", "2", *self.command("mpi", "--comm.backend=mpi")], capture_output=True, text=True,
                                cwd=self.folder, timeout=120, env=environment())
        self.assertEqual(result.returncode, 2, result)
        self.assertIn('comm.backend is "mpi", whose ranks only mpirun can start: mpirun -n 3', result.stderr)

    def test_tasks_as_slurm_starts_them(self):
        port = support.free_port()
        tasks = [subprocess.Popen(self.command("slurm"), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, env=environment(SLURM_PROCID=str(task), SLURM_NTASKS="2", SLURM_LOCALID=str(task),
                                                             SLURM_STEP_ID="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)))
                 for task in range(2)]
        said = [task.communicate(timeout=60)[0] for task in tasks]
        self.assertEqual([task.returncode for task in tasks], [0, 0], said)
        self.assert_right("slurm")

    def test_a_hosted_rank_that_is_killed(self):
        command = [support.PROGRAM, "launch", "-n", 2, self.recipe, "--run-dir", "killed", *self.population, "--train.steps=5000"]
        with Ranks(command, folder=self.folder) as ranks:
            ranks.wait_for_line(r"step +7/")
            ranks.kill(2)  # the launcher's own are 0 and 1
            (result,) = ranks.wait()
        self.assertEqual(result.exit_code, 4, result)
        self.assertRegex(result.stderr, r"outstep\[2\]: communication error: rank 2 \(process \d+\) was ended by signal 9 \(Killed\)\n"
                                        r"  The last checkpoint is .*\n  Or without member 2: .* --ensemble.lost=\[2\]\n")
        self.assertEqual(result.stderr.count("--ensemble.lost"), 1)

    def test_asked_to_stop(self):
        command = [support.PROGRAM, "launch", "-n", 2, self.recipe, "--run-dir", "stopped", *self.population, "--train.steps=5000"]
        with Ranks(command, folder=self.folder) as ranks:
            ranks.wait_for_line(r"step +7/")
            os.kill(ranks.processes()[0], signal.SIGTERM)  # the launcher, which began first
            (result,) = ranks.wait()
        self.assertEqual(result.exit_code, 143, result)
        self.assertTrue(support.checkpoints(self.folder / "stopped"))

    def test_others_who_start_ranks_do_not_go_on_without_a_member(self):
        said = []
        goes_on = "--ensemble.on_loss=continue"
        said.append(self.run_ok("train", self.recipe, "--run-dir", "threads", "--local", *self.population, goes_on).stderr)
        task = environment(SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_LOCALID="0", SLURM_STEP_ID="0", MASTER_ADDR="127.0.0.1",
                           MASTER_PORT=str(support.free_port()))
        hosting = subprocess.run(self.command("slurm", goes_on), capture_output=True, text=True, cwd=self.folder, timeout=120, env=task)
        said.append(hosting.stderr)
        for starter, text in zip(("--local", "srun"), said):
            self.assertEqual(text.count(f'ensemble.on_loss = "continue" has no effect with {starter}'), 1, text)
        own = self.run_ok("train", self.recipe, "--run-dir", "ours", *self.population, goes_on)
        self.assertNotIn("no effect", own.stderr)

    def test_worlds_that_are_refused(self):
        result = support.outstep("launch", "-n", 1, self.recipe, folder=self.folder)
        self.assert_fails(result, 2, r"config error: the recipe's mesh is 2 replicas .* has 1; start as many")
        result = support.outstep("launch", "-n", 4, self.recipe, *self.population, folder=self.folder)
        self.assert_fails(result, 2, r"config error: the recipe's mesh is 1 replica × 1 stage × 3 members .* has 4")


class Json(InTemporaryFolder):
    def test_stdout_is_one_object(self):
        result = self.run_ok("train", self.recipe, "--run-dir", "run", "--json")
        summary = json.loads(result.stdout)
        self.assertEqual(summary["run"], "run")
        self.assertEqual(summary["steps"], 10)
        self.assertTrue(summary["finished"])
        for key in ("validation_loss", "tokens_per_second", "train_seconds", "peak_memory_bytes", "bytes_sent",
                    "overlap_fraction"):
            self.assertGreaterEqual(summary[key], 0, key)
        self.assertIn("step 10/10", result.stderr)

    def test_an_error_is_one_object_too(self):
        result = support.outstep("train", self.recipe, "--json", "--train.step=3", folder=self.folder)
        self.assertEqual(result.returncode, 2)
        error = json.loads(result.stdout)["error"]
        self.assertEqual((error["kind"], error["exit_code"]), ("config error", 2))
        self.assertIn('did you mean "steps"', error["message"])


if __name__ == "__main__":
    support.main(globals())
