"""The charts of the page but the first: loss against learning rate, best losses, exponents. Places and numbers are
the fit's; everything drawn has a title that says its numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.analysis.fit.fitted import LEVEL
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit, WidthFit
from pipeline.analysis.page import figures_compare, palette, words
from pipeline.analysis.page.answer import Shown
from pipeline.analysis.page.svg import Drawing, Panel, Point, Scale, apart
from pipeline.analysis.page.verdicts import Verdict
from pipeline.analysis.study.stability import MARGIN, Cause

_SMALL: Point = (360, 262)


# ---------------------------------------------------------------------------------------------------------------------
# Loss against learning rate


@dataclass(frozen=True)
class Scaling:
    """Learning rates times (n / n_base)^-exponent, an exponent per group."""

    key: str
    name: str
    exponents: dict[int, float]
    """By place."""


def scalings(shown: Sequence[Shown]) -> list[Scaling]:
    """As they are; by the fitted exponent, and by theory's, where a group has one."""
    none = {one.place: 0.0 for one in shown}
    found = [Scaling("raw", "learning rate", none)]
    fitted = {one.place: one.group.optimal.exponent for one in shown if one.group.optimal.estimable}
    theory = {
        one.place: float(one.group.predicted["optimal"].exponent) for one in shown if "optimal" in one.group.predicted
    }
    if fitted:
        found.append(Scaling("fit", "scaled by the fit", none | fitted))
    if theory:
        found.append(Scaling("theory", "scaled by theory", none | theory))
    return found


def curves(fit: StudyFit, shown: Sequence[Shown], scaling: Scaling, size: Point = _SMALL) -> Markup:
    """Loss against learning rate, a line per width, of one group or of several on shared axes."""
    low, high = value_range(fit, shown[0].group)
    scale = {
        (one.place, w.width): float((w.width / one.group.base_level) ** -scaling.exponents[one.place])
        for one in shown
        for w in one.group.widths
    }
    lrs = [lr * scale[one.place, w.width] for one in shown for w in one.group.widths for lr in w.curve.lrs]
    axis, base = fit.study.axis, words.level(shown[0].group.base_level)
    symbol = words.symbol(axis)
    powers = {words.number(-scaling.exponents[one.place]) for one in shown}
    power = powers.pop() if len(powers) == 1 else "own exponent"
    title = "learning rate" if scaling.key == "raw" else f"learning rate {words.TIMES} ({symbol}/{base})^{power}"
    names = " and ".join(one.title for one in shown)
    label = f"{fit.measure.name} against {title}, {names}; " + "; ".join(
        f"best at {words.at(axis, w.width)}: {words.known(w.best)}" for one in shown for w in one.group.widths
    )
    top = 26 + 11 * sum(any(w.unstable) for one in shown for w in one.group.widths)
    panel = Panel.of(
        (size[0], size[1] + top - 26), label, (min(lrs) / 1.3, max(lrs) * 1.3), (low, high),
        margins=(top, 10, 36, 44), x_title=title, y_title=fit.measure.name, most=5,
    )  # fmt: skip
    row = 0
    for one in shown:
        for i, w in enumerate(one.group.widths):
            classes, by = f"{palette.named((one.place, _strength(fit, w)))}", scale[one.place, w.width]
            _curve(panel, one, w, classes, by, high)
            crosses = np.flatnonzero(w.unstable)
            for at in crosses:
                where = (panel.x(float(w.curve.lrs[at]) * by), 22.0 + 11 * row)
                panel.drawing.cross(f"x {classes}", where, _said(one, w, int(at)))
            row += bool(len(crosses))
            del i
    return panel.drawing.element()


def _curve(panel: Panel, one: Shown, w: WidthFit, classes: str, by: float, high: float) -> None:
    finite = np.flatnonzero(np.isfinite(w.curve.losses))
    points = [(float(w.curve.lrs[i]) * by, float(w.curve.losses[i])) for i in finite]
    panel.line(f"line thin {classes}", points)
    for i, point in zip(finite, points, strict=True):
        if point[1] <= high:
            panel.drawing.mark(one.place, f"m {classes}", panel.at(*point), _said(one, w, int(i)), 2.6)
    if w.best is not None:
        said = f"{one.title}, {words.at(one.group.axis, w.width)}: best at {words.lr_with_interval(w.best)}"
        panel.drawing.star(f"m {classes}", panel.at(w.best.value * by, w.loss_at_best), said)


