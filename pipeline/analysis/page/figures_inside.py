"""The coordinate check as a figure (paper, Fig. 4 and E.16), and what grows with training or width: sharpness,
calibration.

matplotlib's object-oriented API only, imported where it is used. Shapes: W widths, S seeds.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.analysis.inside.check import Ladder, Slope
from pipeline.analysis.inside.over_time import rows_of, shown_steps
from pipeline.analysis.page import words, words_inside
from pipeline.analysis.page.figures import STYLE
from pipeline.analysis.page.transfer import width_colours
from pipeline.analysis.study.runs import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = words_inside.COLUMNS
HEADS = {
    "effective": r"effective update $\|\Delta W_t x_t\|$",
    "propagating": r"propagating update $\|W_0 \Delta x_t\|$",
    "output": r"activations $\|W_t x_t\|$",
}
_COLOURS = ("Blues", "Greens", "Purples")  # of the columns, from light to dark over the steps
PREDICTED_COLOUR = "#d55e00"


def coordinate_figure(ladder: Ladder) -> "Figure":
    """Rows: groups of weights; columns: effective and propagating updates, activations; x: width; a line per step, the
    darker the later, with every seed's value of the last one; the fitted exponent of the last step, and the predicted
    slope dashed beside it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [
        label
        for label in rows_of(ladder, ladder.labels)
        if any(ladder.group(q, label, ladder.steps[-1]) for q in COLUMNS)
    ]
    steps = shown_steps(ladder.steps)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.9 + 1.45 * len(rows)), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.03, w_pad=0.04)  # type: ignore[union-attr,call-arg]
        grid = figure.subplots(len(rows), len(COLUMNS), squeeze=False, sharex=True)
        for place, label in enumerate(rows):
            for column, quantity in enumerate(COLUMNS):
                axes = grid[place, column]
                colours = shades(_COLOURS[column], len(steps))
                _panel(axes, ladder, quantity, label, steps, colours)
                if place == 0:
                    axes.set_title(HEADS[quantity], pad=6)
                if place == len(rows) - 1:
                    axes.set_xlabel("width $n$")
            grid[place, 0].set_ylabel(label, fontweight="bold")
        figure.suptitle(title_of(words_inside.heading(ladder)), fontsize=9.5, fontweight="bold", x=0.01, ha="left")
        _legend(figure, steps)
    return figure


def name_of(ladder: Ladder) -> str:
    """File name of its figure."""
    exponent = "mixed" if ladder.lr_exponent is None else str(ladder.lr_exponent).replace("/", "_")
    loss = f"-{ladder.loss}" if words.label(ladder.loss) else ""
    cell = "".join(
        f"-{key.rpartition('.')[2]}{re.sub('[^A-Za-z0-9.+-]', '_', value)}" for key, value in ladder.cell.items()
    )
    return f"coordcheck-{ladder.param}-{ladder.optimizer}{loss}{cell}-lr{words.lr(ladder.lr)}-n{exponent}"


def title_of(text: str) -> str:
    """A title in words with its power set as such."""
    return re.sub(rf"\^([{words.MINUS}\d/]+)$", lambda power: f"$^{{{power[1].replace(words.MINUS, '-')}}}$", text)


def shades(name: str, n: int) -> list[str]:
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in mpl.colormaps[name](np.linspace(0.35, 0.95, n) if n > 1 else [0.8])]


def _panel(
    axes: "Axes", ladder: Ladder, quantity: str, label: str, steps: Sequence[int], colours: Sequence[str]
) -> None:
    last = ladder.group(quantity, label, steps[-1])
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(list(ladder.widths), [str(width) for width in ladder.widths])
    axes.minorticks_off()
    if last is None:
        axes.text(0.5, 0.5, "zero", transform=axes.transAxes, ha="center", va="center", color="#888888")
        axes.tick_params(left=False, labelleft=False)
        axes.grid(False)
        return
    highest = 0.0
    for step, colour in zip(steps, colours, strict=True):
        fitted = ladder.group(quantity, label, step)
        if fitted is None:
            continue
        highest = max(highest, _at_middle(fitted, ladder.widths))
        values_WS = ladder.values(quantity, label, step)
        axes.plot(ladder.widths, _means(values_WS), color=colour, lw=1.5, marker="o", ms=2.6, zorder=3)
        if step == steps[-1]:
            for seed in range(values_WS.shape[1]):
                axes.plot(ladder.widths, values_WS[:, seed], "o", color=colour, ms=2, alpha=0.3, mew=0, zorder=2)
    _prediction(axes, last, ladder.widths, highest)
    _limits(axes)
    text = rf"$n^{{{words.number(last.exponent).replace(words.MINUS, '-')}}}$"
    if not math.isnan(last.standard_error):
        text = rf"$n^{{{words.number(last.exponent).replace(words.MINUS, '-')}\,\pm\,{last.standard_error:.2f}}}$"
    axes.text(0.97, 0.95, text, transform=axes.transAxes, ha="right", va="top", fontsize=9.5, color=colours[-1])
    if last.predicted is not None:
        axes.text(0.97, 0.78, _predicted_text(last), transform=axes.transAxes, ha="right", va="top", fontsize=8,
                  color=PREDICTED_COLOUR)  # fmt: skip


