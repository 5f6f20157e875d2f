"""What posteriors say, in words: where optimum and edge are and go, how sure that is, and what qualifies it."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from pipeline.analysis.fit.collapse import EDGE_GAP
from pipeline.analysis.fit.evidence import EQUAL_WITHIN, agreement, clean_exponents
from pipeline.analysis.fit.fitted import Quantity
from pipeline.analysis.page import words
from pipeline.analysis.page.words import DASH, MINUS, label, lr, number

if TYPE_CHECKING:
    from pipeline.analysis.fit.fitted import Lr
    from pipeline.analysis.fit.study_fit import GroupFit, WidthFit

READING = (
    "Exponents and learning rates are posterior medians, ± the posterior's standard deviation; intervals hold 95 % of it. "
    "Optima are those of one valley shape, fitted to the stable runs of all widths together, so they lie between the "
    "learning rates tried. Edges are bracketed by each seed's last stable and first unstable run. Both allow single widths to "
    "lie off the power law, by a tenth of an octave or so, or as far as the data show."
)

_NAME: dict[Quantity, str] = {"optimal": "optimum", "max_stable": "stability edge"}
_FRACTION = {-1.0: f"{MINUS}1", -0.5: f"{MINUS}1/2", 0.0: "0"}


def width_rows(group: "GroupFit") -> list[tuple[str, ...]]:
    header = ("width", "optimal lr", "95 % interval", "best tried", "max-stable lr", "95 % interval", "runs")
    rows = [
        (
            str(w.width),
            optimum_cell(w),
            _range(w.best),
            lr(w.optimum.lr),
            edge_cell(w),
            _range(w.largest),
            str(w.grid.n_runs),
        )
        for w in group.widths
    ]
    return [header, *rows]


def optimum_cell(w: "WidthFit") -> str:
    """The optimum, or on which side of the learning rates tried it lies."""
    if w.best is not None:
        return lr(w.best.value)
    tried = w.curve.lrs
    if w.grid.all_unstable:
        return f"< {lr(tried[0])}"
    return {"low": f"≤ {lr(tried[0])}", "high": f"≥ {lr(tried[-1])}"}.get(w.optimum.at_edge, DASH)


def edge_cell(w: "WidthFit") -> str:
    """The max-stable learning rate, or the bound that the learning rates tried put on it."""
    if w.largest is not None:
        return lr(w.largest.value)
    if w.grid.all_unstable:
        return f"< {lr(w.curve.lrs[0])}"
    return f"≥ {lr(w.curve.lrs[-1])}" if not w.fitted.n_unstable_seeds else DASH


def _range(value: "Lr | None") -> str:
    return DASH if value is None or math.isnan(value.low) else f"{lr(value.low)} to {lr(value.high)}"


def answer(group: "GroupFit") -> str:
    return " ".join(sentence for sentence in (_optimum(group), _edge(group), _theory(group)) if sentence)


def _optimum(group: "GroupFit") -> str:
    under = f"Under {label(group.param)} with {label(group.optimizer)}"
    found = [w for w in group.widths if w.best is not None]
    if not found:
        if all(w.grid.all_unstable for w in group.widths):
            return f"{under} no learning rate trained stably at any width, so there is no optimum."
        return f"{under} no width shows both sides of its valley, so the optimum is bounded at best: extend the grid."
    first, last = found[0], found[-1]
    assert first.best is not None
    assert last.best is not None
    start = f"{under} the optimal learning rate is {words.lr_with_interval(first.best)} at width {first.width}"
    if len(found) == 1:
        return f"{start}; an exponent needs two widths."
    end = f"{words.lr_with_interval(last.best)} at width {last.width}"
    if group.fitted.edge_limited:
        return (
            f"{start} and {end}. It saturates at the stability edge, from which it is not told apart: its exponent is the "
            f"edge's, {_with_interval(group, 'optimal')}."
        )
    return f"{start} and {end}: exponent {_with_interval(group, 'optimal')}."


def _edge(group: "GroupFit") -> str:
    seen = [w for w in group.widths if w.largest is not None]
    if not any(w.fitted.n_unstable_seeds for w in group.widths):
        largest = min(float(w.curve.lrs[-1]) for w in group.widths)
        return f"No learning rate was unstable: the edge lies beyond {lr(largest)}, the exponent of the edge is not estimable."
    if not group.max_stable.estimable:
        return "Fewer than two widths show both a stable and an unstable learning rate: the exponent of the edge is not estimable."
    first, last = seen[0], seen[-1]
    assert first.largest is not None
    assert last.largest is not None
    return (
        f"The max-stable learning rate is {words.lr_with_interval(first.largest)} at width {first.width} and "
        f"{words.lr_with_interval(last.largest)} at width {last.width}, exponent {_with_interval(group, 'max_stable')}."
    )


def _with_interval(group: "GroupFit", quantity: Quantity) -> str:
    fit = group.fitted.exponent(quantity)
    return words.exponent(fit) + ("" if math.isnan(fit.ci_low) else f" (95 % interval {words.interval(fit)})")


def _theory(group: "GroupFit") -> str:
    parts = []
    for quantity, claim in group.predicted.items():
        posterior = group.fitted.posteriors.get(quantity)
        if posterior is not None:
            found = agreement(posterior, float(claim.exponent))
            where = "inside" if found.inside else "outside"
            parts.append(f"{fraction(claim.exponent)} for the {_NAME[quantity]} ({claim.status}), {where} the interval")
    return f"Theory has {'; '.join(parts)}." if parts else ""


def fraction(value: Fraction) -> str:
    return str(value).replace("-", MINUS)


brief = answer
"""The paragraph of a terminal."""


def notes(group: "GroupFit") -> list[str]:
    found = [*_clean(group), *_grid_ends(group), *_left_out(group), *_edge_bounds(group), *_shapes(group)]
    return [*found, *_data(group)]


def _clean(group: "GroupFit") -> list[str]:
    """Nearest, compatible and equal are three statements, and stay three."""
    found = []
    for quantity, name in _NAME.items():
        posterior = group.fitted.posteriors.get(quantity)
        if posterior is None or (quantity == "optimal" and group.fitted.edge_limited):
            continue
        clean = clean_exponents(posterior)
        odds = ", ".join(f"{_FRACTION[c.value]} {percent(c.p_nearest)}" for c in clean)
        nearest = next((c for c in clean if c.nearest), None)
        if nearest is None:
            text = f"Which clean exponent the {name}'s is nearest to is undecided ({odds})"
        else:
            text = f"Of the clean exponents the {name}'s is nearest to {_FRACTION[nearest.value]} ({percent(nearest.p_nearest)})"
        compatible = [_FRACTION[c.value] for c in clean if c.compatible]
        text += f"; compatible with the interval: {' and '.join(compatible) or 'none of them'}"
        equal = next((c for c in clean if c.equal), None)
        if equal is not None:
            text += f"; within {EQUAL_WITHIN:g} of {_FRACTION[equal.value]} with {percent(equal.p_equal)}"
        found.append(f"{text}.")
    return found


def percent(probability: float) -> str:
    """``97 %``; what rounds to certainty is bounded instead."""
    if probability > 0.995:
        return "> 99 %"
    return "< 1 %" if probability < 0.005 else f"{100 * probability:.0f} %"


def _grid_ends(group: "GroupFit") -> list[str]:
    found = []
    for end, way, sign in (("high", "upwards", "≥"), ("low", "downwards", "≤")):
        at_end = [w for w in group.widths if not w.grid.all_unstable and w.fitted.at_edge in (end, "both")]
        for w in at_end:
            bound = lr(float(w.curve.lrs[-1 if end == "high" else 0]))
            kept = " its place beyond rests on the valley's shape at the other widths;" if w.best is not None else ""
            side = "largest" if end == "high" else "smallest"
            found.append(
                f"At width {w.width} the {side} learning rate tried is the best (optimum {sign} {bound} as far as the grid "
                f"shows);{kept} extend the grid {way}."
            )
    return found


def _left_out(group: "GroupFit") -> list[str]:
    reasons: dict[str, list[int]] = {}
    for w in group.widths:
        if w.fitted.dropped:
            reasons.setdefault(w.fitted.dropped, []).append(w.width)
    found = []
    for reason, widths in reasons.items():
        text = f"{words.capital(words.widths_text(widths))} took no part in the fit of the optimum: {reason}."
        if any(w.grid.all_unstable for w in group.widths if w.width in widths):
            text += " All runs count as unstable, so the edge lies below the smallest learning rate tried; extend the grid downwards."
        found.append(text)
    return found


def _edge_bounds(group: "GroupFit") -> list[str]:
    found = []
    unseen = [w for w in group.widths if not w.fitted.n_unstable_seeds and not w.grid.all_unstable]
    if unseen and len(unseen) < len(group.widths):
        bound = lr(min(float(w.curve.lrs[-1]) for w in unseen))
        found.append(
            f"At {words.widths_text([w.width for w in unseen])} no learning rate was unstable: the edge there is only known to "
            f"lie beyond {bound}, and its place rests on the other widths; extend the grid upwards."
        )
    if group.fitted.edge_limited:
        found.append(
            f"The valley's bottom lies within {EDGE_GAP:g} octave of the edge at half of the widths or more: the optimum's "
            "exponent is reported from the edge's runs, and says nothing beyond them."
        )
    return found


def _shapes(group: "GroupFit") -> list[str]:
    found = []
    for quantity, name in _NAME.items():
        exponent = group.fitted.exponent(quantity)
        if not exponent.estimable or (quantity == "optimal" and group.fitted.edge_limited):
            continue
        shape = group.fitted.check(quantity)
        if shape.verdict == "unchecked" and exponent.n_widths > 2:  # by an estimator without a check
            continue
        if shape.verdict == "unchecked":
            found.append(
                f"Two widths give the {name}'s exponent no lack-of-fit check: whether it is a power law is assumed."
            )
            continue
        local = ", ".join(
            f"{number(one.exponent.median)} ({number(low)} to {number(high)}) from {one.narrow} to {one.wide}"
            for one in shape.local
            for low, high in [one.exponent.interval()]
        )
        if shape.verdict == "drift":
            off = ", ".join(
                f"width {held.width} by {number(held.error)} octaves" for held in shape.held_out if not held.inside
            )
            found.append(
                f"The {name} does not follow one power law: predicted from the other widths, it is off at {off}. Local "
                f"exponents: {local}. Do not extrapolate with the common one."
            )
        else:
            found.append(
                f"One power law fits the {name}: every width lies where the others predict it. Local exponents: {local}."
            )
    return found


def _data(group: "GroupFit") -> list[str]:
    found = []
    missing = sum(w.grid.n_missing for w in group.widths)
    if missing:
        total = missing + sum(w.grid.n_runs for w in group.widths)
        found.append(
            f"{missing} of the {total} points of the grid {'has' if missing == 1 else 'have'} no finished run; the others are used as they are."
        )
    if group.n_seeds == 1 and max(w.grid.seeds for w in group.widths) == 1:
        found.append(
            "One seed per width: the noise of a run is taken from the scatter around the fitted valleys, assumed alike at all "
            "learning rates, and how far the edge scatters over seeds is assumed (about 0.2 octave), not measured."
        )
    if group.fitted.log_loss:
        found.append("The best loss falls several-fold over widths, so valleys were fitted to its logarithm.")
    return found
