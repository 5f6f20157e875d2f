"""What an estimate says, in words: where optimum and edge are and go, how sure that is, and what qualifies it."""

from pipeline.analysis.fit.estimate import EDGE_GAP
from pipeline.analysis.fit.evidence import EQUAL_WITHIN, agreement, clean_exponents
from pipeline.analysis.fit.exponent import LrLaw
from pipeline.analysis.fit.fitted import QUANTITIES, LeftOut, Lr, Quantity
from pipeline.analysis.fit.study_fit import GroupFit, WidthFit
from pipeline.analysis.page import words, words_edge, words_theory
from pipeline.analysis.page.words import DASH, MINUS, lr, number

READING = "Intervals hold 95 %; what the estimator does not tell is left out."
NAME: dict[Quantity, str] = {"optimal": "optimum", "max_stable": "stability edge"}
LEFT_OUT = {
    LeftOut.UNSTABLE: "nothing trained stably there",
    LeftOut.FEW_RUNS: "fewer than three learning rates with stable runs lie near its optimum",
    LeftOut.ONE_SIDED: "no {noun} shows both sides of its valley",
    LeftOut.NO_VALLEY: "no valley: losses do not depend on the learning rate beyond noise",
}
_FRACTION = {-1.0: f"{MINUS}1", -0.5: f"{MINUS}1/2", 0.0: "0"}


def left_out(group: GroupFit, reason: LeftOut) -> str:
    """Why a width took no part."""
    return LEFT_OUT[reason].format(noun=group.axis.noun)


