"""The harness itself, tried on small Python programs."""

import signal
import sys
import unittest

from harness import DeadlineError, LeftoverError, Ranks


def python(source):
    return [sys.executable, "-u", "-c", source]


WAITING = "import os, signal; print('ready', os.environ['RANK']); signal.pause()"


class Harness(unittest.TestCase):
    def test_each_rank_gets_its_place_in_the_world(self):
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FLAVOUR")
        source = f"import os, sys; print(*(os.environ[n] for n in {names})); sys.exit(int(os.environ['RANK']))"
        with Ranks(python(source), world_size=3, environment={"FLAVOUR": "plain"}) as ranks:
            results = ranks.wait()
        self.assertEqual([result.exit_code for result in results], [0, 1, 2])
        self.assertEqual([result.stdout for result in results],
                         [f"{rank} {rank} 3 127.0.0.1 {ranks.port} plain\n" for rank in range(3)])

    def test_a_rank_is_killed_at_a_line(self):
        with Ranks(python(WAITING), world_size=2) as ranks:
            self.assertEqual(ranks.wait_for_line(r"ready (\d)", rank=1).group(1), "1")
            ranks.wait_for_line("ready", rank=0)
            ranks.kill(1)
            ranks.signal(0, signal.SIGTERM)
            results = ranks.wait()
        self.assertEqual([result.exit_code for result in results], [-signal.SIGTERM, -signal.SIGKILL])

    def test_a_stopped_rank_misses_the_deadline_and_is_ended(self):
        source = "import os, signal; print('ready'); signal.pause() if os.environ['RANK'] == '1' else None"
        with self.assertRaisesRegex(DeadlineError, "still running: rank 1 after 8 s(.|\n)*ready"):
            with Ranks(python(source), world_size=2, deadline=8) as ranks:
                ranks.wait_for_line("ready", rank=1)
                ranks.stop(1)
                ranks.wait()
        self.assertEqual(ranks.processes(), [])

    def test_a_stopped_rank_goes_on_when_resumed(self):
        # Blocked until it is waited for: with a handler and pause() it could come between the two, and be missed.
        source = ("import signal; awaited = {signal.SIGUSR1}; signal.pthread_sigmask(signal.SIG_BLOCK, awaited)\n"
                  "print('ready'); signal.sigwait(awaited); print('heard')")
        with Ranks(python(source), world_size=1) as ranks:
            ranks.wait_for_line("ready")
            ranks.stop(0)
            ranks.signal(0, signal.SIGUSR1)
            ranks.resume(0)
            self.assertEqual(ranks.wait()[0].stdout, "ready\nheard\n")

    def test_a_line_that_nobody_says(self):
        with self.assertRaisesRegex(DeadlineError, "all ended without saying 'goodbye'(.|\n)*hello"):
            with Ranks(python("print('hello')"), world_size=2) as ranks:
                ranks.wait_for_line("goodbye")

    def test_ranks_that_the_command_starts_itself(self):
        source = f"""
import os, subprocess, sys
children = [subprocess.Popen([sys.executable, "-u", "-c", {WAITING!r}], env=os.environ | {{"RANK": str(rank)}})
            for rank in range(2)]
print(*(-child.wait() for child in children))
"""
        with Ranks(python(source)) as ranks:
            ranks.wait_for_line("ready 0")
            ranks.wait_for_line("ready 1")
            ranks.kill(1)
            ranks.signal(0, signal.SIGINT)
            self.assertEqual(ranks.wait()[0].stdout.splitlines()[-1], "2 9")

    def test_a_process_that_outlives_its_rank_is_found_and_ended(self):
        source = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-u", "-c", "import signal; print('daemon'); signal.pause()"],
                         start_new_session=True, stdout=subprocess.PIPE)
print(child.stdout.readline())
"""
        with self.assertRaisesRegex(LeftoverError, "signal.pause"):
            with Ranks(python(source), world_size=1) as ranks:
                self.assertEqual(ranks.wait()[0].exit_code, 0)
        self.assertEqual(ranks.processes(), [])


if __name__ == "__main__":
    unittest.main()
