"""The published practice in words: what grid values and a straight line through them say, and what they cannot."""

import math
from collections.abc import Sequence

from pipeline.analysis.fit.exponent import LrLaw, slope_step
from pipeline.analysis.fit.study_fit import GroupFit, WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.page.words import MINUS, TIMES, lr, number
from pipeline.analysis.study.axis import Axis

READING = (
    "± is the standard error of a least-squares line through the values found on the grid, and the 95 % interval "
    f"Student's t on ({{nouns}} {MINUS} 2) degrees of freedom, at three {{nouns}} 12.7 standard errors to either side."
)


def width_rows(group: GroupFit) -> list[tuple[str, ...]]:
    rows = [
        (
            words.level(w.width),
            optimum_cell(w),
            number(w.optimum.loss, 3),
            lr(w.edge.last_stable_lr),
            unstable_cell(w),
            str(w.grid.n_runs),
        )
        for w in group.widths
    ]
    return [(group.axis.noun, "best lr", "loss there", "stable up to", "unstable from", "runs"), *rows]


def optimum_cell(width: WidthFit) -> str:
    optimum = width.optimum
    if optimum.index is None:
        return f"< {lr(width.curve.lrs[0])}"
    where = {"no": "", "low": " (lowest tried)", "high": " (highest tried)", "both": " (only one tried)"}
    return lr(optimum.lr) + where[optimum.at_edge]


def unstable_cell(width: WidthFit) -> str:
    if width.optimum.index is None:
        return f"≤ {lr(width.curve.lrs[0])}"
    return f"> {lr(width.curve.lrs[-1])}" if width.edge.censored else lr(width.edge.min_unstable_lr)


def answer(group: GroupFit) -> str:
    return f"{_optimum_sentence(group)} {_edge_sentence(group)}".rstrip()


def notes(group: GroupFit) -> list[str]:
    said = []
    lost = [w for w in group.widths if w.optimum.index is None]
    if lost:
        said.append(
            f"{words.capital(_levels(group, lost))} took no part in the exponents; extend the grid downwards there."
        )
    for end, side, way in (("low", "lowest", "downwards"), ("high", "highest", "upwards")):
        at_end = [w for w in group.widths if w.optimum.at_edge in (end, "both")]
        if at_end:
            said.append(
                f"At {_levels(group, at_end)} the best learning rate is the {side} tried, so the true optimum may lie "
                f"beyond it and the exponent of the optimum is not to be trusted; extend the grid {way}."
            )
    for quantity, law in (("optimum", group.optimal), ("stability edge", group.max_stable)):
        if law.n_widths == 2:
            said.append(
                f"The exponent of the {quantity} is the slope between two {group.axis.nouns}: it has no error estimate."
            )
        elif law.exact:
            said.append(
                f"The exponent of the {quantity} has no error estimate: the grid points found happen to lie exactly on "
                "a line, which is the grid's doing and no certainty."
            )
    if group.optimal.estimable and not math.isnan(group.lr_ratio):
        step = slope_step(group.optimal.widths, group.lr_ratio)
        said.append(
            f"Learning rates were tried in steps of {TIMES}{group.lr_ratio:.3g}: one step at the {group.axis.smallest} "
            f"or {group.axis.largest} {group.axis.noun} moves the exponent of the optimum by {number(step)}. Errors "
            "show scatter around the line only, not this."
        )
    if group.n_seeds == 1:
        said.append("One seed per point: differences between neighbouring learning rates may be seed noise.")
    return said


def _optimum_sentence(group: GroupFit) -> str:
    best = [w for w in group.widths if w.optimum.index is not None]
    lost = [w for w in group.widths if w.optimum.index is None]
    under, axis = words.under(group), group.axis
    if not best:
        return f"{under} no learning rate trained stably at any {axis.noun}, so there is no optimum."
    first, last = best[0], best[-1]
    if len(best) == 1:
        at_first = f"the best learning rate at {words.at(axis, first.width)} is {lr(first.optimum.lr)}"
        return f"{under} {at_first}; an exponent needs two {axis.nouns}."
    if first.optimum.lr == last.optimum.lr:
        moved = f"is {_cell_at(axis, first)} and {_cell_at(axis, last)}"
    else:
        moved = f"moved from {_cell_at(axis, first)} to {_cell_at(axis, last)}"
    return f"{under} the best learning rate {moved}: exponent {_with_interval(group, group.optimal)}." + (
        f" At {_levels(group, lost)} every learning rate was unstable." if lost else ""
    )


def _edge_sentence(group: GroupFit) -> str:
    seen = [w for w in group.widths if not w.edge.censored]
    unseen = [w for w in group.widths if w.edge.censored and w.optimum.index is not None]
    beyond = ""
    if unseen:
        largest = lr(min(w.curve.lrs[-1] for w in unseen))
        beyond = f"At {_levels(group, unseen)} no learning rate up to {largest} was unstable: the edge lies beyond it."
    if not seen:
        return beyond
    first, last = seen[0], seen[-1]
    start = f"Training became unstable from {lr(first.edge.min_unstable_lr)} at {words.at(group.axis, first.width)}"
    if len(seen) == 1:
        text = f"{start}; an exponent needs two {group.axis.nouns}."
    else:
        end = f"from {lr(last.edge.min_unstable_lr)} at {words.at(group.axis, last.width)}"
        text = f"{start} and {end}: exponent {_with_interval(group, group.max_stable)}."
    return f"{text} {beyond}".rstrip()


def _with_interval(group: GroupFit, law: LrLaw) -> str:
    if law.exact:
        return f"{words.exponent(law)} (grid points exactly on a line, so there is no error estimate)"
    if math.isnan(law.ci_low):
        return f"{words.exponent(law)} (two {group.axis.nouns}, so there is no error estimate)"
    verdict = f", too wide to tell {number(-1, 0)} from 0" if law.ci_low < -1 and law.ci_high > 0 else ""
    return f"{words.exponent(law)} (95 % interval {words.interval(law)}{verdict})"


def _levels(group: GroupFit, widths: Sequence[WidthFit]) -> str:
    return words.levels(group.axis, [w.width for w in widths])


def _cell_at(axis: Axis, width: WidthFit) -> str:
    return f"{optimum_cell(width)} at {words.at(axis, width.width)}"