def _means(values_WS: Floats) -> Floats:
    """Geometric means over seeds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values_WS)
    found: Floats = np.exp(
        np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else math.nan for row in logs])
    )
    return found


def _predicted_text(e: Slope) -> str:
    assert e.predicted is not None
    power = words_inside.predicted_power(e.predicted).removeprefix("n^").replace(words.MINUS, "-")
    return rf"$n^{{{power}}}$"


def _at_middle(e: Slope, widths: Sequence[int]) -> float:
    """The fitted value at the geometric middle of the widths."""
    return float(2**e.intercept * math.sqrt(widths[0] * widths[-1]) ** e.exponent)


def _prediction(axes: "Axes", e: Slope, widths: Sequence[int], highest: float) -> None:
    """A line of the predicted slope, above the highest of the others."""
    if e.predicted is None:
        return
    n = np.array([widths[0], widths[-1]], dtype=np.float64)
    line = 1.5 * highest * (n / math.sqrt(widths[0] * widths[-1])) ** e.predicted
    axes.plot(n, line, ls=(0, (4, 2)), color=PREDICTED_COLOUR, lw=1.3, zorder=4)


def _limits(axes: "Axes") -> None:
    """At least a decade, so that noise does not look like a slope, and room above for the exponents."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axes.dataLim.intervaly
    low, high = math.log10(low), math.log10(high)
    missing = max(0.0, 1.0 - (high - low)) / 2
    low, high = low - missing - 0.08, high + missing + 0.08
    axes.set_ylim(10**low, 10 ** (high + 0.45 * (high - low)))
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())


def _legend(figure: "Figure", steps: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    greys = shades("Greys", len(steps))
    handles = [
        Line2D([], [], color=colour, lw=1.5, marker="o", ms=2.6, label=f"step {step}")
        for step, colour in zip(steps, greys, strict=True)
    ]
    handles.append(Line2D([], [], color=PREDICTED_COLOUR, ls=(0, (4, 2)), lw=1.3, label="predicted slope"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, columnspacing=1.4)


# ---------------------------------------------------------------------------------------------------------------------
# Sharpness over training, calibration over width

Curve = tuple[Floats, Floats]


def sharpness_figure(curves: Mapping[str, Mapping[int, Sequence[Curve]]]) -> "Figure":
    """Largest Hessian eigenvalue against step, a panel per parameterization, a colour per width (Noci et al. 2024):
    `curves` holds (steps, values) per seed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    widths = sorted({width for panel in curves.values() for width in panel})
    colours = dict(zip(widths, width_colours(len(widths)), strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.7 * len(curves), 3.2), layout="constrained")
        grid = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
        for axes, (title, panel) in zip(grid, curves.items(), strict=True):
            for width in sorted(panel):
                for seed, (steps, values) in enumerate(panel[width]):
                    axes.plot(steps, values, color=colours[width], lw=1.5, alpha=1 if seed == 0 else 0.45,
                              label=f"width {width}" if seed == 0 else None)  # fmt: skip
            head, _, rest = title.rpartition(" · ")
            axes.set_title(f"{head}\n{title_of(rest)}", loc="left")
            axes.set(xlabel="step", yscale="log")
        grid[0].set_ylabel("sharpness")
        grid[-1].legend(frameon=False)
    return figure


def calibration_figure(points: Mapping[str, Mapping[int, tuple[float, float]]]) -> "Figure":
    """Expected calibration error and mean largest probability on the validation split against width, a line per
    parameterization."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    heads = ("expected calibration error", "mean largest probability")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 2.9), layout="constrained")
        for place, (axes, head) in enumerate(zip(figure.subplots(1, 2), heads, strict=True)):
            for (title, by_width), colour, mark in zip(
                points.items(), _cycle(len(points)), "os^Dv<>p" * 8, strict=False
            ):
                widths = sorted(by_width)
                axes.plot(
                    widths,
                    [by_width[n][place] for n in widths],
                    color=colour,
                    marker=mark,
                    ms=4.5,
                    label=title_of(title),
                )
                axes.set(xscale="log", xlabel="width $n$", title=head)
                axes.set_xticks(widths, [str(n) for n in widths])
            axes.set_ylim(bottom=0)
            axes.minorticks_off()
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", frameon=False, ncols=2)
    return figure


def _cycle(n: int) -> list[str]:
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"]
    return [colours[i % len(colours)] for i in range(n)]
