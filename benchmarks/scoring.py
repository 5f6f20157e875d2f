"""How the intervals of a fitted study stand to the optima that other seeds measured. Places in octaves of learning
rate, exponents as slopes; regrets in the unit of the loss, nats."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.truth import Measured, Truth, slope, truth
from pipeline.analysis.fit import scores as ledger_scores
from pipeline.analysis.fit.predict import predict
from pipeline.analysis.fit.study_fit import GroupFit, fit
from pipeline.analysis.page import words_ledger
from pipeline.analysis.page.words import lr as lr_text

LEVELS = {"width": 0.95, "exponent": 0.95, "target": 0.9}
"""What is scored -> the mass that its intervals claim."""
_SIGMA = {0.95: 1.960, 0.9: 1.645}
UNTOLD = 0.5
"""Octaves; a place whose truth is known no better, or is a bound, is not scored."""


@dataclass(frozen=True)
class Score:
    """One interval and its truth. middle nan: the estimator gave none; truth nan: the runs do not tell it."""

    study: str
    kind: str
    """A key of `LEVELS`."""
    width: int
    truth: float
    error: float
    middle: float = math.nan
    low: float = math.nan
    high: float = math.nan
    regret: float = math.nan
    """At the middle."""
    advised: float = math.nan
    """Regret at the recommended learning rate."""

    @property
    def miss(self) -> float:
        return self.middle - self.truth

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    def inside(self, own_error: bool) -> bool:
        """Whether the interval holds the truth; with the truth's own error added to either side as to a normal's."""
        reach = _SIGMA[LEVELS[self.kind]] * self.error if own_error else 0.0
        low, high = (math.hypot(side - self.middle, reach) for side in (self.low, self.high))
        return -low <= self.truth - self.middle <= high

    def __str__(self) -> str:
        if math.isnan(self.truth):
            return f"{self.study:24s} {self.kind:8s} {self.width:5d}  truth not told"
        held = "inside" if self.inside(False) else "inside with its error" if self.inside(True) else "MISS"
        return (
            f"{self.study:24s} {self.kind:8s} {self.width:5d}  truth {self.truth:+7.2f} +- {self.error:.2f}  "
            f"{self.middle:+7.2f} ({self.low:+.2f} to {self.high:+.2f})  regret {self.regret:.4f} {self.advised:.4f}  "
            f"{held}"
        )


def score(name: str, folder: Path, others: Mapping[tuple[str, int], Measured], target: int) -> Iterator[Score]:
    """Of a study folder, by parameterization and width of what `others` measured."""
    for group in fit([folder]).groups:
        truths: dict[float, Truth] = {
            width: told for (param, width), runs in others.items() if param == group.param and (told := _told(runs))
        }
        fitted = {w.width: truths[w.width] for w in group.widths if w.width in truths}
        study = f"{name} {group.param}"
        for width in group.widths:
            yield _place(study, "width", group, int(width.width), others, truths.get(width.width))
        if len(fitted) == len(group.widths) > 1:
            law = group.optimal
            yield Score(study, "exponent", 0, *slope(fitted), law.exponent, law.ci_low, law.ci_high)
        yield _place(study, "target", group, target, others, truths.get(target))


def _told(measured: Measured) -> Truth | None:
    known = truth(measured.runs)
    return None if known is None or known.side or known.error > UNTOLD else known


def _place(
    study: str, kind: str, group: GroupFit, width: int, others: Mapping[tuple[str, int], Measured], known: Truth | None
) -> Score:
    if known is None:
        return Score(study, kind, width, math.nan, math.nan)
    said, measured = predict(group, width, LEVELS[kind]), others[group.param, width]
    if said.optimal is None:
        return Score(study, kind, width, known.x, known.error)
    middle, low, high = (math.log2(lr) for lr in (said.optimal.value, said.optimal.low, said.optimal.high))
    advised = said.recommended.lr
    regrets = measured.regret(middle), math.nan if advised is None else measured.regret(math.log2(advised))
    return Score(study, kind, width, known.x, known.error, middle, low, high, *regrets)


def report(scores: Sequence[Score], each: bool) -> None:
    """Tables over all studies and by recipe, and with `each` a line per interval."""
    if each:
        print(*scores, sep="\n", end="\n\n")
    columns = [
        "",
        "intervals",
        "truth told",
        "given",
        "inside",
        "with the truth's error",
        "truth's error",
        "half-width",
    ]
    columns += ["rms", "bias", "regret", "worst", "advised", "worst"]
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for kind, level in LEVELS.items():
        of_kind = [s for s in scores if s.kind == kind]
        for study in ("all", *dict.fromkeys(s.study.split()[0] for s in of_kind)):
            rows = [s for s in of_kind if study in ("all", s.study.split()[0])]
            told = [s for s in rows if not math.isnan(s.truth)]
            given = [s for s in told if not math.isnan(s.middle)]
            if given:
                counts = f"{len(rows)} | {len(told)} | {len(given)}"
                print(f"| {kind}, {level:.0%}: {study} | {counts} | {_summary(given)} |")


def _summary(given: Sequence[Score]) -> str:
    raw, fair = (np.mean([s.inside(own_error) for s in given]) for own_error in (False, True))
    miss, half, error = (np.array([getattr(s, name) for s in given]) for name in ("miss", "half", "error"))
    numbers = f"{raw:.0%} | {fair:.0%} | {np.median(error):.2f} | {np.median(half):.2f} | "
    numbers += f"{math.sqrt(np.mean(miss**2)):.2f} | {np.mean(miss):+.2f}"
    for name in ("regret", "advised"):
        found = np.array([getattr(s, name) for s in given])
        found = found[np.isfinite(found)]
        numbers += f" | {found.mean():.4f} | {found.max():.4f}" if len(found) else " | | "
    return numbers


def recorded(studies: Sequence[tuple[str, ledger_scores.Scored]]) -> Iterator[str]:
    """Every prediction of a ledger beside its measurement as a table, the totals of all studies, and what was not
    measured."""
    columns = ["recipe", "", "", "width", "predicted (90 %)", "measured, octaves", "error", "inside", "CRPS"]
    columns += ["regret of predicted", "of recommended"]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for name, one in studies:
        yield from (f"| {name} | {_recorded(score)} |" for score in one.scores)
    scores = [score for _, one in studies for score in one.scores]
    yield ""
    yield from map(words_ledger.total, ledger_scores.Scored(tuple(scores), (), 0).totals)
    late = sum(score.late for score in scores)
    yield f"Recorded after the first run: {late}."
    for name, one in studies:
        yield from (
            f"Not measured: {name} {w.line.param} {w.quantity}: {w.why.value if w.why else 'no finished run'}."
            for w in one.waiting
        )


def _recorded(score: ledger_scores.Score) -> str:
    line, predicted = score.line, score.predicted
    said = "yes" if score.inside else "with its error" if score.inside_with_error else "**no**"
    prices = [
        "" if r is None else f"{'>= ' if r.beyond else ''}{r.loss:.4f}"
        for r in (score.regret, score.regret_recommended)
    ]
    cells = [line.param, score.quantity, str(line.width)]
    cells.append(f"{lr_text(predicted.lr)} ({lr_text(predicted.low)} to {lr_text(predicted.high)})")
    cells.append(f"{lr_text(2.0**score.measured.x)} ± {score.measured.error:.2f}")
    return " | ".join([*cells, f"{score.error:+.2f}", said, f"{score.crps:.2f}", *prices])
