"""The published practice in words: what grid values and a straight line through them say, and what they cannot."""

import math
from collections.abc import Sequence

from pipeline.analysis.fit.exponent import LrLaw, slope_step
from pipeline.analysis.fit.study_fit import GroupFit, WidthFit
from pipeline.analysis.page import words
from pipeline.analysis.page.words import MINUS, TIMES, label, lr, number

READING = (
    "± is the standard error of a least-squares line through the values found on the grid, and the 95 % interval "
    f"Student's t on (widths {MINUS} 2) degrees of freedom, at three widths 12.7 standard errors to either side."
)


def width_rows(group: GroupFit) -> list[tuple[str, ...]]:
    rows = [
        (
            str(w.width),
            optimum_cell(w),
            number(w.optimum.loss, 3),
            lr(w.edge.last_stable_lr),
            unstable_cell(w),
            str(w.grid.n_runs),
        )
        for w in group.widths
    ]
    return [("width", "best lr", "loss there", "stable up to", "unstable from", "runs"), *rows]


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
        said.append(f"{_widths(lost).capitalize()} took no part in the exponents; extend the grid downwards there.")
    for end, side, way in (("low", "lowest", "downwards"), ("high", "highest", "upwards")):
        at_end = [w for w in group.widths if w.optimum.at_edge in (end, "both")]
        if at_end:
            said.append(
                f"At {_widths(at_end)} the best learning rate is the {side} tried, so the true optimum may lie beyond "
                f"it and the exponent of the optimum is not to be trusted; extend the grid {way}."
            )
    for quantity, law in (("optimum", group.optimal), ("stability edge", group.max_stable)):
        if law.n_widths == 2:
            said.append(f"The exponent of the {quantity} is the slope between two widths: it has no error estimate.")
        elif law.exact:
            said.append(
                f"The exponent of the {quantity} has no error estimate: the grid points found happen to lie exactly on "
                "a line, which is the grid's doing and no certainty."
            )
    if group.optimal.estimable and not math.isnan(group.lr_ratio):
        step = slope_step(group.optimal.widths, group.lr_ratio)
        said.append(
            f"Learning rates were tried in steps of {TIMES}{group.lr_ratio:.3g}: one step at the narrowest or widest "
            f"width moves the exponent of the optimum by {number(step)}. Errors show scatter around the line only, "
            "not this."
        )
    if group.n_seeds == 1:
        said.append("One seed per point: differences between neighbouring learning rates may be seed noise.")
    return said


def _optimum_sentence(group: GroupFit) -> str:
    best = [w for w in group.widths if w.optimum.index is not None]
    lost = [w for w in group.widths if w.optimum.index is None]
    under = f"Under {label(group.param)} with {label(group.optimizer)}"
    if not best:
        return f"{under} no learning rate trained stably at any width, so there is no optimum."
    first, last = best[0], best[-1]
    if len(best) == 1:
        at_first = f"the best learning rate at width {first.width} is {lr(first.optimum.lr)}"
        return f"{under} {at_first}; an exponent needs two widths."
    if first.optimum.lr == last.optimum.lr:
        moved = f"is {optimum_cell(first)} at width {first.width} and {optimum_cell(last)} at width {last.width}"
    else:
        moved = f"moved from {optimum_cell(first)} at width {first.width} to {optimum_cell(last)} at width {last.width}"
    return f"{under} the best learning rate {moved}: exponent {_with_interval(group.optimal)}." + (
        f" At {_widths(lost)} every learning rate was unstable." if lost else ""
    )


def _edge_sentence(group: GroupFit) -> str:
    seen = [w for w in group.widths if not w.edge.censored]
    unseen = [w for w in group.widths if w.edge.censored and w.optimum.index is not None]
    beyond = ""
    if unseen:
        largest = lr(min(w.curve.lrs[-1] for w in unseen))
        beyond = f"At {_widths(unseen)} no learning rate up to {largest} was unstable: the edge lies beyond it."
    if not seen:
        return beyond
    first, last = seen[0], seen[-1]
    start = f"Training became unstable from {lr(first.edge.min_unstable_lr)} at width {first.width}"
    if len(seen) == 1:
        text = f"{start}; an exponent needs two widths."
    else:
        end = f"from {lr(last.edge.min_unstable_lr)} at width {last.width}"
        text = f"{start} and {end}: exponent {_with_interval(group.max_stable)}."
    return f"{text} {beyond}".rstrip()


def _with_interval(law: LrLaw) -> str:
    if law.exact:
        return f"{words.exponent(law)} (grid points exactly on a line, so there is no error estimate)"
    if math.isnan(law.ci_low):
        return f"{words.exponent(law)} (two widths, so there is no error estimate)"
    verdict = f", too wide to tell {number(-1, 0)} from 0" if law.ci_low < -1 and law.ci_high > 0 else ""
    return f"{words.exponent(law)} (95 % interval {words.interval(law)}{verdict})"


def _widths(widths: Sequence[WidthFit]) -> str:
    return words.widths_text([w.width for w in widths])
