"""The LR-transfer figure of a study (paper, Fig. 5): loss curves, the same on a scaled axis, optimum and edge against
width.

matplotlib's object-oriented API only, imported where it is used: `pipeline fit` does not pay for it.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.fit.study_fit import StudyFit, WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.page.transfer import LawPoints, LossCurve, Transfer, colour_by_width, transfer
from pipeline.analysis.page.words_published import Published
from pipeline.analysis.published import Exponent
from pipeline.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FORMATS = ("pdf", "svg", "png")

STYLE: Any = {  # matplotlib's own type for it is a Literal of every key
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
    "svg.hashsalt": "width-scaling-pipeline",  # the same figure gives the same bytes
}


def lr_curves(fit: StudyFit, published: Published | None = None) -> "Figure":
    """One row per group: loss against base learning rate; the same against lr * (n/n_base)^-alpha with the fitted
    optimal exponent alpha, so that curves which share their optimum transfer; optimum and stability edge against
    width, dotted beside them the slopes that were published."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 0.35 + 3.3 * len(fit.groups)), layout="constrained")
        rows = figure.subfigures(len(fit.groups), 1, squeeze=False)[:, 0]
        for row, group, slopes in zip(rows, fit.groups, published or [()] * len(fit.groups), strict=True):
            _draw_row(row, transfer(fit, group), words.group_title(group), slopes)
        legend(figure, fit)
    return figure


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Writes the figure as PDF, SVG and PNG. The same figure gives the same bytes: no dates inside. Raises
    `RequestError`."""
    import matplotlib as mpl

    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            for path in paths:
                figure.savefig(path, dpi=200, metadata=undated[path.suffix[1:]])
    except OSError as error:
        raise RequestError(f"{folder}: cannot write figures ({error.strerror})") from None
    return paths


def _draw_row(row: "SubFigure", shown: Transfer, title: str, published: Sequence[Exponent]) -> None:
    grid = row.add_gridspec(2, 3, height_ratios=(1, 7), width_ratios=(1, 1, 0.9), hspace=0.0)
    panels, law = [(0.0, "learning rate")], shown.optimal.law
    if law.estimable:
        panels.append((law.exponent, _scaled_axis(law.exponent, shown)))
    for column, (exponent, xlabel) in enumerate(panels):
        main = row.add_subplot(grid[1, column])
        strip = row.add_subplot(grid[0, column], sharex=main)
        _draw_curves(main, strip, shown.curves, exponent)
        main.set(
            xscale="log", ylim=shown.loss_range, xlabel=xlabel, ylabel=shown.loss_name if column == 0 else ""
        )  # fmt: skip
        label_lr_axis(main)
        strip.set_title(title if column == 0 else "scaled by the fitted exponent", loc="left",
                        fontweight="bold" if column == 0 else "normal")  # fmt: skip
    if not law.estimable:
        say(row.add_subplot(grid[:, 1]), "exponent of the optimum\nnot estimable")
    if shown.all_unstable:
        say(row.add_subplot(grid[:, 2]), "every learning rate\nwas unstable")
    else:
        _draw_exponents(row.add_subplot(grid[:, 2]), shown, published)


def say(axes: "Axes", text: str) -> None:
    """Words in the place of a panel that has nothing to show."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#666666", transform=axes.transAxes)


def _scaled_axis(exponent: float, shown: Transfer) -> str:
    ratio = f"{words.symbol(shown.axis)}/{words.level(shown.base_width)}"
    return rf"learning rate $\times\ ({ratio})^{{{round(-exponent, 2) + 0.0:.2f}}}$"


def _draw_curves(main: "Axes", strip: "Axes", curves: Sequence[LossCurve], exponent: float) -> None:
    """Curves below; above them a strip with a row per width, where a cross marks each unstable learning rate."""
    for place, curve in enumerate(curves):
        scale, colour, finite, unstable = curve.scale(exponent), curve.colour, curve.finite, curve.fit.unstable
        x, hollow = curve.lrs * scale, finite & unstable
        main.plot(x[finite], curve.losses[finite], color=colour, lw=1.6, marker="o", ms=3, zorder=2)
        main.plot(x[hollow], curve.losses[hollow], "o", color=colour, mfc="white", ms=3.5, zorder=3)
        if curve.star is not None:
            draw_star(main, curve.fit, curve.star.value * scale, curve.fit.loss_at_best, colour)
        strip.plot(x[unstable], [place] * int(unstable.sum()), "x", color=colour, ms=4.5, mew=1.5)
    if not any(curve.fit.unstable.any() for curve in curves):
        strip.text(0.01, 0.5, "none", transform=strip.transAxes, va="center", fontsize=7.5, color="#666666")
    strip.set(ylim=(len(curves) - 0.3, -0.7), yticks=[])
    strip.set_ylabel("unstable", rotation=0, ha="right", va="center", fontsize=7.5, color="#666666")
    strip.tick_params(bottom=False, labelbottom=False, which="both")
    strip.spines["left"].set_visible(False)
    strip.grid(False)


