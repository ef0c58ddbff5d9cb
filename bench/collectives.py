#!/usr/bin/env python3
"""Reduce-scatter, all-gather and all-reduce of two ranks beside c10d's own, and beside the time on the wire.

    sudo bench/collectives.py --rounds 3 --out docs/benchmarks/collectives.jsonl

13.3 MB (a GPT of 3.3 M parameters) on links shaped to 280 and 140 Mbit/s, 64 MiB over loopback. Runs bench/comm_bench and
bench/peers/c10d_collectives.py; "torch by hand" is the same exchange made of isend and irecv from Python. The time on the
wire is a rank's payload in one direction divided by the rate.
"""

import statistics

from rounds import KEEPS_MEMORY, PYTHON, ROOT, Rounds, lines_of, on_shaped_link, parser, print_table, spread

LINKS = {"280mbit": 13_293_568, "140mbit": 13_293_568, "": 64 << 20}  # rate: bytes; no rate: loopback
CONTENDERS = {
    "outstep": [ROOT / "build/default/bench/comm_bench"],
    "torch": [PYTHON, ROOT / "bench/peers/c10d_collectives.py"],
}
OPERATIONS = ["reduce_scatter", "all_gather", "reduce_scatter_all_gather", "all_reduce"]


def main():
    arguments = parser(__doc__, rounds=3).parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    for key in rounds.missing({"link": link, "contender": name} for link in LINKS for name in CONTENDERS):
        link = key["link"]
        flags = ["--bytes", LINKS[link], "--iterations", 10 if link else 30] + (["--rate", link] if link else [])
        command = on_shaped_link(link, *CONTENDERS[key["contender"]], *flags)
        rounds.add(key, lines_of(command, KEEPS_MEMORY | {"OMP_NUM_THREADS": "1"}))
    for link, num_bytes in LINKS.items():
        rows = []
        for operation in OPERATIONS:
            ours = rounds.values("median_seconds", link=link, contender="outstep", operation=operation)
            theirs = rounds.values("median_seconds", link=link, contender="torch", operation=operation)
            by_hand = rounds.values("median_seconds", link=link, contender="torch", operation=operation + "_by_hand")
            row = [operation, spread([1e3 * value for value in ours]), spread([1e3 * value for value in theirs]),
                   spread([1e3 * value for value in by_hand]) if by_hand else "",
                   f"{statistics.median(theirs) / statistics.median(ours):.2f}"]
            if link:
                row += [f"{rounds.median('wire_seconds', link=link, contender='outstep', operation=operation) * 1e3:.1f}"]
                row += [f"{rounds.median('ratio_to_wire', link=link, contender=name, operation=operation):.2f}"
                        for name in CONTENDERS]
            rows.append(row)
        print(f"\n{link or 'loopback'}, {num_bytes:,} bytes\n")
        print_table(["operation", "outstep, ms", "torch, ms", "torch by hand, ms", "torch ÷ outstep"] +
                    (["wire, ms", "outstep ÷ wire", "torch ÷ wire"] if link else []), rows)


if __name__ == "__main__":
    main()
