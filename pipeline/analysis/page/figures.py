"""The LR-transfer figure of a study (paper, Fig. 5): loss curves, the same on a scaled axis, optimum and edge against width.

matplotlib's object-oriented API only, imported where it is used: `pipeline fit` does not pay for it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.fit.exponent import Exponent
from pipeline.analysis.fit.fitted import Lr
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import words
from pipeline.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FORMATS = ("pdf", "svg", "png")
OPTIMUM_COLOUR, EDGE_COLOUR = "#0072b2", "#d55e00"  # told apart by every kind of colour vision

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


def width_colours(n: int) -> list[str]:
    """`n` colours in order of width, from light (narrow) to dark (wide), readable on white and told apart by lightness."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.78, 0.08, n) if n > 1 else [0.35])]


def colour_by_width(fit: StudyFit) -> dict[int, str]:
    """One colour per width of the study, the same in every panel."""
    widths = sorted({w.width for group in fit.groups for w in group.widths})
    return dict(zip(widths, width_colours(len(widths)), strict=True))


def loss_range(fit: StudyFit) -> tuple[float, float]:
    """Limits of the loss axis, the same in all panels, between which the valleys are readable: from just below the best
    loss up to 1.5 above the worst width's best, or to the initial loss where that is smaller."""
    widths = [w for group in fit.groups for w in group.widths]
    best = [w.optimum.loss for w in widths if w.optimum.index is not None]
    initial = float(fit.study.runs["initial_loss"].mean())  # skips runs whose first loss is not finite
    if not best:
        return (initial - 1, initial + 1) if math.isfinite(initial) else (0.0, 1.0)
    top = min(max(best) + 1.5, max(float(w.curve.losses[np.isfinite(w.curve.losses)].max(initial=0)) for w in widths))
    if initial > max(best):
        top = min(top, initial)
    room = 0.06 * max(top - min(best), 0.1)
    return min(best) - room, top + room


def lr_curves(fit: StudyFit) -> "Figure":
    """One row per group: loss against base learning rate; the same against lr * (n/n_base)^-alpha with the fitted optimal
    exponent alpha, so that curves which share their optimum transfer; optimum and stability edge against width."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 0.35 + 3.3 * len(fit.groups)), layout="constrained")
        colours = colour_by_width(fit)
        base_width = fit.study.config.base_width
        rows = figure.subfigures(len(fit.groups), 1, squeeze=False)[:, 0]
        for row, group in zip(rows, fit.groups, strict=True):
            _draw_row(row, group, fit, colours, base_width)
        _legend(figure, colours)
    return figure


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Writes the figure as PDF, SVG and PNG. The same figure gives the same bytes: no dates inside. Raises `RequestError`."""
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


def _draw_row(row: "SubFigure", group: GroupFit, fit: StudyFit, colours: dict[int, str], base_width: int) -> None:
    grid = row.add_gridspec(2, 3, height_ratios=(1, 7), width_ratios=(1, 1, 0.9), hspace=0.0)
    limits = loss_range(fit)
    panels = [(0.0, "learning rate")]
    if group.optimal.estimable:
        panels.append((group.optimal.exponent, _scaled_axis(group.optimal.exponent, base_width)))
    for column, (exponent, xlabel) in enumerate(panels):
        main = row.add_subplot(grid[1, column])
        strip = row.add_subplot(grid[0, column], sharex=main)
        _draw_curves(main, strip, group, colours, exponent, base_width)
        main.set(xscale="log", ylim=limits, xlabel=xlabel, ylabel=fit.measure.name if column == 0 else "")
        _label_lr_axis(main)
        strip.set_title(words.group_title(group) if column == 0 else "scaled by the fitted exponent", loc="left",
                        fontweight="bold" if column == 0 else "normal")  # fmt: skip
    if not group.optimal.estimable:
        _say(row.add_subplot(grid[:, 1]), "exponent of the optimum\nnot estimable")
    if all(w.optimum.index is None for w in group.widths):
        _say(row.add_subplot(grid[:, 2]), "every learning rate\nwas unstable")
    else:
        _draw_exponents(row.add_subplot(grid[:, 2]), group)


