#!/usr/bin/env python3
"""ACCO over links of any speed, beside Outstep's and PyTorch's lockstep methods and beside the ceiling, in one run.

    sudo bench/acco.py --rounds 3 --out docs/benchmarks/acco.jsonl --figure docs/benchmarks/acco_links.svg

Two ranks, a core and a thread each, train the GPT of bench/gpt_4x256.toml in float32. A link is given as c, the time that a
reduce-scatter and an all-gather need on the wire over one micro-batch's compute: two processes that do not communicate say at
first what that compute is, and the rates follow; both are kept in --out. PyTorch runs with a glibc that keeps freed memory.

Rivals make updates of as many tokens as ACCO: 2 micro-batches a rank where c <= 1, as with fixed counts; beyond, as many as
dynamic counts came to in the first round. At c = 1 and 4 zero1 is measured at the other of the two sizes as well, for the
ratios to it. Transfers cost the processor something themselves: how much an exchange costs is measured with "none beside an
exchange" (bench/beside_exchange.py), and the column "transfer off" is the share of the ceiling without it.

Prints a table for each link; its last column is the share that bench/overlap_model.py predicts. A contender makes as many
updates as take --seconds by that model, one at least, after one that is not timed. Measurements already in --out are not
repeated; --links and --contenders choose some.
"""

import pathlib
import statistics
import sys
import tempfile
import typing

import contenders
import link_figure
import overlap_model as model
from rounds import KEEPS_MEMORY, PYTHON, ROOT, Rounds, lines_of, on_shaped_link, parser, print_table, spread

LINKS = (0.25, 0.5, 1, 2, 4)
FIXED = 2  # micro-batches a rank and commit with fixed counts: 1 + 1


class Contender(typing.NamedTuple):
    runs: str  # "outstep": a sync; "torch": a mode; "alone": two worlds of one; "beside": these with an exchange
    what: str = "none"
    settings: tuple = ()
    takes: typing.Callable = lambda k, c: k  # an update, by the model
    size: str = "same"  # of its updates: "same", "other", "fixed" or "dynamic", see above
    links: tuple = LINKS
    exchanges: int = 0  # an update, that "transfer off" takes off


DYNAMIC, NONE, BESIDE = "outstep acco", "outstep none", "outstep none beside an exchange"
OVERLAP = ("sync.overlap=true",)
SOME = (1, 4)
CONTENDERS = {  # the first says how large the others' updates are
    DYNAMIC: Contender("outstep", "acco", ("log.every=1",), model.dynamic_acco, "dynamic", exchanges=2),
    NONE: Contender("alone"),
    BESIDE: Contender("beside"),
    "outstep acco fixed": Contender("outstep", "acco", ("sync.counts=fixed",), model.fixed_acco, "fixed", exchanges=2),
    "outstep dpu": Contender("outstep", "dpu", ("sync.counts=fixed",), model.delayed, exchanges=1),
    "outstep zero1": Contender("outstep", "zero1", (), model.lockstep),
    "outstep zero1, other size": Contender("outstep", "zero1", (), model.lockstep, "other", SOME),
    "outstep zero1 overlap": Contender("outstep", "zero1", OVERLAP, model.overlapped_zero1),
    "outstep zero1 overlap, other size": Contender("outstep", "zero1", OVERLAP, model.overlapped_zero1, "other", SOME),
    "outstep ddp": Contender("outstep", "ddp", (), model.bucketed_ddp),
    "torch none": Contender("torch", "none", links=(1,)),
    "torch ddp": Contender("torch", "ddp", (), model.lockstep, links=SOME),
    "torch ddp-1mb": Contender("torch", "ddp-1mb", (), model.bucketed_ddp),
    "torch ddp-2mb": Contender("torch", "ddp-2mb", (), model.bucketed_ddp),
    "torch zero": Contender("torch", "zero", (), model.zero_redundancy_optimizer, links=SOME),
    "torch zero1": Contender("torch", "zero1", (), model.torch_zero1, links=SOME),
}