def width_rows(group: GroupFit) -> list[tuple[str, ...]]:
    """The table of the widths, header first."""
    edge = f"{group.estimator.edge_name} lr"
    header = (group.axis.noun, "optimal lr", "95 % interval", "best tried", edge, "95 % interval", "runs")
    rows = [
        (
            words.level(w.width),
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


def optimum_cell(w: WidthFit) -> str:
    """The optimum, or on which side of the learning rates tried it lies."""
    if w.best is not None:
        return lr(w.best.value)
    tried = w.curve.lrs
    if w.grid.all_unstable:
        return f"< {lr(tried[0])}"
    return {"low": f"≤ {lr(tried[0])}", "high": f"≥ {lr(tried[-1])}"}.get(w.optimum.at_edge, DASH)


def edge_cell(w: WidthFit) -> str:
    """The edge, or the bound that the learning rates tried put on it."""
    if w.largest is not None:
        return lr(w.largest.value)
    if w.grid.all_unstable:
        return f"< {lr(w.curve.lrs[0])}"
    return f"≥ {lr(w.curve.lrs[-1])}" if not w.grid.n_unstable_seeds else DASH


def _range(value: Lr | None) -> str:
    return words.span(value) if value is not None and value.has_interval else DASH


def answer(group: GroupFit) -> str:
    """Where optimum and stability edge went with width: the paragraph a hurried reader takes away."""
    return " ".join(sentence for sentence in (_optimum(group), _edge(group), _theory(group)) if sentence)


def _optimum(group: GroupFit) -> str:
    under, axis = words.under(group), group.axis
    optima = [(w.width, w.best) for w in group.widths if w.best is not None]
    if not optima:
        if all(w.grid.all_unstable for w in group.widths):
            return f"{under} no learning rate trained stably at any {axis.noun}, so there is no optimum."
        if any(w.fitted.left_out is LeftOut.NO_VALLEY for w in group.widths):
            return f"{under} there is no valley: losses do not depend on the learning rate beyond noise."
        both = f"no {axis.noun} shows both sides of its valley"
        return f"{under} {both}, so the optimum is bounded at best: extend the grid."
    start = f"{under} the optimal learning rate is {_at(group, *optima[0])}"
    if len(optima) == 1:
        return f"{start}; an exponent needs two {axis.nouns}."
    exponent = _with_interval(group.optimal)
    if group.fitted.edge_limited:
        return (
            f"{start} and {_at(group, *optima[-1])}. It saturates at the stability edge, from which it is not told "
            f"apart: its exponent is the edge's, {exponent}."
        )
    return f"{start} and {_at(group, *optima[-1])}: exponent {exponent}."


def _edge(group: GroupFit) -> str:
    if not any(w.grid.n_unstable_seeds for w in group.widths):
        beyond = lr(min(float(w.curve.lrs[-1]) for w in group.widths))
        return (
            f"No learning rate was unstable: the edge lies beyond {beyond}, the exponent of the edge is not estimable."
        )
    if not group.max_stable.estimable:
        return (
            f"Fewer than two {group.axis.nouns} show both a stable and an unstable learning rate: the exponent of the "
            "edge is not estimable."
        )
    edges = [(w.width, w.largest) for w in group.widths if w.largest is not None]
    return (
        f"The {group.estimator.edge_name} learning rate is {_at(group, *edges[0])} and {_at(group, *edges[-1])}, "
        f"exponent {_with_interval(group.max_stable)}."
    )


def _at(group: GroupFit, width: float, value: Lr) -> str:
    return f"{words.lr_with_interval(value)} at {words.at(group.axis, width)}"


def _with_interval(law: LrLaw) -> str:
    interval = f"95 % interval {words.interval(law)}" if law.has_interval else "no interval"
    return f"{words.exponent(law)} ({interval})"


def _theory(group: GroupFit) -> str:
    parts = []
    for quantity, claim in group.predicted.items():
        law = group.fitted.laws[quantity]
        if law.estimable:
            text = f"{words_theory.fraction(claim.exponent)} for the {NAME[quantity]} ({claim.status})"
            posterior = group.fitted.posteriors.get(quantity)
            if posterior is not None:
                inside = agreement(posterior, float(claim.exponent)).inside
                text += f", {'inside' if inside else 'outside'} the interval"
            parts.append(text)
    return f"Theory has {'; '.join(parts)}." if parts else ""


def notes(group: GroupFit) -> list[str]:
    """What qualifies the numbers of `group`, one sentence each."""
    return [
        *_clean(group),
        *_grid_ends(group),
        *_left_out(group),
        *_edge_bounds(group),
        *words_edge.decided(group),
        *words_edge.islands(group),
        *words_edge.by_criterion(group),
        *words_theory.clipping(group),
        *_borrowed(group),
        *_checks(group),
        *_missing(group),
    ]


def _clean(group: GroupFit) -> list[str]:
    """Nearest, compatible and equal are three statements, and stay three."""
    said = []
    for quantity in _own_laws(group):
        posterior = group.fitted.posteriors.get(quantity)
        if posterior is None:
            continue
        name, clean = NAME[quantity], clean_exponents(posterior)
        odds = ", ".join(f"{_FRACTION[c.value]} {percent(c.p_nearest)}" for c in clean)
        nearest = next((c for c in clean if c.nearest), None)
        if nearest is None:
            text = f"Which clean exponent the {name}'s is nearest to is undecided ({odds})"
        else:
            is_nearest = f"{_FRACTION[nearest.value]} ({percent(nearest.p_nearest)})"
            text = f"Of the clean exponents the {name}'s is nearest to {is_nearest}"
        compatible = [_FRACTION[c.value] for c in clean if c.compatible]
        text += f"; compatible with the interval: {' and '.join(compatible) or 'none of them'}"
        equal = next((c for c in clean if c.equal), None)
        if equal is not None:
            text += f"; within {EQUAL_WITHIN:g} of {_FRACTION[equal.value]} with {percent(equal.p_equal)}"
        said.append(f"{text}.")
    return said


def _own_laws(group: GroupFit) -> dict[Quantity, LrLaw]:
    """Those that are not another quantity's."""
    limited = group.fitted.edge_limited
    return {quantity: group.fitted.laws[quantity] for quantity in QUANTITIES if quantity != "optimal" or not limited}


def percent(probability: float) -> str:
    """``97 %``; what rounds to certainty is bounded instead."""
    if probability > 0.995:
        return "> 99 %"
    return "< 1 %" if probability < 0.005 else f"{100 * probability:.0f} %"


def _grid_ends(group: GroupFit) -> list[str]:
    said = []
    for end, side, way, sign in (("high", "largest", "upwards", "≥"), ("low", "smallest", "downwards", "≤")):
        for w in group.widths:
            if w.grid.all_unstable or w.fitted.at_edge not in (end, "both"):
                continue
            bound = lr(float(w.curve.lrs[-1 if end == "high" else 0]))
            kept = (
                ""
                if w.best is None
                else f" its place beyond rests on the valley's shape at the other {group.axis.nouns};"
            )
            said.append(
                f"At {words.at(group.axis, w.width)} the {side} learning rate tried is the best (optimum {sign} "
                f"{bound} as far as the grid shows);{kept} extend the grid {way}."
            )
    return said


def _left_out(group: GroupFit) -> list[str]:
    reasons: dict[LeftOut, list[float]] = {}
    for w in group.widths:
        if w.fitted.left_out is not None:
            reasons.setdefault(w.fitted.left_out, []).append(w.width)
    said = []
    for reason, widths in reasons.items():
        which = words.capital(words.levels(group.axis, widths))
        text = f"{which} took no part in the fit of the optimum: {left_out(group, reason)}."
        if reason is LeftOut.UNSTABLE:
            text += (
                " All runs count as unstable, so the edge lies below the smallest learning rate tried; extend the grid "
                "downwards."
            )
        said.append(text)
    return said


def _edge_bounds(group: GroupFit) -> list[str]:
    said = []
    unseen = [w for w in group.widths if not w.grid.n_unstable_seeds and not w.grid.all_unstable]
    if unseen and len(unseen) < len(group.widths):
        bound = lr(min(float(w.curve.lrs[-1]) for w in unseen))
        said.append(
            f"At {words.levels(group.axis, [w.width for w in unseen])} no learning rate was unstable: the edge there "
            f"is only known to lie beyond {bound}, and its place rests on the other {group.axis.nouns}; extend the "
            "grid upwards."
        )
    if group.fitted.edge_limited:
        said.append(
            f"The valley's bottom lies within {EDGE_GAP:g} octave of the edge at half of the {group.axis.nouns} or "
            "more: the optimum's exponent is reported from the edge's runs, and says nothing beyond them."
        )
    return said


def _borrowed(group: GroupFit) -> list[str]:
    if not group.borrowed:
        return []
    return [
        f"At the base width, where all parameterizations are one model, {group.borrowed} runs of the others count as "
        "well."
    ]


def _checks(group: GroupFit) -> list[str]:
    said = []
    for quantity, law in _own_laws(group).items():
        name, check = NAME[quantity], group.fitted.checks.get(quantity)
        if check is None or not law.estimable:
            continue
        if check.verdict == "unchecked":
            said.append(
                f"Two {group.axis.nouns} give the {name}'s exponent no lack-of-fit check: whether it is a power law is "
                "assumed."
            )
            continue
        local = ", ".join(
            f"{number(one.exponent.median)} ({number(low)} to {number(high)}) from {words.level(one.narrow)} to "
            f"{words.level(one.wide)}"
            for one in check.local
            for low, high in [one.exponent.interval()]
        )
        if check.verdict == "drift":
            off = ", ".join(
                f"{words.at(group.axis, held.width)} by {number(held.error)} octaves"
                for held in check.held_out
                if not held.inside
            )
            said.append(
                f"The {name} does not follow one power law: predicted from the other {group.axis.nouns}, it is off at "
                f"{off}. Local exponents: {local}. Do not extrapolate with the common one."
            )
        else:
            said.append(
                f"One power law fits the {name}: every {group.axis.noun} lies where the others predict it. Local "
                f"exponents: {local}."
            )
    return said


def _missing(group: GroupFit) -> list[str]:
    missing = sum(w.grid.n_missing for w in group.widths)
    if not missing:
        return []
    total, have = missing + sum(w.grid.n_runs for w in group.widths), "has" if missing == 1 else "have"
    return [f"{missing} of the {total} points of the grid {have} no finished run; the others are used as they are."]