def _say(axes: "Axes", text: str) -> None:
    """Words in the place of a panel that has nothing to show."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#666666")


def _scaled_axis(exponent: float, base_width: int) -> str:
    return rf"learning rate $\times\ (n/{base_width})^{{{round(-exponent, 2) + 0.0:.2f}}}$"


def _draw_curves(
    main: "Axes", strip: "Axes", group: GroupFit, colours: dict[int, str], exponent: float, base_width: int
) -> None:
    """Curves below; above them a strip with a row per width, where a cross marks each unstable learning rate."""
    for place, w in enumerate(group.widths):
        x, colour = w.curve.lrs * (w.width / base_width) ** -exponent, colours[w.width]
        finite = np.isfinite(w.curve.losses)
        main.plot(x[finite], w.curve.losses[finite], color=colour, lw=1.6, marker="o", ms=3, zorder=2)
        shown = finite & w.unstable
        main.plot(x[shown], w.curve.losses[shown], "o", color=colour, mfc="white", ms=3.5, zorder=3)
        if w.best is not None:
            star = w.best.value * (w.width / base_width) ** -exponent
            main.plot(star, w.best_loss, "*", ms=13, color=colour, mec="white", mew=0.8, zorder=4)
        strip.plot(x[w.unstable], [place] * int(w.unstable.sum()), "x", color=colour, ms=4.5, mew=1.5)
    if not any(w.unstable.any() for w in group.widths):
        strip.text(0.01, 0.5, "none", transform=strip.transAxes, va="center", fontsize=7.5, color="#666666")
    strip.set(ylim=(len(group.widths) - 0.3, -0.7), yticks=[])
    strip.set_ylabel("unstable", rotation=0, ha="right", va="center", fontsize=7.5, color="#666666")
    strip.tick_params(bottom=False, labelbottom=False, which="both")
    strip.spines["left"].set_visible(False)
    strip.grid(False)


def _draw_exponents(axes: "Axes", group: GroupFit) -> None:
    beyond = [w for w in group.widths if w.edge.censored and w.optimum.index is not None and w.largest is None]
    for w in group.widths:
        if not w.edge.censored:
            axes.plot([w.width] * 2, [w.edge.last_stable_lr, w.edge.min_unstable_lr], color=EDGE_COLOUR, lw=5, alpha=0.25,
                      solid_capstyle="butt")  # fmt: skip
    edges = [(w.width, w.largest, True) for w in group.widths if w.largest is not None]
    optima = [(w.width, w.best, w.optimum.at_edge == "no") for w in group.widths if w.best is not None]
    _draw_law(axes, group.max_stable, edges, EDGE_COLOUR, "--", group.estimator.edge_name)
    _draw_law(axes, group.optimal, optima, OPTIMUM_COLOUR, "-", "optimal")
    if beyond:
        ends, lrs = [w.width for w in beyond], [w.edge.last_stable_lr for w in beyond]
        axes.plot(ends, lrs, "^", color=EDGE_COLOUR, mfc="white", ms=7, zorder=2, label="stable up to the grid's end")
    axes.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="learning rate")
    axes.set_xticks([w.width for w in group.widths], [str(w.width) for w in group.widths])
    axes.minorticks_off()
    axes.margins(x=0.12)
    bounds = [lr for _, point, _ in optima + edges for lr in (point.value, point.low, point.high)]
    bounds += [lr for w in group.widths for lr in (w.edge.last_stable_lr, w.edge.min_unstable_lr, w.optimum.lr)]
    low, high = np.nanmin(bounds), np.nanmax(bounds)
    room = max((high / low) ** 0.15, 1.3)  # on a log axis the same learning rate everywhere would span nothing
    axes.set_ylim(low / room, high * room)
    _label_lr_axis(axes, "y")
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


def _draw_law(
    axes: "Axes", fit: Exponent, points: Sequence[tuple[int, Lr, bool]], colour: str, style: str, name: str
) -> None:
    """Learning rates with their intervals, hollow where the grid shows them from one side only, and the fitted line."""
    for width, lr, interior in points:
        if not math.isnan(lr.low):
            axes.plot([width] * 2, [lr.low, lr.high], color=colour, lw=1.4, zorder=2)
        axes.plot(width, lr.value, "o", color=colour, mfc=colour if interior else "white", ms=6, zorder=3)
    ends = [width for width, _, _ in points]
    line = [min(ends), max(ends)] if fit.estimable else []
    axes.plot(line, [fit.lr_at(n) for n in line], style, color=colour, lw=1.6, label=f"{name}: {words.exponent(fit)}")


def _label_lr_axis(axes: "Axes", which: str = "x") -> None:
    """Ticks such as 4e-3 at 1, 2, 5 times a power of ten, or powers alone where the axis is long."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 500 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words.lr(value)))
    axis.set_minor_locator(NullLocator())


def _legend(figure: "Figure", colours: dict[int, str]) -> None:
    from matplotlib.lines import Line2D

    handles: Sequence[Line2D] = [
        *(
            Line2D([], [], color=colour, lw=2, marker="o", ms=3, label=f"width {width}")
            for width, colour in colours.items()
        ),
        Line2D([], [], ls="", marker="*", ms=11, color="#555555", label="optimum"),
        Line2D([], [], ls="", marker="x", ms=5, mew=1.5, color="#555555", label="unstable"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, columnspacing=1.6)
