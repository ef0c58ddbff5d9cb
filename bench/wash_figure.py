"""wash_quality.py's figure: accuracy of the average over what a rank sent, on Fashion-MNIST with 3 members."""

import math
import statistics

import svg

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 460, 62, 30, 68, 52
GAP = 70  # between the axis, where nothing is sent, and the least traffic
ACCURACIES = (10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 92, 94, 96)
COLOURS = {"none": svg.BLACK, "papa": svg.ORANGE, "wash": svg.BLUE, "wash_opt": svg.SKY, "dart": svg.GREEN}
INITS = ("same", "independent")  # filled and hollow
TEXT_WIDTH, TEXT_HEIGHT = 6.3, 13  # of a letter of 12 pixels, about


class Axes:
    def __init__(self, points):
        sent = [point["megabytes"] for point in points if point["megabytes"] > 0] or [1]
        self.decades = range(math.floor(math.log10(min(sent))), math.ceil(math.log10(max(sent))) + 1)
        least, most = min(point["least"] for point in points), max(max(point["most"], point["ensemble"]) for point in points)
        self.ticks = [a for a in ACCURACIES if least - 10 <= a <= most + (100 - most) / 4]
        self._worst, self._best = 100 - least + 2, (100 - most) * 0.8

    def x(self, megabytes):
        if megabytes <= 0:
            return LEFT + 12
        share = (math.log10(megabytes) - self.decades[0]) / max(len(self.decades) - 1, 1)
        return LEFT + GAP + (WIDTH - LEFT - RIGHT - GAP) * share

    def y(self, accuracy):
        """By the logarithm of the error: small differences near the top count as much as large ones far below."""
        share = math.log(self._worst / (100 - accuracy)) / math.log(self._worst / self._best)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def draw(self, picture):
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        for accuracy in self.ticks:
            if not TOP - 1 <= self.y(accuracy) <= bottom + 1:
                continue
            picture.line([(LEFT, self.y(accuracy)), (right, self.y(accuracy))], "#dddddd")
            picture.text(LEFT - 8, self.y(accuracy) + 4, f"{accuracy} %", "end")
        for decade in self.decades:
            x = self.x(10.0**decade)
            picture.line([(x, bottom), (x, bottom + 5)])
            picture.text(x, bottom + 19, f"{10.0**decade:g}", "middle")
        picture.text(self.x(0), bottom + 19, "0", "middle")
        picture.line([(LEFT, TOP), (LEFT, bottom), (right, bottom)])
        picture.line([(LEFT + GAP - 24, bottom + 5), (LEFT + GAP - 16, bottom - 5)])  # the axis is broken there
        picture.text((LEFT + right) / 2, HEIGHT - 14, "megabytes sent by a rank in the whole run", "middle")


def points_of(results, methods):
    points = []
    for init in INITS:
        for method in methods:
            found = results.find(data="fashion_mnist", init=init, regularization="same", members=3, method=method)
            if not found:
                continue
            averages = [line["average"] for line in found]
            points.append({"init": init, "method": method, "mean": statistics.mean(averages), "least": min(averages), "most": max(averages),
                           "megabytes": statistics.mean(line["bytes_sent"] for line in found) / 1e6,
                           "ensemble": statistics.mean(line["ensemble"] for line in found)})
    return points


def place_label(x, y, text, taken):
    """Left end and base line of a text beside a dot, at the first place that nothing has taken; and notes what it takes."""
    width = TEXT_WIDTH * len(text)
    places = [(x + 9, y + 4), (x - 9 - width, y + 4), (x - width / 2, y - 10), (x - width / 2, y + 19)]
    places += [(side, y + 4 + sign * distance) for distance in range(14, 120, 13) for sign in (-1, 1)
               for side in (x + 9, x - 9 - width)]

    def is_free(left, base):
        box = (left, base - TEXT_HEIGHT + 3, left + width, base + 3)
        inside = box[0] > LEFT + 2 and box[2] < WIDTH and box[1] > TOP - 20 and box[3] < HEIGHT - BOTTOM
        return inside and not any(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken)

    left, base = next((place for place in places if is_free(*place)), places[0])
    taken.append((left, base - TEXT_HEIGHT + 3, left + width, base + 3))
    return left, base


def draw(path, results, methods):
    points = points_of(results, methods)
    if not points:
        return
    picture, axes = svg.Picture(WIDTH, HEIGHT), Axes(points)
    axes.draw(picture)
    picture.text(LEFT, 22, "Accuracy of the average of three models over what each sent", size=14)
    for i, init in enumerate(INITS):
        picture.dot(LEFT + 6 + 260 * i, 42, svg.BLACK, init != "same")
        picture.text(LEFT + 16 + 260 * i, 46, "from one initialisation" if init == "same" else "each from an initialisation of its own")
    taken = []
    reference = next((point["ensemble"] for point in points if point["method"] == "none" and point["init"] == "same"), None)
    if reference:
        y, text = axes.y(reference), "ensemble of three that share nothing"
        picture.line([(LEFT, y), (WIDTH - RIGHT, y)], svg.GREY, 1, "5 4")
        picture.text(LEFT + 24, y - 5, text, colour=svg.GREY)
        taken.append((LEFT, y - 5 - TEXT_HEIGHT, LEFT + 24 + TEXT_WIDTH * len(text), y))
    for point in points:
        point["x"], point["y"] = axes.x(point["megabytes"]), axes.y(point["mean"])
        taken.append((point["x"] - 6, point["y"] - 6, point["x"] + 6, point["y"] + 6))
    for point in points:
        colour = COLOURS[point["method"].partition(",")[0].partition(" ")[0]]
        picture.line([(point["x"], axes.y(point["least"])), (point["x"], axes.y(point["most"]))], colour, 2)
        picture.dot(point["x"], point["y"], colour, point["init"] != "same")
        left, base = place_label(point["x"], point["y"], point["method"], taken)
        picture.text(left, base, point["method"], colour=colour)
    picture.save(path)
