"""The figures of the two-layer linear model (paper, C.2 and C.3): gradient descent solid, the order of the paper's code
dotted.

matplotlib's object-oriented API only, imported where it is used.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.inside.linear import UPDATES, Curves, LinearEdge
from pipeline.analysis.page import words
from pipeline.analysis.page.figures import STYLE, label_lr_axis
from pipeline.analysis.page.transfer import width_colours
from pipeline.analysis.published import exponents
from pipeline.analysis.study.axis import WIDTH
from pipeline.analysis.study.runs import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKS = "os^Dv<"
_LINES: dict[str, dict[str, Any]] = {
    "simultaneous": {"ls": "-", "lw": 1.5, "zorder": 2},
    "published": {"ls": ":", "lw": 1.5, "zorder": 3},
}
_GREY = "#555555"


def after_training_figure(curves: Curves, edges: Sequence[LinearEdge]) -> "Figure":
    """Figure C.2: f and lambda after training against the learning rate, a colour per width and a line per seed, up to
    the first learning rate that diverges, and a ring where the published order diverges; the largest stable learning
    rate against width."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 3.8), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
        for axes, y_AWS, name, limits in (
            (left, curves.f_AWS, "$f$", (-0.6, 1.6)),
            (middle, curves.lambda_AWS, r"$\lambda$", (-0.05, 1.35)),
        ):
            for place, colour in enumerate(width_colours(len(curves.widths))):
                for seed in range(y_AWS["simultaneous"].shape[2]):
                    x, y = _until_lost(curves.x_AW[:, place], y_AWS["simultaneous"][:, place, seed])
                    axes.plot(x, y, color=colour, lw=1.1, zorder=2)
                    axes.plot(x[-1:], y[-1:], "x", color=colour, ms=5, mew=1.5, zorder=4)
                    x, y = _until_lost(curves.x_AW[:, place], y_AWS["published"][:, place, seed])
                    axes.plot(x[-1:], np.clip(y[-1:], *limits), "o", color=colour, mfc="white", ms=4.5, zorder=3)
            axes.set(xscale="log", xlabel="learning rate", ylabel=f"{name} after training", ylim=limits)
            label_lr_axis(axes)
        left.set_title("SP", loc="left", fontweight="bold")
        _edges(right, edges)
        marks = (("x", _GREY, "gradient descent diverges beyond"), ("o", "white", "the published code's order does"))
        _legend(figure, curves.widths, [_mark(*mark) for mark in marks])
    return figure


def course_figure(courses: Mapping[float, Curves]) -> "Figure":
    """Figure C.3: f and lambda over the steps of training under lr = eta_0 / n, a column per eta_0."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 5.2), layout="constrained")
        grid = figure.subplots(2, len(courses), squeeze=False, sharex="col")
        for (upper, lower), (eta, curves) in zip(grid.T, courses.items(), strict=True):
            for axes, y_AWS in ((upper, curves.f_AWS), (lower, curves.lambda_AWS)):
                for place, colour in enumerate(width_colours(len(curves.widths))):
                    for update in UPDATES:
                        line = _until_lost(curves.x_AW[:, place], y_AWS[update][:, place, 0])
                        axes.plot(*line, color=colour, **_LINES[update] | {"lw": 1.1})
            upper.set_title(rf"SP, $\eta_n = {eta:g}\,/\,n$", loc="left")
            _limit(upper, curves.f_AWS["simultaneous"])
            lower.set(xlabel="step", ylim=(-0.05, 1.6))
        grid[0, 0].set_ylabel("$f_t$")
        grid[1, 0].set_ylabel(r"$\lambda_t$")
        names = {"simultaneous": "gradient descent", "published": "order of the published code"}
        lines = [Line2D([], [], color=_GREY, label=names[update], **_LINES[update]) for update in UPDATES]
        _legend(figure, next(iter(courses.values())).widths, lines)
    return figure


def published(param: str) -> float | None:
    """The exponent of the linear model's largest stable learning rate; None: of another parameterization."""
    return next((one.exponent for one in exponents(item="Figure C.2") if param in one.facts["param"]), None)


def _until_lost(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """What comes before the first value that is not finite."""
    lost = np.flatnonzero(np.isnan(y))
    end = int(lost[0]) if len(lost) else len(y)
    return x[:end], y[:end]


def _limit(axes: "Axes", shown: Floats) -> None:
    """The range of what is shown, in powers of ten to both sides where it is long."""
    largest = float(np.nanmax(np.abs(shown)))
    if largest < 10:
        low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
        axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        return
    most = int(np.ceil(np.log10(largest)))
    powers = [10.0**power for power in range(1, most + 1)]
    axes.set_yscale("symlog", linthresh=2, linscale=0.6)
    axes.set_ylim(-(10.0**most), 10.0**most)
    axes.set_yticks([*(-power for power in powers[::-1]), 0, *powers])
    axes.minorticks_off()


def _edges(axes: "Axes", edges: Sequence[LinearEdge]) -> None:
    names = list(dict.fromkeys(edge.param for edge in edges))
    for edge in edges:
        place, own = names.index(edge.param) % len(_COLOURS), edge.update == "simultaneous"
        colour, ends = _COLOURS[place], np.array([edge.widths[0], edge.widths[-1]])
        label = f"{words.label(edge.param)}: {words.number(edge.exponent)} ± {words.number(edge.half_width)}"
        known = published(edge.param)
        label += f" (95 %), published {words.number(known, 0)}" if known is not None else " (95 %)"
        axes.plot(edge.widths, edge.lr_W, _MARKS[place], color=colour, mfc=colour if own else "white", ms=5, zorder=4)
        line = edge.lr_at_1 * ends**edge.exponent
        axes.plot(ends, line, color=colour, label=label if own else None, **_LINES[edge.update])
    shown = edges[0].widths[:: -(-len(edges[0].widths) // 5)]
    axes.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="largest stable learning rate")
    axes.set_xticks(shown, list(map(words.level, shown)))
    axes.minorticks_off()
    label_lr_axis(axes, "y")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0, handlelength=2.2)


def _mark(marker: str, face: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], ls="", marker=marker, ms=5, mew=1.5, color=_GREY, mfc=face, label=label)


def _legend(figure: "Figure", widths: Sequence[int], others: Sequence[Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        *(
            Line2D([], [], color=colour, lw=2, label=words.at(WIDTH, width))
            for width, colour in zip(widths, width_colours(len(widths)), strict=True)
        ),
        *others,
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, columnspacing=1.4,
                  handlelength=1.6)  # fmt: skip
