"""Exponents of many studies beside the rules that people quote.

matplotlib's object-oriented API only, imported where it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.analysis.page.figures import STYLE
from pipeline.analysis.study.axis import AXES, of_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKS = "osD^v<>P"
_ROW = 0.14  # inches a study
_SPAN = 1.5  # exponents further out than this from zero are drawn at the border


@dataclass(frozen=True)
class Row:
    """An exponent d log(lr) / d log(level) of one family of curves in one study, and its 95 % interval."""

    source: str
    study: str
    axis: str
    param: str
    optimizer: str
    quantity: str
    """optimal, max_stable."""
    levels: int
    smallest: float
    largest: float
    runs: int
    exponent: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Rule:
    """A quoted exponent of the learning rate."""

    axis: str
    param: str
    """Empty: of all, as `optimizer`, which names a family (sgd, adam)."""
    optimizer: str
    exponent: float
    rule: str
    source: str

    def covers(self, row: Row) -> bool:
        """A table that does not say its family is covered by every rule."""
        return (
            self.axis == row.axis
            and (not self.param or row.param.lower() in ("", self.param))
            and (not self.optimizer or row.optimizer.lower().removesuffix("w") in ("", self.optimizer))
        )


def atlas(rows: Sequence[Row], rules: Sequence[Rule]) -> "Figure":
    """A panel per axis, a line per optimum's exponent, sorted by source and value; a rule is drawn where it covers one
    of the studies."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    optima = [row for row in rows if row.quantity == "optimal"]
    used = {row.axis for row in optima}
    panels = {
        axis: sorted(
            (row for row in optima if row.axis == axis),
            key=lambda row: (row.source, row.param, row.exponent),
            reverse=True,
        )
        for axis in [*(name for name in AXES if name in used), *sorted(used - set(AXES))]
    }
    sources = sorted({row.source for row in optima})
    colour = {source: _COLOURS[i % len(_COLOURS)] for i, source in enumerate(sources)}
    mark = {param: _MARKS[i % len(_MARKS)] for i, param in enumerate(sorted({row.param for row in optima}))}
    heights = [max(1.0, _ROW * len(panel)) for panel in panels.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.2 + sum(heights) + 0.9 * len(heights)), layout="constrained")
        drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (axis, panel) in zip(drawn, panels.items(), strict=True):
            _panel(ax, axis, panel, rules, colour, mark)
        handles = [Line2D([], [], color=colour[source], marker="o", ms=4, lw=1.2, label=source) for source in sources]
        if len(mark) > 1:
            handles += [Line2D([], [], color="#666666", marker=mark[param], ms=4, ls="", label=param) for param in mark]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(5, len(handles)), frameon=False)
    return figure


def _panel(
    ax: "Axes", axis: str, rows: Sequence[Row], rules: Sequence[Rule], colour: dict[str, str], mark: dict[str, str]
) -> None:
    for place, row in enumerate(rows):
        shade, value = colour[row.source], min(max(row.exponent, -_SPAN), _SPAN)
        ax.plot([max(row.ci_low, -_SPAN), min(row.ci_high, _SPAN)], [place, place], color=shade, lw=1.2)
        ax.plot(value, place, mark[row.param], color=shade, ms=4)
    names: dict[float, list[str]] = {}
    for rule in rules:
        if any(rule.covers(row) for row in rows):
            names.setdefault(rule.exponent, []).append(rule.rule)
    for exponent, told in sorted(names.items()):
        ax.axvline(exponent, color="#333333", lw=1, ls=(0, (4, 2)), zorder=0)
        ax.annotate(
            f"{', '.join(dict.fromkeys(told))} ({'0' if exponent == 0 else f'{exponent:+g}'})",
            (exponent, 1), xycoords=("data", "axes fraction"), rotation=25,
            xytext=(0, 3), textcoords="offset points", fontsize=7.5, va="bottom", ha="left",
        )  # fmt: skip
    noun = (AXES.get(axis) or of_column(axis)).noun
    ax.set(ylim=(-0.8, len(rows) - 0.2), xlim=(-_SPAN, _SPAN))
    ax.set_yticks([])
    ax.set_ylabel(f"{noun}\n{len(rows)} {'study' if len(rows) == 1 else 'studies'}")
    ax.set_xlabel(f"exponent of the optimal learning rate along {noun} (bars: 95 %)")
