"""Groups of curves side by side: several parameterizations, losses, data sets or depths (paper, Fig. 5, 7, F.18).

matplotlib's object-oriented API only, imported where it is used.
"""

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.fit.exponent import LrLaw
from pipeline.analysis.fit.fitted import QUANTITIES, Lr, Quantity
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import words
from pipeline.analysis.page.figures import STYLE, draw_star, label_lr_axis, legend, say
from pipeline.analysis.page.transfer import colour_by_width, room_above
from pipeline.analysis.study.axis import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_TITLE = 36  # letters of a title that a panel has room for
NBSP = "\u00a0"
_ASIDE = 0.03  # of its width, that a group stands from the next one
_LINE = 0.155  # inches of a line of the legend
_ROW = 0.045  # of a panel's height, that crosses of a width lie below those of the one before
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_STYLES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
_MARKS = "osD^v<>P"


@dataclass(frozen=True)
class Look:
    """Of a group in panels that hold all of them: a colour for its family but the loss, a dash for the loss (Fig.
    F.18); where losses are all that differs, a colour for them too."""

    title: str
    colour: str
    style: Any
    mark: str


def looks(fit: StudyFit) -> list[Look]:
    """In the order of the groups."""
    families = [{name: value for name, value in group.head.items() if name != "loss"} for group in fit.groups]
    colour = {place: i for i, place in enumerate(dict.fromkeys(map(_key, families)))}
    style = {loss: i for i, loss in enumerate(dict.fromkeys(group.loss for group in fit.groups))}
    found = []
    for group, family in zip(fit.groups, families, strict=True):
        turn, place = divmod(colour[_key(family)] if len(colour) > 1 else style[group.loss], len(_COLOURS))
        kind = style[group.loss] + len(style) * turn  # colours that come again are dashed, and marked, otherwise
        look = (_COLOURS[place], _STYLES[kind % len(_STYLES)], _MARKS[kind % len(_MARKS)])
        found.append(Look(words.called(fit, group), *look))
    return found


def _key(family: dict[str, str]) -> tuple[str, ...]:
    return tuple(family.values())


@dataclass(frozen=True)
class Best:
    """The best value of every width of a group that has one, and of its seeds at that learning rate the least and the
    largest; accuracies where accuracies are compared."""

    widths: list[float]
    values: list[float]
    low: list[float]
    high: list[float]


def best_of(fit: StudyFit, group: GroupFit) -> Best:
    """At the best learning rate tried of every width, mean over seeds."""
    points = []
    for w in group.widths:
        if w.optimum.index is not None:
            runs = group.grid.runs
            own = shown(fit, runs.loss[(runs.width == w.width) & (runs.lr == w.optimum.lr)])
            points.append((w.width, float(shown(fit, np.array(w.optimum.loss))), float(own.min()), float(own.max())))
    return Best(*(list(column) for column in zip(*points, strict=True)) if points else ([], [], [], []))


def shown(fit: StudyFit, losses: Any) -> Any:
    """What is drawn of what is minimized: accuracies of error rates."""
    return 1 - losses if fit.measure.is_accuracy else losses


def name_of(fit: StudyFit) -> str:
    """Of what is drawn."""
    return fit.measure.name.replace("error", "accuracy") if fit.measure.is_accuracy else fit.measure.name


