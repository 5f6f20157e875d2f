"""LR transfer: what the panels of a group show, decided once for the figure and the interactive charts (paper, Fig.
5)."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fit.exponent import LrLaw
from pipeline.analysis.fit.fitted import Lr
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit, WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.runs import Bools, Floats, whole

OPTIMUM_COLOUR, EDGE_COLOUR = "#0072b2", "#d55e00"  # told apart by every kind of colour vision


@dataclass(frozen=True)
class LossCurve:
    """Loss against learning rate at one width."""

    fit: WidthFit
    colour: str
    base_width: float

    @property
    def lrs(self) -> Floats:
        return self.fit.curve.lrs

    @property
    def losses(self) -> Floats:
        return self.fit.curve.losses

    @property
    def finite(self) -> Bools:
        """Points of the line."""
        finite: Bools = np.isfinite(self.losses)
        return finite

    @property
    def star(self) -> Lr | None:
        """The width's optimum, which may lie between the learning rates tried; drawn on the curve."""
        return self.fit.best

    def scale(self, exponent: float) -> float:
        """What learning rates are multiplied by so that curves whose optima follow `exponent` share them."""
        return float((self.fit.width / self.base_width) ** -exponent)


@dataclass(frozen=True)
class LawPoints:
    """Learning rates of widths, with their intervals, and the power law fitted to them."""

    name: str
    colour: str
    law: LrLaw
    points: tuple[tuple[float, Lr], ...]
    hollow: frozenset[float] = frozenset()
    """Widths at which the grid shows the learning rate from one side only."""

    @property
    def line(self) -> tuple[list[float], list[float]]:
        """Widths and learning rates of the law's ends; empty without a law."""
        widths = [width for width, _ in self.points]
        ends = [min(widths), max(widths)] if self.law.estimable else []
        return ends, [self.law.lr_at(n) for n in ends]

    @property
    def label(self) -> str:
        return f"{self.name}: {words.exponent(self.law)}"


@dataclass(frozen=True)
class Transfer:
    """One group of curves."""

    curves: tuple[LossCurve, ...]
    loss_name: str
    loss_range: tuple[float, float]
    optimal: LawPoints
    edge: LawPoints
    brackets: tuple[WidthFit, ...]
    """Widths whose grid shows the edge from both sides."""
    beyond: tuple[WidthFit, ...]
    """Widths that were stable up to the grid's end and have no edge."""
    axis: Axis
    base_width: float

    @property
    def widths(self) -> list[float]:
        return [curve.fit.width for curve in self.curves]

    @property
    def all_unstable(self) -> bool:
        return all(curve.fit.optimum.index is None for curve in self.curves)


def transfer(fit: StudyFit, group: GroupFit) -> Transfer:
    """What is shown of `group`; colours and the loss axis are those of the whole study."""
    colours, base_width = colour_by_width(fit), whole(group.base_level)
    return Transfer(
        curves=tuple(LossCurve(w, colours[w.width], base_width) for w in group.widths),
        loss_name=fit.measure.name,
        loss_range=loss_range(fit),
        optimal=LawPoints(
            "optimal",
            OPTIMUM_COLOUR,
            group.optimal,
            tuple((w.width, w.best) for w in group.widths if w.best is not None),
            frozenset(w.width for w in group.widths if w.optimum.at_edge != "no"),
        ),
        edge=LawPoints(
            group.estimator.edge_name,
            EDGE_COLOUR,
            group.max_stable,
            tuple((w.width, w.largest) for w in group.widths if w.largest is not None),
        ),
        brackets=tuple(w for w in group.widths if not w.edge.censored),
        beyond=tuple(w for w in group.widths if w.edge.censored and w.optimum.index is not None and w.largest is None),
        axis=fit.study.axis,
        base_width=base_width,
    )


def width_colours(n: int) -> list[str]:
    """`n` colours in order of width, from light (narrow) to dark (wide), readable on white and told apart by
    lightness."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.78, 0.08, n) if n > 1 else [0.35])]


def colour_by_width(fit: StudyFit) -> dict[float, str]:
    """One colour per width of the study, the same in every panel."""
    widths = sorted({w.width for group in fit.groups for w in group.widths})
    return dict(zip(widths, width_colours(len(widths)), strict=True))


def room_above(unit: str) -> float:
    """How far beyond the worst width's best value a valley is shown: 1.5 nats; of squared errors, as far as they go."""
    return math.inf if unit.startswith("squared") else 1.5


def loss_range(fit: StudyFit) -> tuple[float, float]:
    """Limits of the loss axis, the same in all panels, between which the valleys are readable: from just below the best
    loss up to 1.5 nats above the worst width's best, or to the initial loss where that is smaller."""
    widths = [w for group in fit.groups for w in group.widths]
    best = [w.optimum.loss for w in widths if w.optimum.index is not None]
    initial = float(fit.study.runs["initial_loss"].mean())  # skips runs whose first loss is not finite
    if not best:
        return (initial - 1, initial + 1) if math.isfinite(initial) else (0.0, 1.0)
    above = max(best) + max(room_above(group.unit) for group in fit.groups)
    top = min(above, max(float(w.curve.losses[np.isfinite(w.curve.losses)].max(initial=0)) for w in widths))
    if initial > max(best):
        top = min(top, initial)
    room = 0.06 * max(top - min(best), 0.1)
    return min(best) - room, top + room
