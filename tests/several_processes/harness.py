"""Starts ranks as real processes, harms them on cue, and sees to it that none outlives its test.

    with Ranks([program, "train", recipe], world_size=2, deadline=60) as ranks:
        ranks.wait_for_line(r"step +20 ")        # of any rank, on stdout or stderr
        ranks.kill(1)                            # SIGKILL; also stop(1), resume(1), signal(1, signal.SIGTERM)
        results = ranks.wait()                   # until all have ended, or the deadline
    assert results[0].exit_code == 4, results[0]
    assert "rank 1" in results[0].stderr

With a world_size, each rank gets torchrun's variables on a free port of 127.0.0.1. Without one the command is started once
and alone; ranks it starts itself are reached by the RANK in their environment: kill(rank=1).

Whatever happens is over by the deadline (seconds since the start): a rank that is still there makes wait() raise
DeadlineError with everything said so far. Leaving the block ends all that is left, and raises LeftoverError if a process
outlived its ranks; these are known by a variable that they inherit, so one that made itself a daemon is found as well.
Nothing here sleeps for a fixed time to let something happen.
"""

import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import uuid

MARK = "OUTSTEP_TEST_MARK"  # inherited by all that a test starts
LAUNCHER_VARIABLES = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_RANK|MASTER_|TORCHELASTIC_|OMPI_|PMIX_|SLURM_)")


class DeadlineError(AssertionError):
    """Something that should have happened did not, in time."""


class LeftoverError(AssertionError):
    """A process outlived the ranks that started it."""


@dataclasses.dataclass
class Result:
    """How a rank ended. exit_code is negative, -N, for one that signal N ended."""

    rank: int
    exit_code: int
    seconds: float  # from the start to the end
    stdout: str
    stderr: str


