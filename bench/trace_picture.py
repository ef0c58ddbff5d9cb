#!/usr/bin/env python3
"""What ACCO's rounds consist of: shares of a round from a trace, and two rounds of two ranks as a picture.

    sudo bench/trace_picture.py --rate 210mbit --out docs/benchmarks/acco_trace.svg

Runs `outstep train bench/gpt_4x256.toml --trace` with sync acco on a link of that rate, or reads --run, the folder of a run
that was made so. Prints for each rank how much of its rounds each span of the compute track is: "swap", "wait", and what no
span covers, which is bookkeeping. A round lasts from the end of a swap to the end of the next; the first two are left out.
"""

import argparse
import json
import pathlib
import statistics
import tempfile

import contenders
import svg
from rounds import lines_of, on_shaped_link, print_table

COLOURS = {"forward": svg.SKY, "backward": svg.BLUE, "wait": "#dddddd", "swap": svg.RED, "reduce_scatter": svg.ORANGE,
           "update": svg.BLACK, "all_gather": svg.GREEN}
LABELS = {"reduce_scatter": "reduce-scatter", "all_gather": "all-gather"}
TRACKS = ("compute", "communication")
WIDTH, LEFT, RIGHT, TOP, TRACK, GAP = 1100, 165, 20, 76, 34, 12


def read(path):
    """Spans of one rank's trace, by begin: name, track, begin and end in milliseconds, step."""
    events = json.loads(path.read_text())["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return [{"name": event["name"], "track": tracks[event["tid"]], "begin": event["ts"] / 1e3,
             "end": (event["ts"] + event["dur"]) / 1e3, "step": event["args"].get("step")}
            for event in events if event["ph"] == "X"]


def ends_of_swaps(spans):
    return [span["end"] for span in spans if span["name"] == "swap"]


def shares(spans):
    """Of the rounds but the first two: span's name → share of their time; "other" is what no span covers."""
    ends = ends_of_swaps(spans)[2:]
    total, result = ends[-1] - ends[0], {}
    for span in spans:
        if span["track"] == "compute" and ends[0] <= span["begin"] < ends[-1]:
            result[span["name"]] = result.get(span["name"], 0) + (span["end"] - span["begin"]) / total
    return result | {"other": 1 - sum(result.values())}, total / (len(ends) - 1)


def align(ranks):
    """Puts rank 1's times on rank 0's clock. Each counts from its own start; but an all-gather ends for both when the last
    bytes have crossed, at about the same time."""
    ends = [[span["end"] for span in spans if span["name"] == "all_gather"] for spans in ranks]
    shift = statistics.median(first - second for first, second in zip(*ends))
    for span in ranks[1]:
        span["begin"] += shift
        span["end"] += shift


def commit_in_the_middle(spans):
    """When its two rounds begin, change, and end on rank 0."""
    ends, steps = ends_of_swaps(spans), [span["step"] for span in spans if span["name"] == "swap"]
    first = next(i for i in range(len(steps) // 2, len(steps) - 1) if steps[i] == steps[i + 1])
    return ends[first - 1], ends[first], ends[first + 1]


def draw_track(picture, spans, y, x_of, begin, end, update_names):
    for span in spans:
        if span["end"] <= begin or span["begin"] >= end:
            continue
        left, right = x_of(max(span["begin"], begin)), x_of(min(span["end"], end))
        picture.box(left, y, max(right - left, 1.5), TRACK, COLOURS.get(span["name"], svg.PINK))
        label = LABELS.get(span["name"], span["name"])
        if right - left > 7 * len(label):
            colour = svg.BLACK if span["name"] in ("forward", "wait", "reduce_scatter") else "white"
            picture.text((left + right) / 2, y + TRACK / 2 + 4, label, "middle", colour)
        if span["name"] == "update" and update_names:
            picture.text(right, y + TRACK + 13, update_names.pop(0), "middle")


def draw(path, ranks):
    begin, middle, end = commit_in_the_middle(ranks[0])
    margin = (end - begin) / 60
    height = TOP + sum(2 * TRACK + 6 + 3 * GAP for _ in ranks) + 64
    picture = svg.Picture(WIDTH, height)

    def x_of(time):
        return LEFT + (WIDTH - LEFT - RIGHT) * (time - begin + margin) / (end - begin + 2 * margin)

    picture.text(LEFT, 22, "Two rounds of ACCO, one commit: each rank's computing, and its communication beside it", size=14)
    swaps = (begin, "start", ""), (middle, "middle", "rank 0 swaps: live ← θ̃"), (end, "end", "rank 0 swaps: live ← θ")
    for time, at, label in swaps:
        picture.text(x_of(time), TOP - 8, label, at)
        picture.line([(x_of(time), TOP - 4), (x_of(time), height - 60)], svg.RED, 1, "3 3")
    for left, right, label in ((begin, middle, "estimate round"), (middle, end, "commit round")):
        picture.text((x_of(left) + x_of(right)) / 2, TOP - 26, label, "middle", "#555555")
    y = TOP
    for rank, spans in enumerate(ranks):
        for track in TRACKS:
            picture.text(LEFT - 10, y + TRACK / 2 + 4, f"rank {rank}, {track}", "end")
            picture.box(LEFT, y, WIDTH - LEFT - RIGHT, TRACK, "#f6f6f6")
            updates = ["tentative step", "commit"] if track == "communication" else []
            draw_track(picture, [span for span in spans if span["track"] == track], y, x_of, begin - margin, end + margin,
                       updates)
            y += TRACK + 6
        y += 3 * GAP - 6
    draw_axis(picture, x_of, begin, end, height - 58)
    draw_legend(picture, height - 10)
    picture.save(path)


def draw_axis(picture, x_of, begin, end, y):
    tick = next(tick for tick in (50, 100, 200, 250, 500, 1000, 2000, 5000, 10000) if (end - begin) / tick <= 12)
    picture.line([(LEFT, y), (WIDTH - RIGHT, y)])
    for i in range(int((end - begin) / tick) + 1):
        x = x_of(begin + i * tick)
        picture.line([(x, y), (x, y + 5)])
        picture.text(x, y + 18, f"{i * tick} ms" if i else "0", "middle")


def draw_legend(picture, y):
    x = LEFT
    for name, colour in COLOURS.items():
        label = LABELS.get(name, name)
        picture.box(x, y - 10, 12, 12, colour)
        picture.text(x + 17, y, label)
        x += 17 + 7 * len(label) + 24


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rate", default="210mbit", help="of the link (210mbit)")
    options.add_argument("--steps", type=int, default=20, help="micro-batches a rank (20)")
    options.add_argument("--run", type=pathlib.Path, help="folder of a run with --trace, to read instead")
    options.add_argument("--out", type=pathlib.Path, required=True, help="the picture, SVG")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
        run = arguments.run or pathlib.Path(folder) / "run"
        if not arguments.run:
            command = contenders.outstep("acco", arguments.steps, folder, trace=True)
            lines_of(on_shaped_link(arguments.rate, *command))
        ranks = [read(run / f"trace-{rank}.json") for rank in (0, 1)]
    parts = [shares(spans) for spans in ranks]
    names = sorted({name for part, _ in parts for name in part}, key=lambda name: -parts[0][0].get(name, 0))
    print_table(["rank", "a round, ms", *names], [
        [rank, f"{seconds:.0f}", *(f"{100 * part.get(name, 0):.2f} %" for name in names)]
        for rank, (part, seconds) in enumerate(parts)])
    align(ranks)
    draw(arguments.out, ranks)


if __name__ == "__main__":
    main()
