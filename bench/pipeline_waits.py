#!/usr/bin/env python3
"""Schedules of a pipeline run for real with timed waits in place of computing, beside the virtual clock of `outstep plan`.

    bench/pipeline_waits.py --out docs/benchmarks/petra_waits.jsonl

Block times are those of a RevNet-34 of width 16 on this machine (18 blocks, micro-batches of 64 images), twice as long; 16
micro-batches a step for schedules that flush. Also what the executor takes for a micro-batch when nothing waits. Measurements
already in --out are not repeated.
"""

from rounds import ROOT, Rounds, lines_of, parser, print_table

BENCH = ROOT / "build/default/bench/pipeline_bench"
STAGES = (4, 8, 10, 18)
MODES = ("gpipe", "1f1b", "reversible", "delayed", "pipedream", "dsp", "reversible_stash", "approx_input", "petra")


def main():
    arguments = parser(__doc__, rounds=1).parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    keys = [{"mode": mode, "stages": stages, "stretch": 2} for stages in STAGES for mode in MODES]
    overhead = [{"mode": mode, "stages": 2, "stretch": 0} for mode in ("petra", "1f1b")]
    for key in rounds.missing(keys + overhead):
        flags = [f"--{flag}={key[name]}" for flag, name in (("modes", "mode"), ("stages", "stages"), ("stretch", "stretch"))]
        rounds.add(key, lines_of([BENCH, *flags]))
    rows = []
    for key in keys:
        clock, measured, alone, bubble, in_use, memory = (rounds.median(name, **key) for name in (
            "clock_seconds", "measured_seconds", "one_process_seconds", "clock_bubble", "measured_bubble", "bytes"))
        rows.append([key["stages"], key["mode"], f"{1e3 * clock:.1f}", f"{1e3 * measured:.1f}", f"{measured / clock:.3f}",
                     f"{alone / measured:.2f}", f"{100 * bubble:.0f} %", f"{100 * in_use:.0f} %", f"{memory / 1e6:.0f}"])
    print_table(["stages", "mode", "clock, ms", "measured, ms", "ratio", "÷ one process", "bubble, clock", "measured",
                 "MB, graphs left out"], rows)
    for key in overhead:
        print(f"{key['mode']}, nothing waits: {1e3 * rounds.median('measured_seconds', **key):.2f} ms a micro-batch")


if __name__ == "__main__":
    main()
