"""Exponents beside theory, and what limits each: in cells of a table."""

import math
from dataclasses import dataclass

from pipeline.analysis.fit.fitted import QUANTITIES, Quantity
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import words, words_edge, words_theory
from pipeline.analysis.page.words import DASH

_NARROW = 0.5
"""An interval wider than this agrees loosely: it would hold two clean exponents."""


@dataclass(frozen=True)
class Verdict:
    """An exponent beside theory, and what limits it."""

    title: str
    """Of the group."""
    name: str
    measured: str
    interval: str
    low: float
    value: float
    high: float
    """nan: not known."""
    theory: str
    expected: float
    """nan: theory says nothing."""
    says: str
    limits: str


def verdicts(fit: StudyFit, group: GroupFit) -> list[Verdict]:
    """Of optimum and edge."""
    found = []
    for quantity in QUANTITIES:
        law = group.fitted.laws[quantity]
        claim = group.predicted.get(quantity)
        name = "best rate" if quantity == "optimal" else f"{group.estimator.edge_name} rate"
        expected = math.nan if claim is None else float(claim.exponent)
        known = claim is not None and law.estimable and law.has_interval
        agrees = known and law.ci_low <= expected <= law.ci_high
        says = ("agrees" if agrees else "disagrees") if known else DASH
        if agrees and law.ci_high - law.ci_low > _NARROW:
            says = "agrees, loosely"
        found.append(
            Verdict(
                words.group_title(group), name,
                words.number(law.exponent) if law.estimable else "not estimable",
                words.interval(law) if law.estimable else "",
                law.ci_low if law.has_interval else math.nan, law.exponent,
                law.ci_high if law.has_interval else math.nan,
                DASH if claim is None else f"{words_theory.fraction(claim.exponent)} ({claim.status})", expected,
                says, ", ".join(limits(fit, group, quantity)),
            )
        )  # fmt: skip
    return found


SHORT, PER_PARAMETER = 1000, 20
"""Steps, and tokens of text per parameter, below which a training is called short."""


def limits(fit: StudyFit, group: GroupFit, quantity: Quantity = "optimal") -> list[str]:
    """What makes an exponent less than it looks, in a few words each."""
    law = group.fitted.laws[quantity]
    said = []
    if group.n_seeds == 1:
        said.append("one seed")
    if 0 < law.n_widths < 4:
        said.append(f"{law.n_widths} {group.axis.nouns if law.n_widths > 1 else group.axis.noun}")
    said += _short(fit, group)
    if quantity == "optimal" and group.fitted.edge_limited:
        said.append("the optimum sits at the edge of stability")
    if any(w.fitted.at_edge != "no" for w in group.widths) and quantity == "optimal":
        said.append("a best rate at the end of the grid")
    check = group.fitted.checks.get(quantity)
    if check is not None and check.verdict == "drift":
        said.append("not one power law")
    if quantity == "max_stable" and not law.estimable:
        said.append(f"{len(words_edge.seen(group))} of {len(group.widths)} {group.axis.nouns} show their edge")
    return said


def _short(fit: StudyFit, group: GroupFit) -> list[str]:
    if group.config is None or fit.study.config is None:
        return []
    runs = fit.study.runs
    own = runs[(runs[list(group.key)] == list(group.key.values())).all(axis=1) & (runs["status"] == "completed")]
    if not len(own):
        return []
    said, steps = [], int(own["steps"].max())
    if steps < SHORT:
        said.append(f"{steps} steps")
    ratio = float((own["tokens"] / own["parameters"]).min())
    if group.config.n_classes is None and ratio < PER_PARAMETER:
        said.append(f"{ratio:.2g} tokens per parameter")
    return said