def compare_figure(fit: StudyFit) -> "Figure":
    """A panel per group with what runs are compared by against learning rate, a colour per width, groups of one unit on
    one scale; and two panels with the optimum and the edge of all groups against width."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    scales = list(dict.fromkeys(map(scale_of, fit.groups)))
    groups = sorted(fit.groups, key=lambda group: scales.index(scale_of(group)))
    columns = min(_COLUMNS, max(2, len(groups)))
    rows = -(-len(groups) // columns)
    with mpl.rc_context(STYLE):
        wide = 0.6 + 2.9 * columns
        laws = 2.6 + _LINE * -(-len(groups) // _legend_columns(fit, wide / 2))
        figure = Figure(figsize=(wide, 0.6 + 2.35 * rows + laws), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(2.35 * rows, laws))
        upper, lower = halves
        ranges = {scale: value_range(fit, scale) for scale in scales}
        above: Any = upper.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(above.flat):
            if place >= len(groups):
                axes.set_axis_off()
                continue
            group = groups[place]
            _draw_curves(axes, fit, group)
            low, high = ranges[scale_of(group)]
            axes.set_ylim(low, high + _ROW * len(group.widths) * (high - low))  # crosses lie above curves and stars
            axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
            axes.set_title(_wrapped(words.called(fit, group)), loc="left", fontweight="bold")
            if place + columns >= len(groups):
                axes.set_xlabel("learning rate")
            if place % columns == 0 or scale_of(group) != scale_of(groups[place - 1]):
                unit = textwrap.wrap(f"({' '.join(scale_of(group)).strip()})", 26) if len(scales) > 1 else []
                axes.set_ylabel("\n".join([name_of(fit), *unit]))
        below: Any = lower.subplots(1, 2)
        for axes, quantity in zip(below, QUANTITIES, strict=True):
            _draw_laws(axes, fit, quantity)
        legend(figure, fit)
    return figure


def _wrapped(title: str) -> str:
    """In lines as long as a panel is wide, broken between parts."""
    parts = title.replace(" ", NBSP).replace(f"{NBSP}·{NBSP}", f"{NBSP}· ")
    return textwrap.fill(parts, _TITLE, break_on_hyphens=False, break_long_words=False).replace(NBSP, " ")


def best_figure(fit: StudyFit) -> "Figure":
    """The best value of every group against width (Fig. 7, F.18): a panel per unit."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(group.unit for group in fit.groups))
    widths = sorted({w.width for group in fit.groups for w in group.widths})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.8 + 4.0 * len(units), 3.6), layout="constrained")
        for axes, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units, strict=True):
            for group, look in zip(fit.groups, looks(fit), strict=True):
                best = best_of(fit, group)
                if group.unit == unit and best.widths:
                    axes.fill_between(best.widths, best.low, best.high, color=look.colour, alpha=0.13, lw=0)
                    line = {"color": look.colour, "ls": look.style, "marker": look.mark}
                    axes.plot(best.widths, best.values, lw=1.7, ms=5, label=look.title, **line)
            _width_axis(axes, fit.study.axis, widths)
            axes.set_ylabel(f"best {name_of(fit)}" + (f" ({unit})" if len(units) > 1 else ""))
            axes.legend(loc="best", frameon=False, handlelength=3.2)
    return figure


def scale_of(group: GroupFit) -> tuple[str, str]:
    """What its values are in, and of which data: groups of one scale are compared."""
    return group.unit, "" if group.config is None else f"on {group.config.data.name}"


def value_range(fit: StudyFit, scale: tuple[str, str]) -> tuple[float, float]:
    """Of the panels of one scale: from the best value to 1.5 beyond the worst width's best, or to where training
    started, or to the worst of all, whichever comes first."""
    groups = [group for group in fit.groups if scale_of(group) == scale]
    widths = [w for group in groups for w in group.widths]
    best = [w.optimum.loss for w in widths if w.optimum.index is not None]
    finite = np.concatenate([w.curve.losses[np.isfinite(w.curve.losses)] for w in widths])
    if not best or not len(finite):
        return 0.0, 1.0
    tops = [max(best) + room_above(scale[0]), float(finite.max())]
    if not fit.measure.is_accuracy:
        runs = fit.study.runs
        own = [(runs[list(group.key)] == list(group.key.values())).all(axis=1) for group in groups]
        initial = float(runs["initial_loss"][np.any(own, axis=0)].mean())
        tops += [initial] if initial > max(best) else []
    low, high = min(best), min(tops)
    room = 0.06 * max(high - low, 1e-3)
    ends = sorted(float(end) for end in shown(fit, np.array([low - room, high + room])))
    return ends[0], ends[1]