def draw_star(axes: "Axes", w: WidthFit, lr: float, value: float, colour: str) -> None:
    """A width's optimum, hollow where no curve reaches it."""
    face, rim = ("white", colour) if w.beyond_curve else (colour, "white")
    axes.plot(lr, value, "*", ms=12, mfc=face, mec=rim, mew=0.8, color=colour, zorder=4)


def _draw_exponents(axes: "Axes", shown: Transfer, published: Sequence[Exponent]) -> None:
    for w in shown.brackets:
        axes.plot(
            [w.width] * 2,
            [w.edge.last_stable_lr, w.edge.min_unstable_lr],
            color=shown.edge.colour,
            lw=5,
            alpha=0.25,
            solid_capstyle="butt",
        )
    for quantity, law, style in (("max_stable", shown.edge, "--"), ("optimal", shown.optimal, "-")):
        _draw_slopes(axes, law, {one.exponent for one in published if one.quantity == quantity})
        _draw_law(axes, law, style)
    if shown.beyond:
        ends, lrs = [w.width for w in shown.beyond], [w.edge.last_stable_lr for w in shown.beyond]
        axes.plot(
            ends, lrs, "^", color=shown.edge.colour, mfc="white", ms=7, zorder=2, label="stable up to the grid's end"
        )  # fmt: skip
    name = f"{shown.axis.noun} ${shown.axis.symbol}$" if shown.axis.symbol else shown.axis.noun
    axes.set(xscale="log", yscale="log", xlabel=name, ylabel="learning rate")
    axes.set_xticks(shown.widths, list(map(words.level, shown.widths)))
    axes.minorticks_off()
    axes.margins(x=0.12)
    points = [lr for law in (shown.optimal, shown.edge) for _, lr in law.points]
    bounds = [bound for lr in points for bound in (lr.value, lr.low, lr.high)]
    for w in (curve.fit for curve in shown.curves):
        bounds += [w.edge.last_stable_lr, w.edge.min_unstable_lr, w.optimum.lr]
    low, high = np.nanmin(bounds), np.nanmax(bounds)
    room = max((high / low) ** 0.15, 1.3)  # on a log axis the same learning rate everywhere would span nothing
    axes.set_ylim(low / room, high * room)
    label_lr_axis(axes, "y")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        frameon=False,
        borderpad=0,
        handlelength=2.2,
    )


def _draw_law(axes: "Axes", law: LawPoints, style: str) -> None:
    for width, lr in law.points:
        if lr.has_interval:
            axes.plot([width] * 2, [lr.low, lr.high], color=law.colour, lw=1.4, zorder=2)
        face = "white" if width in law.hollow else law.colour
        axes.plot(width, lr.value, "o", color=law.colour, mfc=face, ms=6, zorder=3)
    axes.plot(*law.line, style, color=law.colour, lw=1.6, label=law.label)


def _draw_slopes(axes: "Axes", law: LawPoints, slopes: Collection[float]) -> None:
    """Published slopes, through the middle of the measured line."""
    widths, lrs = law.line
    for slope in sorted(slopes) if widths else ():
        middle, at = np.sqrt(np.prod(widths)), np.sqrt(np.prod(lrs))
        line = [at * (width / middle) ** slope for width in widths]
        label = f"published: {words.number(slope)}"
        axes.plot(widths, line, ":", color=law.colour, lw=1.2, alpha=0.8, label=label, zorder=1)


def label_lr_axis(axes: "Axes", which: str = "x", most: float = 500) -> None:
    """Ticks such as 4e-3 at 1, 2, 5 times a power of ten, or powers alone where the axis is longer than `most`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < most else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words.lr(value)))
    axis.set_minor_locator(NullLocator())


def legend(figure: "Figure", fit: StudyFit) -> None:
    """Above the figure, in as many lines as it takes: the widths, and what the marks mean."""
    from matplotlib.lines import Line2D

    star: Any = {"ls": "", "marker": "*", "ms": 11, "color": "#555555"}
    hollow = any(w.beyond_curve for group in fit.groups for w in group.widths)

    handles: Sequence[Line2D] = [
        *(
            Line2D([], [], color=colour, lw=2, marker="o", ms=3, label=words.at(fit.study.axis, width))
            for width, colour in colour_by_width(fit).items()
        ),
        Line2D([], [], label="optimum", **star),
        *([Line2D([], [], mfc="white", label="past the curve", **star)] if hollow else []),
        Line2D([], [], ls="", marker="x", ms=5, mew=1.5, color="#555555", label="unstable"),
    ]
    columns = min(len(handles), int(figure.get_figwidth() / 1.1))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False, columnspacing=1.6)
