"""Groups over Gloo, by real processes: results, and what ranks say when one of them is gone, stopped, slow or wrong."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "several_processes"))
from harness import Ranks, free_port  # noqa: E402

PEER = ""
NAME_1 = r"rank 1 \(127\.0\.0\.1:\d+\)"


def peer(mode, *options):
    return [PEER, mode, *map(str, options)]


def bits_by_threads(ranks):
    output = subprocess.run(peer("threads", "--ranks", ranks), capture_output=True, text=True, check=True, timeout=60)
    hashes = set(output.stdout.split("\n")) - {""}
    assert len(hashes) == 1, output.stdout
    return hashes.pop()


class Results(unittest.TestCase):
    def test_the_same_bits_as_threads(self):
        for world_size in (1, 2, 3, 4):
            with Ranks(peer("bits"), world_size=world_size) as ranks:
                results = ranks.wait()
            expected = bits_by_threads(world_size) + "\n"
            self.assertEqual([result.stdout for result in results], [expected] * world_size)
            self.assertEqual([result.stderr for result in results], [""] * world_size)

    def test_a_simulated_link_changes_no_bit(self):
        with Ranks(peer("bits", "--link", "10gbit,0.1ms"), world_size=2) as ranks:
            self.assertEqual(ranks.wait()[1].stdout, bits_by_threads(2) + "\n")


class Trouble(unittest.TestCase):
    def assert_comm_error(self, result, pattern):
        self.assertEqual(result.exit_code, 4, result)
        self.assertRegex(result.stderr, f"^communication error: {pattern}")

    def test_a_killed_rank_is_named_at_once(self):
        with tempfile.TemporaryDirectory() as folder:
            with Ranks(peer("loop", "--steps", 1000000, "--delay_ms", 2, "--flight", folder), world_size=2) as ranks:
                ranks.wait_for_line("step 20", rank=0)
                ranks.kill(1)
                results = ranks.wait()
            self.assert_comm_error(results[0], NAME_1 + r' closed its connection during all_reduce, tag 9 '
                                   r'\("gradients, step \d+"\), [\d.]+ s of 30 s')
            self.assertEqual(results[1].exit_code, -signal.SIGKILL)
            record = json.loads(pathlib.Path(folder, "flight-0.json").read_text())
            self.assertIn("closed its connection", record["error"])
            self.assertEqual(record["operations"][-1]["status"], "failed")
            self.assertGreater(record["operations"][-1]["step"], 19)

    def test_a_killed_rank_0_is_named_at_once(self):
        with Ranks(peer("loop", "--steps", 1000000, "--delay_ms", 2), world_size=2) as ranks:
            ranks.wait_for_line("step 20", rank=1)
            ranks.kill(0)
            self.assert_comm_error(ranks.wait()[1], r"rank 0 \(127\.0\.0\.1:\d+\) closed its connection during all_reduce")

    def test_all_others_hear_of_a_killed_rank(self):
        with Ranks(peer("loop", "--steps", 1000000, "--delay_ms", 2), world_size=4) as ranks:
            ranks.wait_for_line("step 20", rank=0)
            ranks.kill(2)
            results = ranks.wait()
        for rank in (0, 1, 3):
            self.assert_comm_error(results[rank], r"rank \d \(127\.0\.0\.1:\d+\) closed its connection during all_reduce")

    def test_a_stopped_rank_is_named_at_the_deadline(self):
        with Ranks(peer("loop", "--steps", 1000000, "--delay_ms", 2, "--deadline_ms", 2000), world_size=2) as ranks:
            ranks.wait_for_line("step 20", rank=0)
            ranks.stop(1)
            ranks.wait_for_line("communication error", rank=0)
            ranks.resume(1)
            results = ranks.wait()
        self.assert_comm_error(results[0], NAME_1 + r" did not answer during all_reduce, tag 9 "
                               r'\("gradients, step \d+"\), [\d.]+ s of 2 s')
        # Its own time has passed as well while it stood still; whichever it looks at first.
        self.assert_comm_error(results[1], r"rank 0 .* (closed its connection|did not answer) during all_reduce")

    def test_a_slow_rank_is_waited_for(self):
        with Ranks(peer("loop", "--steps", 3, "--delay_ms", 300, "--deadline_ms", 10000), world_size=2) as ranks:
            self.assertEqual([result.exit_code for result in ranks.wait()], [0, 0])

    def test_an_error_in_one_thread_wakes_the_others(self):
        with Ranks(peer("waiters", "--deadline_ms", 3000), world_size=2) as ranks:
            results = ranks.wait()
        late = NAME_1 + r" did not answer during recv, tag 3, [\d.]+ s of 3 s"
        self.assert_comm_error(results[0], NAME_1)  # whichever thread was first
        self.assertRegex(results[0].stdout, f"thread 3: {late}\n")
        for thread in (1, 2):
            self.assertRegex(results[0].stdout,
                             rf"thread {thread}: {NAME_1} had not answered when this rank gave up \({late}\) during recv")
        self.assert_comm_error(results[1], r"rank 0 \(127\.0\.0\.1:\d+\) closed its connection during recv, tag 100")

    def test_an_error_with_one_peer_wakes_waits_for_others(self):
        with Ranks(peer("trio"), world_size=3) as ranks:
            for rank in range(3):
                ranks.wait_for_line("ready", rank=rank)
            ranks.kill(1)
            results = ranks.wait()
        self.assert_comm_error(results[0], NAME_1 + " closed its connection during recv, tag 100")
        self.assertRegex(results[0].stdout, r"for 2: rank 2 \(127\.0\.0\.1:\d+\) had not answered when this rank gave up "
                         rf"\({NAME_1} closed its connection")
        self.assert_comm_error(results[2], r"rank 0 \(127\.0\.0\.1:\d+\) closed its connection during recv, tag 100")

    def test_a_rank_killed_within_a_large_message_is_named_at_once(self):
        command = peer("loop", "--steps", 1000000, "--length", 16_000_000, "--deadline_ms", 3600_000)
        with Ranks(command, world_size=2) as ranks:
            ranks.wait_for_line("step 2", rank=0)
            ranks.stop(1)  # so that rank 0 gets no further than the middle of one
            ranks.kill(1)
            self.assert_comm_error(ranks.wait()[0], NAME_1 + " closed its connection during all_reduce")


class Start(unittest.TestCase):
    def environment(self, rank, world_size, port):
        kept = {name: value for name, value in os.environ.items() if not re.match("OMPI_|PMIX_|SLURM_|TORCHELASTIC_", name)}
        return kept | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def start(self, rank, world_size, port, *options):
        process = subprocess.Popen(peer("loop", *options), env=self.environment(rank, world_size, port),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def end(self, process):
        output, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def test_missing_ranks_are_named(self):
        port = free_port()
        code, errors = self.end(self.start(0, 4, port, "--deadline_ms", 1000))
        self.assertEqual(code, 4)
        self.assertEqual(errors, "communication error: ranks 1, 2, 3 did not come within 1 s (world of 4, meeting at "
                         f"127.0.0.1:{port}); were all ranks started, with the same MASTER_ADDR and MASTER_PORT?\n")

    def test_a_missing_rank_0_is_named(self):
        port = free_port()
        code, errors = self.end(self.start(1, 2, port, "--deadline_ms", 1000))
        self.assertEqual(code, 4)
        self.assertRegex(errors, f"^communication error: rank 0 was not reached at 127.0.0.1:{port} within 1 s")
        self.assertEqual(errors.count("\n"), 1, errors)  # torch's own reports are silenced

    def test_a_busy_port_is_named(self):
        with socket.socket() as stranger:
            stranger.bind(("0.0.0.0", 0))
            stranger.listen()
            port = stranger.getsockname()[1]
            first = self.start(0, 2, port, "--deadline_ms", 2000)
            second = self.start(1, 2, port, "--deadline_ms", 2000)  # the stranger accepts and says nothing
            code, errors = self.end(first)
            self.assertEqual(code, 4)
            self.assertEqual(errors, f"communication error: port {port} of 127.0.0.1 is in use by another program, so rank 0 "
                             "cannot listen there; set MASTER_PORT (torchrun: --master-port) to a free port, the same on all "
                             "ranks\n")
            code, errors = self.end(second)
            self.assertEqual(code, 4)
            self.assertRegex(errors, f"^communication error: rank 0 was not reached at 127.0.0.1:{port} within 2 s")

    def test_another_world_size_is_named_by_both(self):
        port = free_port()
        processes = [self.start(0, 2, port), self.start(1, 3, port)]
        (code_0, errors_0), (code_1, errors_1) = map(self.end, processes)
        self.assertEqual((code_0, code_1), (2, 2))
        self.assertRegex(errors_0, r"^config error: rank 1 \(127\.0\.0\.1:\d+\) was started with world size 3, but rank 0 with 2;")
        self.assertRegex(errors_1, r"^config error: rank 0 \(127\.0\.0\.1:\d+\) was started with world size 2, but rank 1 with 3;")

    def test_a_rank_given_twice_is_named(self):
        port = free_port()
        processes = [self.start(0, 3, port, "--deadline_ms", 3000)] + [
            self.start(1, 3, port, "--deadline_ms", 3000) for _ in range(2)]
        errors = [self.end(process)[1] for process in processes]
        twice = re.search(r"config error: two processes were started as rank 1: 127\.0\.0\.1:\d+ and 127\.0\.0\.1:\d+",
                          errors[1] + errors[2])
        self.assertTrue(twice, errors)

    def test_ranks_that_disagree_say_who(self):
        with Ranks(peer("agree", "--odd", 2), world_size=3) as ranks:
            results = ranks.wait()
        for result in results:
            self.assertEqual(result.exit_code, 2)
            self.assertRegex(result.stderr, r"^config error: ranks differ in their recipe: rank 2 \(127\.0\.0\.1:\d+\) differs from "
                             r"rank 0 \(127\.0\.0\.1:\d+\)")
        with Ranks(peer("agree"), world_size=3) as ranks:
            self.assertEqual([result.exit_code for result in ranks.wait()], [0, 0, 0])


if __name__ == "__main__":
    PEER = sys.argv.pop(1)
    unittest.main()
