"""The answer of a report: one sentence per group, and the learning rate for every width trained and beyond, with what
it costs. Numbers are `predict`'s, at one level of confidence."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fit.fitted import LEVEL, LeftOut
from pipeline.analysis.fit.predict import LrPrediction, predict
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit, WidthFit
from pipeline.analysis.page import words, words_fit, words_predict, words_theory
from pipeline.analysis.page.words import MINUS, cost

BEYOND = (2, 4, 8)
"""Times the widest width trained, that are predicted."""
SAID = 4
"""That of them which the sentence names."""

_SAME = 0.25  # an exponent smaller than that is no move worth a rule
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Row:
    """A width of the table. Texts are what stands in its cells."""

    width: float
    times: int
    """That it is wider than the widest trained; 1: trained."""
    prediction: LrPrediction
    lr: str
    best: str
    """The interval of the best learning rate, or why there is none."""
    cost: str
    stable: str
    runs: int
    why: str
    """In a sentence, what is behind learning rate and cost."""

    @property
    def value(self) -> float | None:
        """The learning rate to take."""
        return rate(self.prediction)


@dataclass(frozen=True)
class Answer:
    """Of a group."""

    group: GroupFit
    headline: str
    """The rule; empty: there is none."""
    detail: str
    theory: str
    rows: tuple[Row, ...]
    doubts: tuple[str, ...]
    """What the intervals of the predictions do not hold."""

    @property
    def trained(self) -> list[Row]:
        return [row for row in self.rows if row.times == 1]

    @property
    def beyond(self) -> list[Row]:
        return [row for row in self.rows if row.times > 1]


@dataclass(frozen=True)
class Shown:
    """A group, and its place among the study's: its colour and mark."""

    place: int
    answer: Answer
    name: str
    """As short as it is told from the others by."""

    @property
    def group(self) -> GroupFit:
        return self.answer.group

    @property
    def title(self) -> str:
        return words.group_title(self.group)


def rate(one: LrPrediction) -> float | None:
    """The learning rate to take: recommended, or the best one where an estimator puts no price on it."""
    if one.recommended.lr is not None:
        return one.recommended.lr
    return one.optimal.value if one.optimal is not None else None


def short_names(fit: StudyFit) -> list[str]:
    """Of the groups, without what all have in common."""
    titles = [words.group_title(group).split(" · ") for group in fit.groups]
    if len(titles) == 1:
        return [titles[0][0]]
    common = set.intersection(*map(set, titles))
    own = [" · ".join(part for part in title if part not in common) for title in titles]
    return [
        name or group.loss.replace("_", "-") or title[0]
        for name, group, title in zip(own, fit.groups, titles, strict=True)
    ]


def _under(fit: StudyFit, group: GroupFit) -> str:
    """``Under SP with AdamW``, with the loss where that tells groups apart."""
    under = words.under(group)
    alike = [other for other in fit.groups if words.under(other) == under]
    return under if len(alike) == 1 else f"{under} on {words.label(group.loss) or group.loss.replace('_', '-')}"


def answer(fit: StudyFit, group: GroupFit) -> Answer:
    """Of one group of the study."""
    widest = group.grid.runs.widths[-1]
    rows = [_row(group, w.width, 1, w) for w in group.widths]
    rows += [_row(group, times * widest, times, None) for times in BEYOND if widest > 0]
    headline, detail = _headline(group, _under(fit, group)), _detail(group, rows)
    doubts = dict.fromkeys(
        words_predict.warning(row.prediction, doubt)
        for row in rows
        for doubt in row.prediction.doubts
        if doubt.kind not in ("beyond tried", "far wider", "far narrower") or row.times == BEYOND[-1]
    )
    return Answer(group, headline, detail, _theory(group), tuple(rows), tuple(doubts))


def _row(group: GroupFit, width: float, times: int, trained: WidthFit | None) -> Row:
    one = predict(group, width, LEVEL)
    value, best = rate(one), one.optimal
    if value is None:
        shown = _bound(trained)
    else:
        shown = f"{'below ' if one.recommended.why == 'optimum unknown' else ''}{words.rate(value)}"
    span = ""
    if best is not None:
        span = f"{words.rate(best.low)} to {words.rate(best.high)}" if best.has_interval else "no interval"
    runs = 0 if trained is None else trained.grid.n_runs
    return Row(width, times, one, shown, span, _cost(one), _stable(one, trained), runs, words_predict.reason(one))