class Links:
    """What the file knows: compute of a micro-batch, the links' rates, and updates' sizes."""

    def __init__(self, rounds, seconds):
        self._rounds, self._seconds = rounds, seconds
        if not any("compute_seconds" in line for line in rounds.lines):
            rounds.add({"what": "calibration"}, [self._calibrate()])
        line = next(line for line in rounds.lines if "compute_seconds" in line)
        self.compute_seconds, self.vector_bytes = line["compute_seconds"], 4 * line["parameters"]

    def _calibrate(self):
        with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
            command = contenders.outstep_alone(max(3, 2 * self._seconds), folder)
            rate = lines_of(on_shaped_link("1gbit", *command))[0]["tokens_per_second"]
            parameters = contenders.metrics(f"{folder}/0/run", "start")[0]["parameters"]
        return {"compute_seconds": contenders.BATCH_TOKENS / rate, "parameters": parameters}

    def rate(self, c):
        """A rank sends half of the vector in the reduce-scatter, and half in the all-gather."""
        return f"{self.vector_bytes * 8 / (c * self.compute_seconds) / 1e3:.0f}kbit"

    def dynamic_update(self, c):
        """Micro-batches a rank and commit in the first round; None where there is none yet."""
        lines = [line for line in self._rounds.lines if line.get("contender") == DYNAMIC and line.get("c") == c]
        return round(lines[0]["update"]) if lines else None

    def update(self, size, c):
        """Micro-batches a rank in an update of that size; None if that is not known yet, or no other."""
        if size == "dynamic":
            return model.dynamic_update(c)
        if size == "fixed":
            return FIXED
        dynamic = self.dynamic_update(c)
        same, other = (FIXED, dynamic) if c <= 1 else (dynamic, FIXED)
        return same if size == "same" else other if other != same else None


def measure(contender, c, k, links, seconds):
    """A line: tokens per second of both ranks, and micro-batches a rank and update."""
    predicted = contender.takes(k, c) * links.compute_seconds
    is_dynamic = contender.size == "dynamic"
    updates = max(2 if is_dynamic else 1, round(seconds / predicted))  # that are timed; one before them is not
    with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
        if contender.runs == "torch":
            command = contenders.torch(contender.what, updates, k, warmup=1)
        elif contender.runs == "outstep":
            steps, accumulation = (k * (updates + 1), 1) if is_dynamic else (updates + 1, k)
            command = contenders.outstep(contender.what, steps, folder, accumulation, contender.settings)
        else:
            command = contenders.outstep_alone(updates + 1, folder, k)
        if contender.runs == "beside":
            command = [PYTHON, ROOT / "bench/beside_exchange.py", "--bytes", links.vector_bytes, "--folder", folder,
                       "--", *command]
        lines = lines_of(on_shaped_link(links.rate(c), *command), KEEPS_MEMORY if contender.runs == "torch" else None)
        commits = contenders.metrics(f"{folder}/run", "train")[1:] if is_dynamic else []
    worlds = 2 if contender.runs in ("alone", "beside") else 1
    line = {"tokens_per_second": lines[0]["tokens_per_second"] * worlds, "update": k, "rate": links.rate(c)}
    if is_dynamic:  # a line of metrics a commit; the first begins with what nothing travelled beside
        line["update"] = statistics.mean(commit["micro_batches_per_commit"] for commit in commits) / 2
        line["estimate_share"] = statistics.mean(commit["estimate_share"] for commit in commits)
    if "overlap_fraction" in lines[0]:
        line["overlap_fraction"] = lines[0]["overlap_fraction"]
    return line | (lines[1] if contender.runs == "beside" else {})


