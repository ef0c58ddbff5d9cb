"""The same recipe under every launcher: the same losses and the same model, bit for bit."""

import json
import pathlib
import shutil
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
