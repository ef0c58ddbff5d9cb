"""Groups over MPI and Gloo, started by mpirun."""

import os
import re
import shutil
import subprocess
import sys
import unittest

PEER = ""
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe"]


def run(command, **more):
    kept = {name: value for name, value in os.environ.items()
            if not re.match("RANK$|WORLD_SIZE$|LOCAL_RANK$|MASTER_|OMPI_|PMIX_|SLURM_|TORCHELASTIC_", name)}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=90, env=kept | more)


def bits_by_threads(ranks):
    return run([PEER, "threads", "--ranks", ranks]).stdout.split("\n")[0]


@unittest.skipUnless(shutil.which("mpirun"), "needs mpirun")
class Mpi(unittest.TestCase):
    def test_the_same_bits_over_mpi_gloo_and_threads(self):
        for world_size in (2, 3):
            expected = [bits_by_threads(world_size)] * world_size
            for backend in ("mpi", "gloo"):
                result = run([*MPIRUN, "-n", world_size, PEER, "bits", "--backend", backend])
                self.assertEqual(result.returncode, 0, result)
                self.assertEqual(result.stdout.split("\n")[:-1], expected, backend)

    def test_an_error_in_one_thread_wakes_the_others_and_tells_the_peer(self):
        result = run([*MPIRUN, "-n", 2, PEER, "waiters", "--backend", "mpi", "--deadline_ms", 500])
        self.assertNotEqual(result.returncode, 0)
        name = r"rank 1 \([^ ]+:\d+\)"
        self.assertRegex(result.stdout, rf"thread 3: {name} did not answer during recv, tag 3, [\d.]+ s of 500 ms")
        for thread in (1, 2):
            self.assertRegex(result.stdout, rf"thread {thread}: {name} had not answered when this rank gave up \({name} did not")

    def test_a_rank_that_leaves_is_named(self):
        result = run([*MPIRUN, "-n", 2, PEER, "agree", "--backend", "mpi", "--odd", 1])
        self.assertEqual(result.returncode, 2, result)
        self.assertRegex(result.stderr, r"config error: ranks differ in their recipe: rank 1 \([^ ]+:\d+\) differs from rank 0")

    def test_mpi_without_mpirun_is_refused(self):
        variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        result = run([PEER, "bits", "--backend", "mpi"], **variables)
        self.assertEqual(result.returncode, 2, result)
        self.assertIn('config error: comm.backend is "mpi", but MPI says rank 0 of 1 where the variables (torchrun) say rank 0 of 2; '
                      "start the program with mpirun", result.stderr)

    def test_two_launchers_that_disagree_are_refused(self):
        result = run([*MPIRUN, "-n", 2, "-x", "RANK=0", "-x", "WORLD_SIZE=3", "-x", "LOCAL_RANK=0", "-x", "MASTER_ADDR=127.0.0.1",
                      "-x", "MASTER_PORT=29500", PEER, "bits"])
        self.assertEqual(result.returncode, 2, result)
        self.assertIn("config error: two launchers disagree about the world size: WORLD_SIZE is 3 (torchrun), but "
                      "OMPI_COMM_WORLD_SIZE is 2 (mpirun)", result.stderr)


if __name__ == "__main__":
    PEER = sys.argv.pop(1)
    unittest.main()
