"""Draws an SVG picture, readable on white: lines, boxes, dots and words in pixels from the upper left corner."""

import html

# Okabe and Ito's colours, which people who are colour-blind can tell apart; the yellow is too pale for lines.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#888888")


class Picture:
    def __init__(self, width, height):
        self._parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                       f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
                       f'<rect width="{width}" height="{height}" fill="white"/>']

    def _add(self, tag, text=None, **attributes):
        words = " ".join(f'{name.replace("_", "-")}="{round(value, 1) if isinstance(value, float) else value}"'
                         for name, value in attributes.items() if value is not None)
        self._parts.append(f"<{tag} {words}/>" if text is None else f"<{tag} {words}>{html.escape(text)}</{tag}>")

    def line(self, points, colour=BLACK, width=1, dashes=None):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polyline", points=path, fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dashes)

    def box(self, x, y, width, height, colour):
        self._add("rect", x=x, y=y, width=width, height=height, fill=colour)

    def dot(self, x, y, colour, hollow=False):
        self._add("circle", cx=x, cy=y, r=4, fill="white" if hollow else colour, stroke=colour, stroke_width=2)

    def text(self, x, y, text, anchor="start", colour=BLACK, size=None, turned=None):
        self._add("text", text, x=x, y=y, text_anchor=anchor, fill=colour, font_size=size,
                  transform=f"rotate({turned} {x:.1f} {y:.1f})" if turned else None)

    def save(self, path):
        path.write_text("\n".join([*self._parts, "</svg>"]) + "\n")
