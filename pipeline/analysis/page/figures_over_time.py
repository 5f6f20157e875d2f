"""What runs recorded of their inside, drawn against training time, width or learning rate (paper, Fig. 2, E.6, E.7,
E.10, E.15, E.18).

matplotlib's object-oriented API only, imported where it is used.
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.analysis.inside.over_time import MODEL, Line, Panel, Sheet
from pipeline.analysis.page import words, words_inside
from pipeline.analysis.page.figures import STYLE, label_lr_axis
from pipeline.analysis.page.figures_inside import shades, title_of
from pipeline.analysis.page.transfer import width_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADS = {
    "alignment_rms": r"$\Delta W_t,\ x_t$ in RMS norm",
    "alignment_effective": r"$\Delta W_t,\ x_t$ in operator norm",
    "alignment_propagating": r"$W_0,\ \Delta x_t$ in operator norm",
    "effective": r"effective $\|\Delta W_t x_t\|$",
    "propagating": r"propagating $\|W_0 \Delta x_t\|$",
    "output": r"activations $\|W_t x_t\|$",
    "input_change": r"change of the input $\|\Delta x_t\|$",
    "operator_norm_reference": r"$\|W_0\|_{RMS\to RMS}$",
    "operator_norm_update": r"$\|\Delta W_t\|_{RMS\to RMS}$",
    "update_rank": r"update rank $\|\Delta W_t\|_F\,/\,\|\Delta W_t\|_2$",
    "sparsity": "share of zeros after the ReLU",
    "cosine": "cosine with step 0, same input",
    "cosine_other": "cosine with step 0, other inputs",
    "sharpness": "sharpness",
    "ntk": "largest NTK eigenvalue",
}
"""Of the columns, by quantity."""

_LABELS = {"step": "step", "width": "width $n$", "lr": "learning rate"}
_MOST_COLUMNS = 4


def over_time_figures(sheets: Sequence[Sheet]) -> "dict[str, Figure]":
    """Figures by the ends of their file names: of several quantities a figure per family of runs, with a column per
    quantity; of one quantity a column per family. Rows: groups of weights."""
    several = len(sheets[0].asked.parts) > 1
    step = 1 if several else _MOST_COLUMNS
    parts = [sheets[i : i + step] for i in range(0, len(sheets), step)]
    if not several:
        names = [f"-{place}" if len(parts) > 1 else "" for place in range(1, len(parts) + 1)]
    else:
        families = [words_inside.family(part[0].ladder) for part in parts]
        rules = [
            f"{family} {words_inside.lr_rule(part[0].ladder)}" for family, part in zip(families, parts, strict=True)
        ]
        whole = families if len(set(families)) == len(families) else rules  # of several learning rates
        names = [f"-{_plain(name)}" if len(parts) > 1 else "" for name in whole]
    return {name: _figure(part) for name, part in zip(names, parts, strict=True)}


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", words.plain(text)).strip("-").lower()


def _figure(sheets: Sequence[Sheet]) -> "Figure":
    import matplotlib as mpl
    from matplotlib.figure import Figure

    first = sheets[0]
    columns = [(sheet, part) for sheet in sheets for part in sheet.asked.parts]
    rows = list(dict.fromkeys(row for sheet in sheets for row in sheet.rows))
    levels = sorted({line.level for sheet in sheets for panel in sheet.panels.values() for line in panel.lines})
    by_step = first.against == "width"
    colours = dict(zip(levels, shades("Blues", len(levels)) if by_step else width_colours(len(levels)), strict=True))
    high = 2.1 if rows == [MODEL] else 1.55
    wide = max(0.9 + 2.75 * len(columns), 1.0 * len(levels))  # the legend's entries stand in one line
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(wide, 1.15 + high * len(rows)), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.03, w_pad=0.05)  # type: ignore[union-attr,call-arg]
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=_shared(first))
        for place, row in enumerate(rows):
            for column, (sheet, part) in enumerate(columns):
                axes = grid[place, column]
                _draw(axes, sheet.panels.get((part, row)), sheet, colours)
                if place == 0:
                    axes.set_title(_head(sheet, part), pad=6)
                if place == len(rows) - 1:
                    axes.set_xlabel(_LABELS[sheet.against])
            if row != MODEL:
                grid[place, 0].set_ylabel(row, fontweight="bold")
            together = [list(grid[place])] if _shared(first) == "row" else [[axes] for axes in grid[place]]
            for panels in together:
                (_half_a_decade if first.asked.positive else _a_quarter)(panels)
        figure.align_ylabels(grid[:, 0])
        _title(figure, sheets)
        _legend(figure, colours, by_step)
    return figure


def _shared(sheet: Sheet) -> Literal["row", "none"]:
    """Families are compared on one axis; so are the cosines, and shares."""
    return "row" if len(sheet.asked.parts) == 1 or not sheet.asked.positive else "none"


def _head(sheet: Sheet, part: str) -> str:
    if len(sheet.asked.parts) > 1:
        return HEADS[part]
    family = words_inside.family(sheet.ladder)
    told = "\n" + " · ".join(words_inside.settings(sheet.ladder))
    return family + told if sheet.against == "lr" else f"{family}{told}\n{title_of(words_inside.lr_rule(sheet.ladder))}"


def _title(figure: "Figure", sheets: Sequence[Sheet]) -> None:
    first = sheets[0]
    if len(first.asked.parts) == 1:
        text = words.capital(HEADS[first.asked.parts[0]])
    else:
        name = words_inside.family(first.ladder)
        text = name if first.against == "lr" else title_of(words_inside.heading(first.ladder))
    figure.suptitle(text, fontsize=9.5, fontweight="bold", x=0.01, ha="left")


def _draw(axes: "Axes", panel: Panel | None, sheet: Sheet, colours: dict[float, str]) -> None:
    axes.set_xscale("linear" if sheet.against == "step" else "log")
    if panel is None or not panel.lines:
        axes.text(0.5, 0.5, "zero, or not recorded", transform=axes.transAxes, ha="center", color="#888888", fontsize=8)
        axes.tick_params(left=False, labelleft=False)
        axes.grid(False)
        return
    for line in panel.lines:
        _draw_line(axes, line, colours[line.level])
    if sheet.asked.positive:
        axes.set_yscale("log")
    if sheet.against == "width":
        axes.set_xticks(sheet.ladder.widths, [str(n) for n in sheet.ladder.widths])
        axes.minorticks_off()
    elif sheet.against == "lr":
        label_lr_axis(axes, most=20)
    if not math.isnan(panel.exponent) and sheet.against != "lr":
        error = "" if math.isnan(panel.standard_error) else rf"\,\pm\,{panel.standard_error:.2f}"
        power = words.number(panel.exponent).replace(words.MINUS, "-")
        axes.text(0.98, 0.96, rf"$n^{{{power}{error}}}$", transform=axes.transAxes, ha="right", va="top", fontsize=9)


def _draw_line(axes: "Axes", line: Line, colour: str) -> None:
    if np.any(line.low < line.high):
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, lw=0)
    axes.plot(line.x, line.mean, color=colour, lw=1.5, marker="o", ms=2.6)


def _a_quarter(panels: "Sequence[Axes]") -> None:
    """At least, of the range of shares and cosines, so that noise does not look like a slope."""
    ends = np.array([axes.dataLim.intervaly for axes in panels if axes.lines])
    missing = max(0.0, 0.25 - float(np.ptp(ends))) / 2 if len(ends) else 0.0
    for axes in panels if missing else ():
        axes.set_ylim(ends.min() - missing, ends.max() + missing)


def _half_a_decade(panels: "Sequence[Axes]") -> None:
    """At least, so that noise does not look like a slope, and room above for the exponent; of panels with one scale."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    drawn = [axes for axes in panels if axes.lines]
    ends = np.array([axes.dataLim.intervaly for axes in drawn])
    for axes in drawn:
        low, high = math.log10(ends[:, 0].min()), math.log10(ends[:, 1].max())
        missing = max(0.0, 0.5 - (high - low)) / 2
        low, high = low - missing - 0.05, high + missing + 0.05
        axes.set_ylim(10**low, 10 ** (high + 0.28 * (high - low)))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 1.3 else (1,), numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.lr(value)))
        axes.yaxis.set_minor_locator(NullLocator())


def _legend(figure: "Figure", colours: dict[float, str], by_step: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, lw=1.5, marker="o", ms=2.6, label=f"{'step' if by_step else 'width'} {level:g}")
        for level, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, columnspacing=1.4)
