#!/usr/bin/env python3
"""Runs a rank's command on a core of its own, and one rank slowly: it is stopped and continued by signals.

    build/default/bin/outstep launch -n 2 -- bench/slowed.py --rank 1 --share 0.25 -- COMMAND …

The slow rank computes for --share of each period of 40 ms, and for the rest nothing of it runs, as on a machine that others
use as well. The other rank's command just takes this process's place.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time

PERIOD = 0.04  # seconds; short beside a micro-batch, long beside a signal


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped process is nobody's


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rank", type=int, default=1, help="the slow one")
    options.add_argument("--share", type=float, default=0.25, help="of the time in which it runs")
    options.add_argument("command", nargs="+")
    arguments = options.parse_args()
    rank = int(os.environ["RANK"])
    os.sched_setaffinity(0, {rank % os.cpu_count()})
    if rank != arguments.rank:
        os.execvp(arguments.command[0], arguments.command)
    slow = subprocess.Popen(arguments.command, preexec_fn=end_with_parent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.monotonic()
    while slow.poll() is None:
        slow.send_signal(signal.SIGCONT)
        time.sleep(PERIOD * arguments.share)
        slow.send_signal(signal.SIGSTOP)
        begin += PERIOD
        time.sleep(max(0, begin - time.monotonic()))
    sys.exit(slow.returncode)


if __name__ == "__main__":
    main()