def _said(one: Shown, w: WidthFit, place: int) -> str:
    """Learning rate, loss and seeds of one point of the curve, and what it is unstable by."""
    curve, n, cause = w.curve, int(w.curve.n_seeds[place]), Cause(int(w.grid.cause[place]))
    seeds, axis = f"{n} seed{'s' * (n > 1)}", one.group.axis
    accuracy = curve.accuracies[place]
    why = {
        Cause.STABLE: "",
        Cause.WIDTH: f"; unstable: nothing at this {axis.noun} trains as well as at a {axis.smaller} one",
        Cause.LEFT: "; unstable: left, or lost ground, for good",
        Cause.FAILED: f"; unstable: more than {MARGIN:g} above the best {w.optimum.loss:.3f}"
        if math.isnan(accuracy)
        else f"; unstable: accuracy {accuracy:.0%}",
        Cause.LOST: f"; unstable in {curve.n_lost[place]} of {seeds}",
    }[cause]
    loss = f" loss {curve.losses[place]:.4g}, {seeds}" if math.isfinite(curve.losses[place]) else ""
    head = f"{one.title}, {words.at(axis, w.width)}, lr {words.lr(float(curve.lrs[place]))}:"
    return head + (loss + why).removeprefix(";")


def _strength(fit: StudyFit, w: WidthFit) -> int:
    return widths_of(fit).index(w.width)


def widths_of(fit: StudyFit) -> list[float]:
    """All of the study, narrowest first."""
    return sorted({w.width for group in fit.groups for w in group.widths})


def value_range(fit: StudyFit, group: GroupFit) -> tuple[float, float]:
    """Of what is minimized, in panels of the group's scale (`figures_compare.value_range`)."""
    low, high = figures_compare.value_range(fit, figures_compare.scale_of(group))
    return (1 - high, 1 - low) if fit.measure.is_accuracy else (low, high)


# ---------------------------------------------------------------------------------------------------------------------
# Best losses and exponents


def best_losses(fit: StudyFit, shown: Sequence[Shown], size: Point = (560, 280)) -> Markup:
    """The best value of every group against width, with the spread of its seeds."""
    axis, found = fit.study.axis, [(one, figures_compare.best_of(fit, one.group)) for one in shown]
    values = [v for _, best in found for v in [*best.low, *best.high]]
    widths = sorted({n for _, best in found for n in best.widths})
    name = figures_compare.name_of(fit)
    label = f"Best {name} against {axis.noun}"
    for one, best in found:
        pairs = zip(best.widths, best.values, strict=True)
        label += f"; {one.title}: {', '.join(f'{value:.4g} at {words.level(n)}' for n, value in pairs)}"
    room = 0.08 * (max(values) - min(values)) or 0.1
    panel = Panel.of(
        size, label, (widths[0] / 1.3, widths[-1] * 1.3), (min(values) - room, max(values) + room),
        x_ticks=apart(widths, 6), x_title=axis.title, y_title=f"best {name}", margins=(24, 12, 36, 52),
    )  # fmt: skip
    for one, best in found:
        classes = f"g{one.place}"
        panel.drawing.line(f"line {classes}", panel.many(list(zip(best.widths, best.values, strict=True))))
        for n, value, low, high in zip(best.widths, best.values, best.low, best.high, strict=True):
            panel.drawing.line(f"bar {classes}", panel.many([(n, low), (n, high)]))
            panel.drawing.mark(
                one.place, f"m {classes}", panel.at(n, value), f"{one.title}, {words.at(axis, n)}: {value:.4g}"
            )
    return panel.drawing.element()


def reach(all_verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """Of a line that shows all of these, from about -1 to 0 at least."""
    ends = [v for one in all_verdicts for v in (one.low, one.value, one.high, one.expected) if not math.isnan(v)]
    return max(-2.5, min([-1.15, *ends])) - 0.1, min(1.5, max([0.15, *ends])) + 0.1


def exponent(verdict: Verdict, place: int, ends: tuple[float, float]) -> Markup:
    """The interval of an exponent on a line between `ends`, theory's as an upright stroke."""
    width, height = 260.0, 34.0
    scale = Scale(*ends, 4, width - 4, log=False)
    theory = "" if math.isnan(verdict.expected) else f", theory {words.number(verdict.expected)}"
    drawing = Drawing(
        width, height, f"{verdict.name}: {verdict.measured}, {100 * LEVEL:g} % {verdict.interval}{theory}"
    )
    for tick, text in ((-1.0, f"{words.MINUS}1"), (-0.5, f"{words.MINUS}1/2"), (0.0, "0")):
        drawing.line("grid", [(scale(tick), 2), (scale(tick), 22)])
        drawing.text("tick", (scale(tick), 33), text, "middle")
    if not math.isnan(verdict.low):
        drawing.line(f"bar g{place}", [(scale(verdict.low), 12), (scale(verdict.high), 12)])
    if not math.isnan(verdict.expected):
        drawing.line("theory", [(scale(verdict.expected), 3), (scale(verdict.expected), 21)])
    if not math.isnan(verdict.value):
        drawing.mark(place, f"m g{place}", (scale(verdict.value), 12))
    return drawing.element("forest")