def _bound(trained: WidthFit | None) -> str:
    """On which side of the learning rates tried the best one lies."""
    if trained is None:
        return UNKNOWN
    tried = trained.curve.lrs
    if trained.grid.all_unstable:
        return f"below {words.rate(tried[0])}"
    low, high = f"at most {words.rate(tried[0])}", f"at least {words.rate(tried[-1])}"
    return {"low": low, "high": high}.get(trained.optimum.at_edge, UNKNOWN)


def _cost(one: LrPrediction) -> str:
    price = one.recommended.price
    if price is None:
        return UNKNOWN
    if math.isinf(price.at_most):
        return f"no bound ({words_fit.percent(price.diverges)} diverge)"
    return cost(price.at_most)


def _stable(one: LrPrediction, trained: WidthFit | None) -> str:
    if one.safe is not None:
        return words.rate(one.safe)
    if trained is None:
        return UNKNOWN
    edge = trained.edge
    if trained.grid.all_unstable:
        return f"below {words.rate(float(trained.curve.lrs[0]))}"
    stable = words.rate(edge.last_stable_lr)
    said = f"at least {stable}" if edge.censored else stable
    return UNKNOWN if math.isnan(edge.last_stable_lr) else said


# ---------------------------------------------------------------------------------------------------------------------
# Sentences


def _headline(group: GroupFit, under: str) -> str:
    """What to do with the learning rate as the width doubles."""
    law, axis = group.optimal, group.axis
    if not law.estimable:
        return f"{under}, {_why_no_rule(group)}"
    if law.has_interval and law.ci_low < 0 < law.ci_high and law.ci_high - law.ci_low > 4 * _SAME:
        return f"{under}, it is undecided whether the best rate moves with {axis.noun}"
    if abs(law.exponent) < _SAME:
        return f"{under}, keep almost the same rate at every {axis.noun}"
    factor, verb = 2 ** abs(law.exponent), "divide" if law.exponent < 0 else "multiply"
    return f"{under}, {verb} the rate by {factor:.2g} with every doubling of the {axis.noun}"


def _why_no_rule(group: GroupFit) -> str:
    axis = group.axis
    if all(w.grid.all_unstable for w in group.widths):
        return f"no learning rate trained stably at any {axis.noun}: try smaller ones"
    if any(w.fitted.left_out is LeftOut.NO_VALLEY for w in group.widths):
        tried = len(np.unique(group.grid.runs.lr))
        return f"no best rate shows: beyond noise, the loss does not depend on the {tried} rates tried"
    n = sum(w.best is not None for w in group.widths)
    if n == 1:
        return f"one {axis.noun} has a best rate, and a rule needs two"
    return "the best rate is bounded at most: extend the grid of learning rates"


def _detail(group: GroupFit, rows: list[Row]) -> str:
    """At the widest width trained and `SAID` times as wide."""
    said = []
    last = [row for row in rows if row.times == 1][-1]
    if last.value is not None:
        said.append(f"{last.lr} at {words.level(last.width)}")
    far = next((row for row in rows if row.times == SAID), None)
    if far is not None and far.value is not None:
        said.append(f"a predicted {far.lr} at {words.level(far.width)}")
    if not said:
        tried = group.grid.runs.lr
        return f"tried were {words.rate(float(tried.min()))} to {words.rate(float(tried.max()))}"
    if last.prediction.recommended.why == "optimum unknown":
        return f"stay {' and '.join(said).replace('a predicted below', 'below a predicted')}"
    best = None if far is None else far.prediction.optimal
    doubt = ""
    if len(said) == 2 and best is not None and best.has_interval:
        doubt = f", give or take a factor of {math.sqrt(best.high / best.low):.2g}"
    return f"{' and '.join(said)}{doubt}"


def _theory(group: GroupFit) -> str:
    """Whether theory expected it."""
    claim, law = group.predicted.get("optimal"), group.optimal
    if claim is None or not law.estimable:
        return ""
    expected, text = float(claim.exponent), words_theory.fraction(claim.exponent)
    if not law.has_interval:
        return f"Theory expected the exponent {text}; measured is {words.number(law.exponent)}."
    if law.ci_low <= expected <= law.ci_high:
        others = [clean for clean in (-1.0, -0.5, 0.0) if clean != expected and law.ci_low <= clean <= law.ci_high]
        names = " and ".join({-1.0: f"{MINUS}1", -0.5: f"{MINUS}1/2", 0.0: "0"}[clean] for clean in others)
        so = f", but so would {names}" if others else ""
        return f"It agrees with theory, whose exponent is {text}{so}."
    if expected * law.exponent < 0:
        return f"Theory expected the exponent {text}; measured is {words.number(law.exponent)}."
    way = "less" if abs(expected) < abs(law.exponent) else "more"
    return f"Theory expected it to move {way}: exponent {text}, measured {words.number(law.exponent)}."
