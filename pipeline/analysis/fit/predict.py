"""`pipeline predict`: the learning rate for a width, trained or not, with its interval, from a study's own runs."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.analysis.fit.advice import Advice, advise
from pipeline.analysis.fit.collapse import Estimate, Quantity
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.study_fit import GroupFit, Lr, StudyFit, fit, lr_of
from pipeline.analysis.page import words
from pipeline.analysis.page.summary import study_args, study_parser
from pipeline.analysis.page.tables import to_json
from pipeline.analysis.page.words import TIMES
from pipeline.analysis.study.load import GROUP
from pipeline.cli.arguments import RequestParser
from pipeline.console import wrapped
from pipeline.errors import RequestError

# A recommended learning rate keeps this distance from the learning rate above which more than `RISK` of runs are unstable.
MARGIN_OCTAVES = 1.0
RISK = 0.05

# How far the edge scatters over seeds, octaves, where the runs do not tell: the mean of its prior (`powerlaw`).
_SEED_SCATTER = 0.24

# Beyond this factor past the widest width trained, the power law itself is an assumption that nothing checks.
FAR = 4.0


@dataclass(frozen=True)
class Prediction:
    """At one width, for one group. What is not known is None."""

    group: GroupFit
    width: int
    level: float
    optimal: Lr | None
    max_stable: Lr | None
    """Median over seeds; as published: the minimal unstable learning rate on the line."""
    safe: float | None
    """The learning rate that all but `RISK` of runs are expected to stand, over seeds and over what is not known."""
    recommended: float | None
    reason: str
    """Where `recommended` comes from, or why there is none."""
    warnings: tuple[str, ...]
    advice: dict[Quantity, tuple[Advice, ...]]


def predict(group: GroupFit, width: int, level: float) -> Prediction:
    """From one fitted group. As published, two points on two lines; otherwise posteriors."""
    found = group.estimate
    if found is None:
        lines = [fit.lr_at(width) if fit.estimable else None for fit in (group.optimal, group.max_stable)]
        optimal, edge = (None if value is None else Lr(value) for value in lines)
        reason = "the published practice has no interval, so that no distance from the edge can be vouched for"
        warnings = (
            "The published practice gives no interval for a prediction; --estimator collapse does.",
            *_far(group, width),
        )
        return Prediction(group, width, level, optimal, edge, None, None, reason, warnings, {})
    optimum, threshold = found.at("optimal", width), found.at("max_stable", width)
    safe = None if threshold is None else 2.0 ** _fresh(found, threshold).quantile(RISK)
    best = None if optimum is None else lr_of(optimum, level)
    recommended, reason = _recommend(found, best, safe)
    return Prediction(
        group,
        width,
        level,
        best,
        None if threshold is None else lr_of(threshold, level),
        safe,
        recommended,
        reason,
        (*_far(group, width), *_doubts(group, width)),
        {
            "optimal": () if width in found.runs.widths else advise(found, "optimal", width, group.width_step),
            "max_stable": () if width in found.runs.widths else advise(found, "max_stable", width, group.width_step),
        },
    )


def _fresh(found: Estimate, threshold: Mixture) -> Mixture:
    """Of the threshold of one run with a new seed: seeds scatter around the width's edge."""
    scatter = _SEED_SCATTER if found.max_stable is None else found.max_stable.seed_scatter
    return threshold.shifted(0.0, scatter)


def _recommend(found: Estimate, optimum: Lr | None, safe: float | None) -> tuple[float | None, str]:
    ceiling = None if safe is None else safe * 2.0**-MARGIN_OCTAVES
    if optimum is None and ceiling is None:
        return None, "neither the optimum nor the edge is known there"
    if optimum is None:
        return ceiling, "half of the learning rate that 95 % of runs stand; the optimum is not known there"
    best = optimum.value
    if ceiling is None:
        stable = 2.0 ** float(max(found.runs.x[~found.labels.unstable], default=-math.inf))
        return (
            best,
            f"the optimum; the edge is not known there, and {words.lr(stable)} is the largest rate seen to be stable",
        )
    if best <= ceiling:
        return best, f"the optimum, which lies {TIMES}{2 * ceiling / best:.2g} below the rate that 95 % of runs stand"
    return ceiling, (
        f"half of the rate that 95 % of runs stand; the optimum, {words.lr(best)}, lies closer to the edge or above that"
    )


def _far(group: GroupFit, width: int) -> list[str]:
    widest, narrowest = group.widths[-1].width, group.widths[0].width
    if width > FAR * widest:
        return [
            f"Width {width} is {width / widest:.3g} times the widest trained: nothing checks the power law that far out."
        ]
    if width * FAR < narrowest:
        return [
            f"Width {width} is {narrowest / width:.3g} times narrower than any trained: nothing checks the power law there."
        ]
    return []


