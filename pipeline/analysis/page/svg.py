"""Drawings as SVG elements that stand in the page: their colours are the page's, their numbers are titles of marks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from markupsafe import Markup

from pipeline.analysis.page import words

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """From a quantity to a place in the drawing; points outside are put at the end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = True

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * min(1.0, max(0.0, self._share(value)))

    def straight(self, value: float) -> float:
        """Points outside stay there."""
        return self.start + (self.end - self.start) * self._share(value)

    def _share(self, value: float) -> float:
        return (self._of(value) - self._of(self.low)) / ((self._of(self.high) - self._of(self.low)) or 1.0)

    def _of(self, value: float) -> float:
        if not self.log:
            return value
        return math.log(value) if value > 0 else -math.inf

    def ticks(self, most: int = 6) -> list[float]:
        """At round numbers."""
        if not self.log:
            step = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
            step *= next(k for k in (1, 2, 5, 10, 20) if (self.high - self.low) / (k * step) <= most)
            first = math.ceil(self.low / step - 1e-9)
            return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [
                k * 10.0**p for p in powers for k in steps if self.low * 0.999999 <= k * 10.0**p <= self.high * 1.000001
            ]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]


@dataclass
class Drawing:
    """A list of elements with a name for those who do not see it; places are in CSS pixels at full size."""

    width: float
    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, classes: str, title: str = "", text: str = "", **attributes: object) -> None:
        """An element; ``stroke_width=2`` is its attribute ``stroke-width``."""
        named = "".join(
            f' {name.replace("_", "-")}="{_short(value)}"' for name, value in attributes.items() if value != ""
        )
        inside = (f"<title>{escape(title)}</title>" if title else "") + escape(text)
        self.parts.append(f'<{tag} class="{classes}"{named}' + (f">{inside}</{tag}>" if inside else "/>"))

    def line(self, classes: str, points: Sequence[Point], title: str = "") -> None:
        """Through all points."""
        if len(points) > 1:
            self.add("path", classes, title, d="M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points))

    def band(self, classes: str, points: Sequence[Point]) -> None:
        """The inside of a polygon."""
        if len(points) > 2:
            self.add("path", classes, d="M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points) + "Z")

    def text(self, classes: str, at: Point, text: str, anchor: str = "") -> None:
        self.add("text", classes, text=text, x=at[0], y=at[1], text_anchor=anchor)

    def mark(self, kind: int, classes: str, at: Point, title: str = "", size: float = 4.6) -> None:
        """The sign of a group (`palette.MARKS`)."""
        x, y = at
        match kind % 6:
            case 0:
                self.add("circle", classes, title, cx=x, cy=y, r=size)
            case 1:
                self._closed(
                    classes, title, [(x, y - 1.3 * size), (x + 1.3 * size, y), (x, y + 1.3 * size), (x - 1.3 * size, y)]
                )
            case 2:
                self.add("rect", classes, title, x=x - size, y=y - size, width=2 * size, height=2 * size)
            case 3 | 4 as triangle:
                up = 1 if triangle == 3 else -1
                self._closed(
                    classes,
                    title,
                    [(x, y - up * 1.2 * size), (x + 1.2 * size, y + up * size), (x - 1.2 * size, y + up * size)],
                )
            case _:
                self.star(classes, at, title, 1.5 * size)

    def star(self, classes: str, at: Point, title: str = "", size: float = 7.5) -> None:
        """With five points."""
        radii, turn = (size, 0.45 * size), math.pi / 5
        points = [
            (at[0] + radii[i % 2] * math.sin(i * turn), at[1] - radii[i % 2] * math.cos(i * turn)) for i in range(10)
        ]
        self._closed(classes, title, points)

    def cross(self, classes: str, at: Point, title: str = "", size: float = 3.2) -> None:
        x, y, s = _short(at[0]), _short(at[1]), _short(size)
        step = f"{2 * size:g}"
        self.add("path", classes, title, d=f"M{x} {y}m-{s} -{s}l{step} {step}m0 -{step}l-{step} {step}")

    def _closed(self, classes: str, title: str, points: Sequence[Point]) -> None:
        self.add("path", classes, title, d="M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points) + "Z")

    def element(self, classes: str = "") -> Markup:
        """The whole; as wide as it was drawn at most."""
        size = f"{_short(self.width)} {_short(self.height)}"
        style = f'style="max-width:{_short(1.15 * self.width)}px"'
        return Markup(
            f'<svg class="{classes}" role="img" aria-label="{escape(self.label)}" viewBox="0 0 {size}" {style}>'
            f"{''.join(self.parts)}</svg>"
        )


@dataclass
class Panel:
    """A drawing with two axes and a grid."""

    drawing: Drawing
    x: Scale
    y: Scale

    @staticmethod
    def of(
        size: Point, label: str, x: tuple[float, float], y: tuple[float, float], *,
        y_log: bool = False, x_log: bool = True, margins: tuple[float, float, float, float] = (24, 12, 36, 46),
        x_ticks: Sequence[float] | None = None, x_title: str = "", y_title: str = "", most: int = 6,
    ) -> "Panel":  # fmt: skip
        """`margins`: top, right, bottom, left."""
        (width, height), (top, right, bottom, left) = size, margins
        drawing = Drawing(width, height, label)
        panel = Panel(drawing, Scale(*x, left, width - right, x_log), Scale(*y, height - bottom, top, y_log))
        for value in panel.y.ticks():
            place = panel.y(value)
            drawing.line("grid", [(left, place), (width - right, place)])
            text = words.rate(value) if y_log else f"{value:.6g}"
            drawing.text("tick", (left - 6, place + 4), text, "end")
        write = words.rate if x_ticks is None else words.level
        for value in panel.x.ticks(most) if x_ticks is None else x_ticks:
            drawing.text("tick", (panel.x(value), height - bottom + 16), write(value), "middle")
            drawing.line("axis", [(panel.x(value), height - bottom), (panel.x(value), height - bottom + 4)])
        drawing.line("axis", [(left, height - bottom), (width - right, height - bottom)])
        drawing.text("tick", (0, 11), y_title)
        drawing.text("tick", ((left + width - right) / 2, height - 3), x_title, "middle")
        return panel

    def line(self, classes: str, points: Sequence[Point], title: str = "") -> None:
        """Through all points, cut off where it leaves the panel."""
        low, high = sorted((self.y.start, self.y.end))
        places = [(self.x(x), self.y.straight(y)) for x, y in points]
        piece: list[Point] = []
        for start, end in pairwise(places):
            ends = [clip for clip in (_clip(start, end, low, high), _clip(end, start, low, high)) if clip is not None]
            if len(ends) == 2:
                piece = piece or [ends[0]]
                piece.append(ends[1])
            if len(ends) < 2 or ends[1] != end:
                self.drawing.line(classes, piece, title)
                piece = []
        self.drawing.line(classes, piece, title)

    def at(self, x: float, y: float) -> Point:
        return self.x(x), self.y(y)

    def many(self, points: Sequence[Point]) -> list[Point]:
        return [self.at(*point) for point in points]


def apart(widths: Sequence[float], most: int) -> list[float]:
    """Of the widths at most so many, evenly, with the last one."""
    step = -(-len(widths) // most)
    return list(widths[::-1][::step])[::-1]


def _clip(point: Point, other: Point, low: float, high: float) -> Point | None:
    """The point, or where the line from it to the other one enters; None: nowhere."""
    (x, y), (to_x, to_y) = point, other
    if low <= y <= high:
        return point
    edge = low if y < low else high
    if (to_y < edge) == (y < low) and to_y != edge:
        return None
    share = (edge - y) / (to_y - y)
    return x + share * (to_x - x), edge


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))
