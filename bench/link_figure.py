"""acco.py's figure: shares of the ceiling over links, measured (dots, with their range) and by overlap_model.py (lines)."""

import math
import statistics

import overlap_model as model
import svg

NONE, DYNAMIC = "outstep none", "outstep acco"
# label: contenders of which the best counts, colour, model, whether its updates are always of 2 micro-batches, hollow dots
SERIES = {
    "acco": ([DYNAMIC], svg.BLUE, model.dynamic_acco, False, False),
    "dpu": (["outstep dpu"], svg.PINK, None, False, False),  # the model's line is acco's
    "zero1 overlap": (["outstep zero1 overlap"], svg.GREEN, model.overlapped_zero1, False, False),
    "ddp": (["outstep ddp"], svg.ORANGE, model.bucketed_ddp, False, False),
    "torch ddp, 1–2 MB": (["torch ddp-1mb", "torch ddp-2mb"], svg.ORANGE, None, False, True),
    "zero1": (["outstep zero1"], svg.RED, model.lockstep, False, False),
    "torch zero": (["torch zero"], svg.GREY, model.zero_redundancy_optimizer, False, True),
    "acco fixed, 1 + 1": (["outstep acco fixed"], svg.SKY, model.fixed_acco, True, False),
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 60, 175, 44, 52
LEAST, MOST = 0.21, 4.8  # of c, on the axis


def x_of(c):
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(c / LEAST) / math.log(MOST / LEAST)


def y_of(share):
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share / 1.05


def measured(rounds, names, c):
    """Least, median and most share of the ceiling; None if that was not measured."""
    ceiling = rounds.values("tokens_per_second", c=c, contender=NONE)
    series = [rounds.values("tokens_per_second", c=c, contender=name) for name in names]
    best = max(filter(None, series), key=statistics.median, default=None)
    if not ceiling or not best:
        return None
    sizes = [rounds.median("update", c=c, contender=name) for name in (NONE, names[0])]
    if names == [DYNAMIC] and round(sizes[0]) != round(sizes[1]):
        return None  # its updates are larger than the others' there
    return [value / statistics.median(ceiling) for value in (best[0], statistics.median(best), best[-1])]


def size_of_update(rounds, cs):
    """c → micro-batches a rank, between the measured links by the logarithm of c."""
    sizes = [statistics.median(rounds.values("update", c=c, contender=NONE)) for c in cs]

    def at(c):
        if c <= cs[0] or len(cs) == 1:
            return sizes[0]
        i = next((i for i, right in enumerate(cs) if c <= right), len(cs) - 1)
        part = min(1, math.log(c / cs[i - 1]) / math.log(cs[i] / cs[i - 1]))
        return sizes[i - 1] + part * (sizes[i] - sizes[i - 1])

    return at


def draw_axes(picture, cs):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tenths in range(0, 11, 2):
        y = y_of(tenths / 10)
        picture.line([(LEFT, y), (right, y)], "#dddddd")
        picture.text(LEFT - 8, y + 4, f"{tenths / 10:.1f}", "end")
    for c in cs:
        picture.line([(x_of(c), bottom), (x_of(c), bottom + 5)])
        picture.text(x_of(c), bottom + 19, f"{c:g}", "middle")
    picture.line([(LEFT, TOP), (LEFT, bottom), (right, bottom)])
    picture.text((LEFT + right) / 2, HEIGHT - 14, "c: time on the wire of an exchange ÷ compute of a micro-batch "
                 "(slower links to the right)", "middle")
    picture.text(20, (TOP + bottom) / 2, "tokens/s ÷ those without communication", "middle", turned=-90)
    picture.text(LEFT, 22, "Two ranks: dots are measured, lines are the model", size=14)


def draw(path, rounds):
    cs = sorted({line["c"] for line in rounds.lines if line.get("contender") == NONE})
    if not cs:
        return
    picture, size, labels = svg.Picture(WIDTH, HEIGHT), size_of_update(rounds, cs), []
    draw_axes(picture, cs)
    for i, (label, (names, colour, takes, is_fixed, is_hollow)) in enumerate(SERIES.items()):
        points = {c: share for c in cs if (share := measured(rounds, names, c))}
        if not points:
            continue
        if takes:
            curve = [LEAST * (MOST / LEAST) ** (part / 200) for part in range(201)]
            ks = [2 if is_fixed else size(c) for c in curve]
            picture.line([(x_of(c), y_of(k / takes(k, c))) for c, k in zip(curve, ks)], colour, 1.5)
        for c, (least, middle, most) in points.items():
            x = x_of(c) + 3 * (i - (len(SERIES) - 1) / 2)  # beside one another
            picture.line([(x, y_of(least)), (x, y_of(most))], colour, 2)
            picture.dot(x, y_of(middle), colour, is_hollow)
        labels.append((y_of(points[max(points)][1]), label, colour, is_hollow))
    y = 0
    for wanted, label, colour, is_hollow in sorted(labels):  # beside the last dot, 17 pixels apart
        y = max(wanted, y + 17)
        picture.dot(WIDTH - RIGHT + 16, y, colour, is_hollow)
        picture.text(WIDTH - RIGHT + 28, y + 4, label)
    picture.save(path)
