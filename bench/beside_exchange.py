#!/usr/bin/env python3
"""Runs a rank's command with an exchange beside it that never ends: what the processor pays for a transfer.

    bench/shaped_link.sh --rate 140mbit --pin -- bench/beside_exchange.py --bytes 13031424 --folder FOLDER -- COMMAND …

bench/comm_bench reduce-scatters and all-gathers with the other rank without pause, on this rank's core. After the command's
own output comes a JSON line with the exchanges per second, by the bytes that the link sent while the command ran. No exchange
ends before the commands of both ranks have; --folder is where they tell each other.
"""

import argparse
import json
import os
import pathlib
import subprocess
import time

from rounds import ROOT

START_SECONDS = 2.5  # until comm_bench exchanges: connecting, and checking its result


def sent_bytes():
    """By this namespace's end of the link."""
    return int(pathlib.Path("/sys/class/net/link0/statistics/tx_bytes").read_text())


def meet(folder, rank):
    (folder / f"done-{rank}").touch()
    until = time.monotonic() + 60
    while not all((folder / f"done-{other}").exists() for other in (0, 1)) and time.monotonic() < until:
        time.sleep(0.01)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bytes", type=int, required=True, help="of the vector")
    options.add_argument("--folder", type=pathlib.Path, required=True, help="empty, and both ranks'")
    options.add_argument("command", nargs="+")
    arguments = options.parse_args()
    exchange = subprocess.Popen(
        [ROOT / "build/default/bench/comm_bench", "--operation", "reduce_scatter_all_gather",
         "--iterations", "1000000000", "--bytes", str(arguments.bytes)], stdout=subprocess.DEVNULL)
    try:
        time.sleep(START_SECONDS)
        begin, bytes_before = time.monotonic(), sent_bytes()
        subprocess.run(arguments.command, check=True)
        seconds, num_bytes = time.monotonic() - begin, sent_bytes() - bytes_before
        if exchange.poll() is not None:
            raise SystemExit("the exchange ended before the command did")
        meet(arguments.folder, int(os.environ["RANK"]))
    finally:
        exchange.kill()
    # Of a vector, a rank of two sends one half as gradients and the other as parameters.
    print(json.dumps({"exchanges_per_second": num_bytes / arguments.bytes / seconds}), flush=True)


if __name__ == "__main__":
    main()