def _draw_curves(axes: "Axes", fit: StudyFit, group: GroupFit) -> None:
    """Crosses at the top mark learning rates that were lost; hollow points are unstable."""
    colours = colour_by_width(fit)
    for w in group.widths:
        colour, finite = colours[w.width], np.isfinite(w.curve.losses)
        values = shown(fit, w.curve.losses)
        axes.plot(w.curve.lrs[finite], values[finite], color=colour, lw=1.5, marker="o", ms=3, zorder=2)
        hollow = finite & w.unstable
        axes.plot(w.curve.lrs[hollow], values[hollow], "o", color=colour, mfc="white", ms=3.5, zorder=3)
        if w.best is not None:
            draw_star(axes, w, w.best.value, float(shown(fit, w.loss_at_best)), colour)
    axes.set_xscale("log")
    lost = [(lr, place) for place, w in enumerate(group.widths) for lr in w.curve.lrs[w.unstable]]
    for lr, place in lost:
        colour = colours[group.widths[place].width]
        axes.plot(lr, 0.985 - _ROW * place, "x", color=colour, ms=4, mew=1.3, transform=axes.get_xaxis_transform())
    label_lr_axis(axes, most=60)  # crosses lengthen it


def _draw_laws(axes: "Axes", fit: StudyFit, quantity: Quantity) -> None:
    """Learning rates of all groups against width, with their intervals and power laws."""
    widths = sorted({w.width for group in fit.groups for w in group.widths})
    values: list[float] = []
    for place, (group, look) in enumerate(zip(fit.groups, looks(fit), strict=True)):
        law, points = group.fitted.laws[quantity], law_points(group, quantity)
        aside = 1 + _ASIDE * (place - (len(fit.groups) - 1) / 2)
        for width, lr in points:
            if lr.has_interval:
                axes.plot([width * aside] * 2, [lr.low, lr.high], color=look.colour, lw=1.1, alpha=0.6)
            values += [lr.value, *([lr.low, lr.high] if lr.has_interval else [])]
        axes.plot([n * aside for n, _ in points], [lr.value for _, lr in points], look.mark, color=look.colour, ms=5)
        borrowed = quantity == "optimal" and group.fitted.edge_limited  # its law is the edge's, and lies there
        ends = [] if borrowed else _ends(law, [n for n, _ in points])
        label = f"{look.title}: {words.exponent(law)}{' (the edge)' if borrowed else ''}"
        line = [law.lr_at(n) for n in ends]
        values += line
        axes.plot([n * aside for n in ends], line, color=look.colour, ls=look.style, label=label)
    _width_axis(axes, fit.study.axis, widths)
    name = fit.estimator.edge_name if quantity == "max_stable" else "optimal"
    axes.set_ylabel(f"{name} learning rate")
    if values:  # matplotlib cannot draw a log axis of nothing
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.4, max(values) * 1.4)
        label_lr_axis(axes, "y")
    else:
        say(axes, f"{name} learning rate\nnot estimable at any width")
    columns = _legend_columns(fit, axes.figure.bbox.width / axes.figure.dpi / 2)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False, ncols=columns, fontsize=7.5, borderpad=0)


def _legend_columns(fit: StudyFit, wide: float) -> int:
    """Of the groups and their exponents, above a panel of so many inches."""
    longest = max(len(look.title) for look in looks(fit)) + len(": \u22120.50 \u00b1 0.10")
    longest += len(" (the edge)") * any(group.fitted.edge_limited for group in fit.groups)
    return 2 if len(fit.groups) > 4 and 2 * (0.4 + 0.057 * longest) < wide else 1


def law_points(group: GroupFit, quantity: Quantity) -> list[tuple[float, Lr]]:
    """Widths of the group that have such a learning rate."""
    found = [(w.width, w.best if quantity == "optimal" else w.largest) for w in group.widths]
    return [(width, lr) for width, lr in found if lr is not None]


def _ends(law: LrLaw, widths: list[float]) -> list[float]:
    return [min(widths), max(widths)] if law.estimable and widths else []


def _width_axis(axes: "Axes", axis: Axis, widths: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(f"{axis.noun} ${axis.symbol}$" if axis.symbol else axis.noun)
    axes.set_xticks(widths, list(map(words.level, widths)))
    axes.minorticks_off()
    axes.margins(x=0.08)