def exchange_cost_at(rounds, c):
    """Seconds of a micro-batch's compute that an exchange takes away; 0 if that was not measured."""
    beside = rounds.values("tokens_per_second", c=c, contender=BESIDE)
    if not beside:
        return 0
    with_it = 2 * contenders.BATCH_TOKENS / statistics.median(beside)  # a micro-batch of each rank
    without = 2 * contenders.BATCH_TOKENS / rounds.median("tokens_per_second", c=c, contender=NONE)
    return max(0, with_it - without) / (with_it * rounds.median("exchanges_per_second", c=c, contender=BESIDE))


def exchange_cost(rounds):
    """The median over the links up to c = 1: beyond, exchanges are so few that the difference drowns in noise."""
    costs = [cost for c in LINKS if c <= 1 and (cost := exchange_cost_at(rounds, c))]
    return statistics.median(costs) if costs else 0


def hides_all(rounds, c, name):
    """Whether its computing hardly waits, by its own account."""
    return min(rounds.values("overlap_fraction", c=c, contender=name), default=0) > 0.98


def table(rounds, links, c):
    measured = {}  # name: tokens per second, update's size
    for name in CONTENDERS:
        values = rounds.values("tokens_per_second", c=c, contender=name)
        if values:
            measured[name] = values, rounds.median("update", c=c, contender=name)
    if NONE not in measured:
        return
    ceiling, cost, rows = statistics.median(measured[NONE][0]), exchange_cost(rounds), []
    zero1 = {round(k): statistics.median(values) for name, (values, k) in measured.items()
             if name in ("outstep zero1", "outstep zero1, other size")}
    for name, (values, k) in measured.items():
        contender, middle = CONTENDERS[name], statistics.median(values)
        # A micro-batch of each rank, without the transfer; where an update waits for the link, it costs nothing more.
        seconds = 2 * contenders.BATCH_TOKENS / middle - cost * contender.exchanges / k
        takes_off = cost and contender.exchanges and hides_all(rounds, c, name)
        rows.append([name, spread(values, 0), len(values), f"{k:.1f}", f"{middle / ceiling:.3f}",
                     f"{2 * contenders.BATCH_TOKENS / seconds / ceiling:.3f}" if takes_off else "",
                     f"{middle / zero1[round(k)]:.2f}" if round(k) in zero1 else "", f"{k / contender.takes(k, c):.2f}"])
    print(f"\nc = {c:g}, {links.rate(c)}/s\n")
    print_table(["contender", "tokens/s (median, min–max)", "n", "micro-batches an update", "share of the ceiling",
                 "transfer off", "÷ zero1 at that size", "model's share"], rows)


def main():
    options = parser(__doc__, rounds=3)
    options.add_argument("--links", nargs="+", type=float, default=LINKS, metavar="C")
    options.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    options.add_argument("--seconds", type=int, default=5, help="of timed updates, a contender, link and round (5)")
    options.add_argument("--figure", type=pathlib.Path, help="SVG of shares of the ceiling over links")
    arguments = options.parse_args()
    rounds = Rounds(arguments.out, arguments.rounds)
    links = Links(rounds, arguments.seconds)
    for key in rounds.missing({"c": c, "contender": name} for c in arguments.links for name, contender in CONTENDERS.items()
                              if name in arguments.contenders and c in contender.links):
        contender = CONTENDERS[key["contender"]]
        k = links.update(contender.size, key["c"])
        if k is not None:
            rounds.add(key, [measure(contender, key["c"], k, links, arguments.seconds)])
        elif contender.size == "same":
            sys.exit(f"how large {key['contender']}'s updates are, \"{DYNAMIC}\" says: measure that first")
    print(f"one micro-batch: {1e3 * links.compute_seconds:.0f} ms; what an exchange costs the processor: "
          f"{1e3 * exchange_cost(rounds):.0f} ms")
    for c in arguments.links:
        table(rounds, links, c)
    if arguments.figure:
        link_figure.draw(arguments.figure, rounds)


if __name__ == "__main__":
    main()