def free_port():
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def marked_processes(mark):
    """{process id: RANK in its environment, or None} of the living processes that carry a mark. Zombies do not live."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(entry.partition("=")[::2] for entry in
                             (folder / "environ").read_bytes().decode(errors="replace").split("\0"))
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue  # ended meanwhile, or not ours
        if variables.get(MARK) == mark and state not in "ZX":
            found[int(folder.name)] = int(variables["RANK"]) if variables.get("RANK", "").isdigit() else None
    return found


class _Process:
    """One started command; its output is read as it comes."""

    def __init__(self, rank, command, environment, folder, changed):
        self.rank = rank
        self.lines = {"stdout": [], "stderr": []}  # guarded by changed
        self.begin = time.monotonic()
        self.seconds = None
        self._changed = changed
        self.popen = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)
        self._threads = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.lines]
        self._threads.append(threading.Thread(target=self._await_end, daemon=True))
        for thread in self._threads:
            thread.start()

    def _read(self, name):
        for line in getattr(self.popen, name):
            with self._changed:
                self.lines[name].append(line.decode(errors="replace"))
                self._changed.notify_all()

    def _await_end(self):
        self.popen.wait()
        with self._changed:
            self.seconds = time.monotonic() - self.begin
            self._changed.notify_all()

    def finish_reading(self):
        """After the end; a process that is left over may hold the pipes open, so not for ever."""
        for thread in self._threads:
            thread.join(timeout=2)

    def text(self, name):
        with self._changed:
            return "".join(self.lines[name])


class Ranks:
    """Processes of one world, for a with statement. See the top of this file."""

    def __init__(self, command, world_size=None, environment=None, folder=None, deadline=60):
        self.command = [str(word) for word in command]
        self.mark = uuid.uuid4().hex
        self.port = free_port()
        self._world_size = world_size
        self._environment = environment or {}
        self._folder = folder
        self._deadline_seconds = deadline
        self._changed = threading.Condition()
        self._processes = []

    def __enter__(self):
        self._deadline = time.monotonic() + self._deadline_seconds
        for rank in range(self._world_size or 1):
            self._processes.append(
                _Process(rank, self.command, self._environment_of(rank), self._folder, self._changed))
        return self

    def __exit__(self, error_type, error, traceback):
        all_ended = all(process.popen.poll() is not None for process in self._processes)
        left = self._end_all()
        for process in self._processes:
            process.finish_reading()
            process.popen.stdout.close()
            process.popen.stderr.close()
        if error_type is None and all_ended and left:
            raise LeftoverError(f"processes outlived {' '.join(self.command)}: {left}")

    def _environment_of(self, rank):
        environment = {name: value for name, value in os.environ.items() if not LAUNCHER_VARIABLES.match(name)}
        environment |= {MARK: self.mark, "OMP_NUM_THREADS": "1"}
        if self._world_size is not None:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self._world_size),
                            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        return environment | {name: str(value) for name, value in self._environment.items()}

    def _end_all(self):
        """Ends every process with our mark; returns what they were, {id: command}, without the ranks themselves."""
        own = {process.popen.pid for process in self._processes}
        left = {}
        while living := marked_processes(self.mark):
            for pid in living:
                try:
                    command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    continue
                if pid not in own:
                    left[pid] = command.strip()
            time.sleep(0.01)
        return left

    # ---- What the test does ----

    def pid(self, rank):
        """The process of a rank, started by us or by the command."""
        if self._world_size is not None:
            return self._processes[rank].popen.pid
        found = [pid for pid, its_rank in marked_processes(self.mark).items() if its_rank == rank]
        if not found:
            raise AssertionError(f"no living process has RANK={rank}{self._everything_said()}")
        return min(found)  # its own children inherit the variable and come later

    def signal(self, rank, number):
        os.kill(self.pid(rank), number)

    def kill(self, rank):
        self.signal(rank, signal.SIGKILL)

    def stop(self, rank):
        """Freezes a rank: it lives, keeps its connections, and says nothing more."""
        self.signal(rank, signal.SIGSTOP)

    def resume(self, rank):
        self.signal(rank, signal.SIGCONT)

    def wait_for_line(self, pattern, rank=None):
        """Waits until a rank (default: any) has said a line that matches, on stdout or stderr; returns the match."""
        pattern = re.compile(pattern)
        watched = self._processes if rank is None else [self._processes[rank]]

        def find():
            for process in watched:
                for lines in process.lines.values():
                    for line in lines:
                        if match := pattern.search(line):
                            return match
            return None

        with self._changed:
            while (match := find()) is None:
                if all(process.seconds is not None for process in watched) and not self._still_reading(watched):
                    raise DeadlineError(f"all ended without saying {pattern.pattern!r}{self._everything_said()}")
                self._wait_for_change(f"nobody has said {pattern.pattern!r}")
        return match

    def wait(self):
        """Waits until every process started by us has ended; returns their Results in order of rank."""
        with self._changed:
            while any(process.seconds is None for process in self._processes):
                running = [process.rank for process in self._processes if process.seconds is None]
                self._wait_for_change(f"still running: rank {', '.join(map(str, running))}")
        for process in self._processes:
            process.finish_reading()
        return [Result(process.rank, process.popen.returncode, process.seconds, process.text("stdout"),
                       process.text("stderr")) for process in self._processes]

    def processes(self):
        """Ids of all living processes of this world, started by us or by them."""
        return sorted(marked_processes(self.mark))

    # ---- Waiting ----

    def _still_reading(self, processes):
        return any(thread.is_alive() for process in processes for thread in process._threads[:2])

    def _wait_for_change(self, what):
        """Called with the lock. Looks again now and then all the same: the end of a pipe notifies nobody."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{what} after {self._deadline_seconds} s{self._everything_said()}")
        self._changed.wait(min(left, 0.1))

    def _everything_said(self):
        parts = []
        for process in self._processes:
            for name, lines in process.lines.items():
                if lines:
                    parts.append(f"\n---- rank {process.rank} {name}\n{''.join(lines[-30:])}")
        return "".join(parts)