def _doubts(group: GroupFit, width: int) -> list[str]:
    found = []
    assert group.estimate is not None
    trained = width in group.estimate.runs.widths
    for quantity, name in (("optimal", "optimum"), ("max_stable", "stability edge")):
        shape = group.shapes[quantity]  # type: ignore[index]  # the loop's strings are the keys
        law = group.estimate.optimal if quantity == "optimal" else group.estimate.max_stable
        if law is None or trained or len(law.widths) < 2:
            continue
        if shape.verdict == "drift":
            found.append(
                f"The {name} drifts away from one power law (pipeline fit shows where): the prediction follows it, from few "
                "widths."
            )
        elif shape.verdict == "unchecked":
            found.append(
                f"Two widths cannot tell whether the {name} follows a power law: what the interval allows for is assumed."
            )
    if group.estimate.edge_limited:
        found.append("The optimum saturates at the edge of stability: both are predicted from the edge's runs.")
    at_end = [w for w in group.estimate.widths if w.at_edge != "no" and not w.all_unstable]
    if at_end:
        found.append(
            f"At {words.widths_text([w.width for w in at_end])} the best learning rate tried is the last of the grid: "
            "extending it there would make the prediction firmer."
        )
    return found


def sentences(found: Prediction) -> list[str]:
    """The prediction in words; the first lines answer, the rest qualify."""
    percent = f"{100 * found.level:g} %"
    lines = [
        f"optimal lr      {_value(found.optimal, percent)}",
        f"max-stable lr   {_value(found.max_stable, percent)}"
        if found.group.estimate is not None
        else f"unstable from   {_value(found.max_stable, percent)}",
    ]
    if found.recommended is None:
        lines.append(f"recommended lr  none: {found.reason}.")
    else:
        lines.append(f"recommended lr  {words.lr(found.recommended)}: {found.reason}.")
    lines += [f"! {warning}" for warning in found.warnings]
    for quantity, name in (("optimal", "optimum"), ("max_stable", "max-stable lr")):
        ways = [way for way in found.advice.get(quantity, ()) if way.shrink < 0.97]  # type: ignore[call-overload]
        if ways:
            lines.append(f"To narrow the interval of the {name}: {'; '.join(map(_way, ways))}.")
    return lines


def _value(lr: Lr | None, percent: str) -> str:
    if lr is None:
        return "not estimable"
    if math.isnan(lr.low):
        return f"{words.lr(lr.value)} (no interval)"
    return f"{words.lr(lr.value)} ({percent} interval {words.lr(lr.low)} to {words.lr(lr.high)})"


def _way(way: Advice) -> str:
    cost = "less than 1 % of" if way.cost < 0.01 else f"about {100 * way.cost:.0f} % of"
    if way.cost > 2:
        cost = f"about {way.cost:.2g} times"
    what = {  # a narrower width is cheap, but must still train like the others
        "narrower": f"the same grid at width {way.width}",
        "wider": f"the same grid at width {way.width}",
        "seeds": "as many seeds again at every width",
    }[way.kind]
    return f"{what}, by {100 * (1 - way.shrink):.0f} % for {cost} the study's compute so far"


def summary(fitted: StudyFit, found: Sequence[Prediction]) -> str:
    """Plain text for a terminal."""
    first = found[0]
    trained = "trained" if any(first.width == w.width for g in fitted.groups for w in g.widths) else "not trained"
    lines = [f"{fitted.study.name}: learning rate at width {first.width} ({trained}), by {fitted.measure.name}"]
    for one in found:
        lines += ["", words.group_title(one.group)]
        for line in sentences(one):
            lead = "  " if line.startswith(("optimal", "max-", "unstable", "recommended", "!")) else "  - "
            lines += wrapped(line, lead)
    return words.plain("\n".join(lines))


def as_json(fitted: StudyFit, found: Sequence[Prediction]) -> dict[str, Any]:
    """Everything that `summary` says."""
    return {
        "study": fitted.study.name,
        "estimator": fitted.estimator,
        "metric": fitted.measure.metric,
        "value": fitted.measure.value,
        "predictions": [
            {
                **{key: getattr(one.group, key) for key in GROUP},
                "width": one.width,
                "level": one.level,
                **{
                    quantity: None if lr is None else dataclasses.asdict(lr)
                    for quantity, lr in (("optimal", one.optimal), ("max_stable", one.max_stable))
                },
                "safe": one.safe,
                "recommended": one.recommended,
                "reason": one.reason,
                "warnings": list(one.warnings),
                "advice": {
                    quantity: [dataclasses.asdict(way) for way in ways] for quantity, ways in one.advice.items()
                },
            }
            for one in found
        ],
    }


def _parser() -> RequestParser:
    parser = study_parser("predict", "The learning rate for a width, trained or not, with its interval.")
    parser.add_argument("--width", type=int, required=True, help="width n, such as 8192")
    parser.add_argument("--level", type=float, default=0.9, help="mass of the intervals (default: 0.9)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")
    return parser


def main(argv: Sequence[str]) -> int:
    """`pipeline predict STUDY... --width N [--level 0.9] [--json] [--estimator ...]`. Writes nothing."""
    parsed = _parser().parse_args(argv)
    args = study_args(parsed)
    if parsed.width < 1:
        raise RequestError(f"--width must be at least 1, got {parsed.width}")
    if not 0 < parsed.level < 1:
        raise RequestError(f"--level must lie between 0 and 1, got {parsed.level:g}")
    fitted = fit(args.dirs, args.measure, args.estimator)
    found = [predict(group, parsed.width, parsed.level) for group in fitted.groups]
    print(to_json(as_json(fitted, found)) if parsed.json else summary(fitted, found))
    return 0
