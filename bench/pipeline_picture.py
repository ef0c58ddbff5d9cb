#!/usr/bin/env python3
"""What two pipeline stages do at the same time: some ticks of PETRA from a trace, as a picture.

    bench/pipeline_picture.py --data cifar-10-batches-bin --out docs/benchmarks/petra_trace.svg
    sudo bench/pipeline_picture.py --data cifar-10-batches-bin --rate 4gbit --out picture.svg

Runs two stages of RevNet-18 with `outstep train --trace`. Prints how much of its time each stage waits, and how much of the
time that messages take to come in lies behind computing; with --rate on a link of that rate.
"""

import argparse
import pathlib
import tempfile

import svg
import trace_picture
from rounds import PROGRAM, ROOT, on_shaped_link, output_of, print_table
from trace_picture import LEFT, RIGHT, TOP, TRACK, TRACKS, WIDTH, draw_axis, draw_legend, draw_track, read

COLOURS = {"forward": svg.SKY, "backward": svg.BLUE, "wait": "#dddddd", "activations": svg.ORANGE, "gradients": svg.GREEN}
NUM_TICKS = 5


def spans_of(spans, name):
    """By micro-batch."""
    return {span["step"]: span for span in spans if span["name"] == name}


def align(stages):
    """Puts stage 1's times on stage 0's clock: each counts from its own start, and no message arrives before it is sent."""
    first, second = stages
    forward, activations = spans_of(first, "forward"), spans_of(second, "activations")
    backward, gradients = spans_of(second, "backward"), spans_of(first, "gradients")
    least = max(forward[m]["end"] - activations[m]["end"] for m in forward.keys() & activations.keys())
    most = min(gradients[m]["end"] - backward[m]["end"] for m in backward.keys() & gradients.keys())
    for span in second:
        span["begin"] += (least + most) / 2
        span["end"] += (least + most) / 2


def overlap(one, others):
    return sum(max(0, min(one["end"], other["end"]) - max(one["begin"], other["begin"])) for other in others)


def shares(spans):
    """Of the second half of the time: waiting; and of the time that messages take, what computing hides."""
    half = [span for span in spans if span["begin"] > (spans[0]["begin"] + spans[-1]["end"]) / 2]
    total = half[-1]["end"] - half[0]["begin"]
    waits = [span for span in half if span["name"] == "wait"]
    messages = [span for span in half if span["name"] in ("activations", "gradients")]
    coming = sum(span["end"] - span["begin"] for span in messages)
    exposed = sum(overlap(span, waits) for span in messages)
    return sum(span["end"] - span["begin"] for span in waits) / total, 1 - exposed / coming if coming else 1


def draw(path, stages):
    backward = sorted(spans_of(stages[0], "backward").values(), key=lambda span: span["begin"])
    middle = len(backward) // 2
    begin, end = backward[middle]["end"], backward[middle + NUM_TICKS]["end"]
    margin = (end - begin) / 60
    height = TOP + len(stages) * (2 * TRACK + 30) + 64
    picture = svg.Picture(WIDTH, height)

    def x_of(time):
        return LEFT + (WIDTH - LEFT - RIGHT) * (time - begin + margin) / (end - begin + 2 * margin)

    picture.text(LEFT, 22, f"{NUM_TICKS} ticks of PETRA: two stages, what each computes, and what comes in beside it", size=14)
    y = TOP - 20
    for stage, spans in enumerate(stages):
        for track in TRACKS:
            picture.text(LEFT - 10, y + TRACK / 2 + 4, f"stage {stage}, {track}", "end")
            picture.box(LEFT, y, WIDTH - LEFT - RIGHT, TRACK, "#f6f6f6")
            shown = [dict(span) for span in spans if span["track"] == track]
            draw_track(picture, shown, y, x_of, begin - margin, end + margin, [])
            y += TRACK + 6
        y += 24
    draw_axis(picture, x_of, begin, end, height - 58)
    draw_legend(picture, height - 10)
    picture.save(path)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=pathlib.Path, required=True, help="folder of CIFAR-10's binary files")
    options.add_argument("--steps", type=int, default=10, help="of four micro-batches (10)")
    options.add_argument("--rate", help="of the link between the stages, as 4gbit; loopback if not given")
    options.add_argument("--out", type=pathlib.Path, required=True, help="the picture, SVG")
    arguments = options.parse_args()
    trace_picture.COLOURS = COLOURS
    with tempfile.TemporaryDirectory(prefix="outstep-bench-") as folder:
        run = pathlib.Path(folder) / "run"
        command = [PROGRAM, "train", ROOT / "bench/revnet18_petra.toml", "--engine.name=petra", "--mesh.stages=2",
                   "--train.accumulation=4", f"--train.steps={arguments.steps}", f"--data.path={arguments.data.resolve()}",
                   f"--run-dir={run}", "--trace"]
        output_of(on_shaped_link(arguments.rate, *command) if arguments.rate else command, {"OMP_NUM_THREADS": "1"})
        stages = [read(run / f"trace-{rank}.json") for rank in range(2)]
    for spans in stages:
        spans.sort(key=lambda span: span["begin"])
    align(stages)
    rows = [[stage, f"{100 * waiting:.1f} %", f"{hidden:.3f}"] for stage, (waiting, hidden) in enumerate(map(shares, stages))]
    print_table(["stage", "waits", "overlap"], rows)
    draw(arguments.out, stages)


if __name__ == "__main__":
    main()
