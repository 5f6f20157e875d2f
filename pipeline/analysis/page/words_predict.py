"""A prediction in words, and as JSON that says the same."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from pipeline.analysis.fit.advice import Advice
from pipeline.analysis.fit.estimators import DEFAULT
from pipeline.analysis.fit.fitted import Lr, Quantity
from pipeline.analysis.fit.next_run import command, refusal, role_lrs
from pipeline.analysis.fit.predict import Doubt, LrPrediction
from pipeline.analysis.fit.regret import Price
from pipeline.analysis.fit.study_fit import StudyFit
from pipeline.analysis.page import words, words_fit
from pipeline.analysis.page.words import cost
from pipeline.analysis.page.words_fit import NAME
from pipeline.analysis.study.axis import Axis
from pipeline.console import wrapped

_ADVISED: dict[Quantity, str] = {"optimal": "optimum", "max_stable": "max-stable lr"}


def reason(one: LrPrediction) -> str:
    """What the recommended learning rate costs, or why there is none."""
    r = one.recommended
    match r.why:
        case "no interval":
            called = one.group.estimator.called
            return f"{called} has no interval, so that no price can be put on a learning rate"
        case "nothing known":
            return "neither the optimum nor the edge is known there"
        case "optimum unknown":
            return "half of the learning rate that 95 % of runs stand; the optimum is not known there"
        case "edge unknown":
            assert r.price is not None
            stable = words.lr(r.largest_stable)
            said = price_of(r.price, one.group.unit, one.level)
            return f"{said}; the edge is not known there, and {stable} is the largest rate seen to be stable"
        case "least regret":
            assert r.price is not None
            said = price_of(r.price, one.group.unit, one.level)
            return f"{said}; {words_fit.percent(r.price.diverges)} to diverge"


def price_of(price: Price, unit: str, level: float) -> str:
    """What a learning rate costs; `unit` may be empty."""
    most = f"at most {cost(price.at_most)}" if math.isfinite(price.at_most) else "no bound since runs may diverge"
    per = f" {unit}" if unit else ""
    return f"expected to cost {cost(price.expected)}{per} over the best, {most} ({100 * level:g} %)"


def warning(one: LrPrediction, doubt: Doubt) -> str:
    """A doubt in a sentence."""
    width, name, axis = one.width, NAME[doubt.quantity], one.group.axis
    here = words.capital(words.at(axis, width))
    match doubt.kind:
        case "no interval":
            called = words.capital(one.group.estimator.called)
            return f"{called} gives no interval for a prediction; --estimator {DEFAULT} does."
        case "beyond tried":
            tried = words.lr(doubt.tried)
            return f"Beyond the largest learning rate tried at any width, {tried}: nothing was seen there."
        case "far wider":
            times = f"{width / doubt.widths[0]:.3g}"
            return f"{here} is {times} times the {axis.largest} trained: nothing checks the power law that far out."
        case "far narrower":
            times = f"{doubt.widths[0] / width:.3g}"
            return f"{here} is {times} times {axis.smaller} than any trained: nothing checks the power law there."
        case "drift":
            return (
                f"The {name} drifts away from one power law (pipeline fit shows where): the prediction follows it, "
                f"from few {axis.nouns}."
            )
        case "unchecked":
            what = f"whether the {name} follows a power law"
            return f"Two {axis.nouns} cannot tell {what}: what the interval allows for is assumed."
        case "edge-limited":
            return "The optimum saturates at the edge of stability: both are predicted from the edge's runs."
        case "grid end":
            return (
                f"At {words.levels(axis, doubt.widths)} the best learning rate tried is the last of the grid: "
                "extending it there would make the prediction firmer."
            )


def sentences(one: LrPrediction) -> list[str]:
    """The prediction in words; the first lines answer, the rest qualify."""
    edge = "max-stable lr " if one.group.estimator.max_stable else "unstable from "
    lines = [f"! {warning(one, doubt)}" for doubt in one.doubts if doubt.kind == "beyond tried"]
    lines += [f"optimal lr      {of_level(one.optimal, one.level)}", f"{edge}  {of_level(one.max_stable, one.level)}"]
    if one.recommended.lr is None:
        lines.append(f"recommended lr  none: {reason(one)}.")
    else:
        lines.append(f"recommended lr  {words.lr(one.recommended.lr)}: {reason(one)}.")
    lines += [f"! {warning(one, doubt)}" for doubt in one.doubts if doubt.kind != "beyond tried"]
    for quantity, advice in one.advice.items():
        name, ways = _ADVISED[quantity], [way for way in advice if way.shrink < 0.97]
        if ways:
            lines.append(
                f"To narrow the interval of the {name}: {'; '.join(_way(one.group.axis, way) for way in ways)}."
            )
    return lines


def of_level(lr: Lr | None, level: float) -> str:
    """A learning rate with its interval, which holds so much."""
    if lr is None:
        return "not estimable"
    interval = f"{100 * level:g} % interval {words.span(lr)}" if lr.has_interval else "no interval"
    return f"{words.lr(lr.value)} ({interval})"


def _way(axis: Axis, way: Advice) -> str:
    share = _cost(way.cost) if way.cost is not None else ""
    what = {  # a narrower width is cheap, but must still train like the others
        "narrower": f"the same grid at {words.at(axis, way.width)}",
        "wider": f"the same grid at {words.at(axis, way.width)}",
        "seeds": f"as many seeds again at every {axis.noun}",
    }[way.kind]
    narrows = f"{what}, by {100 * (1 - way.shrink):.0f} %"
    return f"{narrows} for {share} the study's compute so far" if way.cost is not None else narrows


def _cost(share: float) -> str:
    if share > 2:
        return f"about {share:.2g} times"
    return "less than 1 % of" if share < 0.01 else f"about {100 * share:.0f} % of"


def summary(fitted: StudyFit, predictions: Sequence[LrPrediction]) -> str:
    """Plain text for a terminal."""
    width = predictions[0].width
    trained = "trained" if any(width == w.width for g in fitted.groups for w in g.widths) else "not trained"
    where = f"{words.at(fitted.study.axis, width)} ({trained})"
    lines = [f"{fitted.study.name}: learning rate at {where}, by {fitted.measure.name}"]
    lines += [line for note in fitted.study.notes for line in wrapped(note, "  - ")]
    for one in predictions:
        lines += ["", words.group_title(one.group)]
        for line in sentences(one):
            lead = "  " if line.startswith(("optimal", "max-", "unstable", "recommended", "!")) else "  - "
            lines += wrapped(line, lead)
        if (train := command(fitted.study, one)) is not None:
            per_role = ", ".join(f"{role} {words.lr(lr)}" for role, lr in role_lrs(fitted.study, one).items())
            lines += [*wrapped(f"by role: {per_role}", "  "), f"  {train}"]
        elif why := refusal(fitted.study, one):
            lines += wrapped(f"! Runs of this study cannot have this width: {why}.", "  ")
    return words.plain("\n".join(lines))


def as_json(fitted: StudyFit, predictions: Sequence[LrPrediction]) -> dict[str, Any]:
    """Everything that `summary` says."""
    return {
        "study": fitted.study.name,
        "estimator": fitted.estimator.name,
        "metric": fitted.measure.metric,
        "value": fitted.measure.value,
        "axis": fitted.study.axis.name,
        "notes": fitted.study.notes,
        "predictions": [
            {
                **one.group.head,
                "width": one.width,
                "level": one.level,
                **{
                    quantity: None if lr is None else dataclasses.asdict(lr)
                    for quantity, lr in (("optimal", one.optimal), ("max_stable", one.max_stable))
                },
                "safe": one.safe,
                "recommended": one.recommended.lr,
                "price": _price_json(one),
                "role_lrs": role_lrs(fitted.study, one),
                "command": command(fitted.study, one),
                "reason": reason(one),
                "warnings": [warning(one, doubt) for doubt in one.doubts],
                "advice": {
                    quantity: [dataclasses.asdict(way) for way in ways] for quantity, ways in one.advice.items()
                },
            }
            for one in predictions
        ],
    }


def _price_json(one: LrPrediction) -> dict[str, float | None] | None:
    price = one.recommended.price
    if price is None:
        return None
    return {key: value if math.isfinite(value) else None for key, value in dataclasses.asdict(price).items()}
