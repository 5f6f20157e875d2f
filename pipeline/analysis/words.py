"""What a fit says, in words and numbers for people, with typographic signs; `plain` turns them into ASCII."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.analysis.exponents import Exponent, slope_step
from pipeline.analysis.optimum import Metric

if TYPE_CHECKING:
    from pipeline.analysis.fit import GroupFit, StudyFit, WidthFit

MINUS, DASH, TIMES = "\u2212", "\u2013", "\u00d7"

METRIC_NAME: dict[Metric, str] = {"train": "final training loss", "val": "final validation loss"}

_LABELS = {
    "sp": "SP",
    "mup": "μP",
    "ntp": "NTP",
    "sp_full_align": "SP-full-align",
    "musoli": "MUSOLI",
    "sp_transition": "SP-transition",
    "adamw": "AdamW",
    "adam": "Adam",
    "mse": "MSE",
    "softmax_mse": "softmax + MSE",
    "sgd": "SGD",
}


_ASCII = {
    ord(sign): text
    for sign, text in {MINUS: "-", DASH: "-", TIMES: "x", "±": "+-", "≤": "<=", "·": "/", "μ": "mu"}.items()
}


def unit(fit: "StudyFit") -> str:
    """What losses are measured in."""
    config = fit.study.config
    of = "example" if config.is_classification else "token"
    return f"nats per {of}" if config.loss == "cross_entropy" else f"squared error per {of}"


def label(name: str) -> str:
    """How people write the name of a parameterization or an optimizer."""
    return _LABELS.get(name, name)


def group_title(group: "GroupFit") -> str:
    parts = [label(group.param), label(group.optimizer)]
    return " · ".join(parts if group.loss == "cross_entropy" else [*parts, label(group.loss)])


def lr(value: float) -> str:
    """``4e-3``, ``1.6e-2``; three digits at most."""
    if not math.isfinite(value):
        return DASH
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if int(exponent) else mantissa


def number(value: float, digits: int = 2) -> str:
    """A signed number with a proper minus sign, never minus zero."""
    if not math.isfinite(value):
        return DASH
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def exponent(fit: Exponent) -> str:
    """``-0.50 ± 0.10``, without an error where two widths or points on a line allow none."""
    if not fit.estimable:
        return "not estimable"
    if math.isnan(fit.standard_error) or fit.exact:
        return number(fit.exponent)
    return f"{number(fit.exponent)} ± {number(fit.standard_error)}"


def interval(fit: Exponent) -> str:
    return DASH if math.isnan(fit.ci_low) or fit.exact else f"{number(fit.ci_low)} to {number(fit.ci_high)}"


def optimum_cell(width: "WidthFit") -> str:
    optimum = width.optimum
    if optimum.index is None:
        return f"< {lr(width.curve.lrs[0])}"
    where = {"no": "", "low": " (lowest tried)", "high": " (highest tried)", "both": " (only one tried)"}
    return lr(optimum.lr) + where[optimum.at_edge]


def unstable_cell(width: "WidthFit") -> str:
    if width.optimum.index is None:
        return f"≤ {lr(width.curve.lrs[0])}"
    return f"> {lr(width.curve.lrs[-1])}" if width.edge.censored else lr(width.edge.min_unstable_lr)


def answer(group: "GroupFit") -> str:
    """Where optimum and stability edge went with width: the paragraph a hurried reader takes away."""
    return f"{_optimum_sentence(group)} {_edge_sentence(group)}".rstrip()


def notes(group: "GroupFit") -> list[str]:
    """What the numbers of `group` cannot tell, one sentence each."""
    found = []
    lost = [w for w in group.widths if w.optimum.index is None]
    if lost:
        found.append(f"{_widths(lost).capitalize()} took no part in the exponents; extend the grid downwards there.")
    for end, side, way in (("low", "lowest", "downwards"), ("high", "highest", "upwards")):
        at_end = [w for w in group.widths if w.optimum.at_edge in (end, "both")]
        if at_end:
            found.append(
                f"At {_widths(at_end)} the best learning rate is the {side} tried, so the true optimum may lie beyond "
                f"it and the exponent of the optimum is not to be trusted; extend the grid {way}."
            )
    for quantity, fit in (("optimum", group.optimal), ("stability edge", group.max_stable)):
        if fit.n_widths == 2:
            found.append(f"The exponent of the {quantity} is the slope between two widths: it has no error estimate.")
        elif fit.exact:
            found.append(
                f"The exponent of the {quantity} has no error estimate: the grid points found happen to lie exactly on a "
                "line, which is the grid's doing and no certainty."
            )
    if group.optimal.estimable and not math.isnan(group.lr_ratio):
        step = slope_step([w.width for w in group.widths if w.optimum.index is not None], group.lr_ratio)
        found.append(
            f"Learning rates were tried in steps of {TIMES}{group.lr_ratio:.3g}: one step at the narrowest or widest width "
            f"moves the exponent of the optimum by {number(step)}. Errors show scatter around the line only, not this."
        )
    if group.n_seeds == 1:
        found.append("One seed per point: differences between neighbouring learning rates may be seed noise.")
    return found


def left_out(fit: "StudyFit") -> str:
    """Empty, or which runs the fit did not use."""
    study = fit.study
    parts = [f"{study.n_unfinished} unfinished"] if study.n_unfinished else []
    parts += [f"{study.n_failed} failed"] if study.n_failed else []
    total = study.n_unfinished + study.n_failed
    return f"{' and '.join(parts)} run{'s' * (total > 1)} left out" if parts else ""


def plain(text: str) -> str:
    """ASCII for terminals and logs of any encoding."""
    return text.translate(_ASCII)


def _optimum_sentence(group: "GroupFit") -> str:
    found = [w for w in group.widths if w.optimum.index is not None]
    lost = [w for w in group.widths if w.optimum.index is None]
    under = f"Under {label(group.param)} with {label(group.optimizer)}"
    if not found:
        return f"{under} no learning rate trained stably at any width, so there is no optimum."
    first, last = found[0], found[-1]
    if len(found) == 1:
        return f"{under} the best learning rate at width {first.width} is {lr(first.optimum.lr)}; an exponent needs two widths."
    if first.optimum.lr == last.optimum.lr:
        moved = f"is {optimum_cell(first)} at width {first.width} and {optimum_cell(last)} at width {last.width}"
    else:
        moved = f"moved from {optimum_cell(first)} at width {first.width} to {optimum_cell(last)} at width {last.width}"
    return f"{under} the best learning rate {moved}: exponent {_with_interval(group.optimal)}." + (
        f" At {_widths(lost)} every learning rate was unstable." if lost else ""
    )


def _edge_sentence(group: "GroupFit") -> str:
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
        text = f"{start} and from {lr(last.edge.min_unstable_lr)} at width {last.width}: exponent {_with_interval(group.max_stable)}."
    return f"{text} {beyond}".rstrip()


def _with_interval(fit: Exponent) -> str:
    if fit.exact:
        return f"{exponent(fit)} (grid points exactly on a line, so there is no error estimate)"
    if math.isnan(fit.ci_low):
        return f"{exponent(fit)} (two widths, so there is no error estimate)"
    verdict = f", too wide to tell {number(-1, 0)} from 0" if fit.ci_low < -1 and fit.ci_high > 0 else ""
    return f"{exponent(fit)} (95 % interval {interval(fit)}{verdict})"


def _widths(widths: Sequence["WidthFit"]) -> str:
    values = [str(w.width) for w in widths]
    if len(values) == 1:
        return f"width {values[0]}"
    return f"widths {', '.join(values[:-1])} and {values[-1]}"
