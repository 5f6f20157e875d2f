"""Scores of recorded predictions: each beside what its width's own runs measured since. Errors in octaves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from scipy.interpolate import make_interp_spline
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from pipeline.analysis.fit import estimators
from pipeline.analysis.fit.fitted import QUANTITIES, Quantity
from pipeline.analysis.fit.ledger import Line, Predicted
from pipeline.analysis.fit.measured import Measured, Regret, Unmeasured, edge, optimum, regret
from pipeline.analysis.fit.study_fit import runs_of
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.runs import Floats
from pipeline.analysis.study.stability import TRAJECTORY
from pipeline.analysis.study.table import GROUP
from pipeline.errors import RequestError
from pipeline.files import read_jsonl
from pipeline.run.directory import RunDir

# Equally likely values that stand for a distribution.
_MASSES = (np.arange(1999) + 0.5) / 1999


@dataclass(frozen=True)
class Score:
    """A prediction of one quantity beside the measurement."""

    line: Line
    quantity: Quantity
    predicted: Predicted
    """Of an estimator without `Estimator.max_stable` its edge is the minimal unstable learning rate, half the gap above
    what is measured."""
    measured: Measured
    error: float
    """log2 of predicted over measured."""
    inside: bool | None
    """Whether the measured value lies in the predicted interval; None: there is none."""
    inside_with_error: bool | None
    """The same for the interval of what would be measured, the measurement's error (normal) added to the
    prediction's."""
    crps: float
    """Continuous ranked probability score; of a prediction without a distribution its absolute error."""
    regret: Regret | None
    """Of the predicted optimum; None for the edge, and where losses do not tell."""
    regret_recommended: Regret | None
    """Of the recommended learning rate; None also where none was."""
    started: datetime | None
    """When the first of the runs there began; None: unknown."""

    @property
    def late(self) -> bool:
        """It was recorded when runs of its width had begun: no prediction, and not in the totals."""
        return self.started is not None and self.line.time > self.started

    @property
    def target(self) -> tuple[object, ...]:
        """What was predicted; predictions that share it are not independent."""
        line = self.line
        return *line.group, line.width, self.quantity, line.metric, line.value


@dataclass(frozen=True)
class Waiting:
    """A prediction that nothing can be said of yet."""

    line: Line
    quantity: Quantity
    why: Unmeasured | None
    """None: no run of its width has finished."""


@dataclass(frozen=True)
class Totals:
    """Of all predictions of a quantity by an estimator that were recorded in time."""

    quantity: Quantity
    estimator: str
    n: int
    targets: int
    """Distinct ones."""
    with_interval: int
    inside: int
    """Of those with an interval."""
    expected_inside: float
    """If their levels are true."""
    inside_with_error: int
    crps: float
    rms: float
    bias: float
    regret: float
    """Mean over those that have one; nan: none has."""
    regret_recommended: float
    beyond: bool
    """Some of these lie outside the learning rates tried, so that regrets are bounds from below."""


@dataclass(frozen=True)
class Scored:
    """A ledger against a study."""

    scores: tuple[Score, ...]
    waiting: tuple[Waiting, ...]
    other_recipes: int
    """Lines on runs of other settings: not of this study."""

    @property
    def totals(self) -> tuple[Totals, ...]:
        kinds = sorted({(QUANTITIES.index(s.quantity), s.line.estimator) for s in self.scores if not s.late})
        return tuple(_totals(QUANTITIES[quantity], estimator, self.scores) for quantity, estimator in kinds)


def score(study: Study, lines: Sequence[Line]) -> Scored:
    """Every line on this study's recipe, by the metric and value that it was made for. Raises `RequestError` for a run
    whose record of starts is damaged."""
    scores: list[Score] = []
    waiting: list[Waiting] = []
    alike = [_of_recipe(study, line) for line in lines]
    of_study = [(line, rows) for line, rows in zip(lines, alike, strict=True) if rows is not None]
    for line, of_recipe in of_study:
        here = (of_recipe["width"] == line.width) & (of_recipe[GROUP] == list(line.group)).all(axis=1)
        rows = of_recipe[here]
        for quantity in QUANTITIES:
            predicted = line.predicted(quantity)
            if predicted is None:
                continue
            found = _score(study, rows, line, quantity, predicted)
            scores.append(found) if isinstance(found, Score) else waiting.append(found)
    return Scored(tuple(scores), tuple(waiting), len(lines) - len(of_study))


def _of_recipe(study: Study, line: Line) -> "pd.DataFrame | None":
    """The runs of the line's settings; None: the study has none."""
    settings = [study.settings_of(run) for run in study.runs["run"]]
    same = {id(one): line.same_recipe(one) for one in {id(one): one for one in settings}.values()}
    here = np.array([same[id(one)] for one in settings], dtype=np.bool_)
    return study.runs[here] if here.any() else None


def first_start(study: Study, rows: pd.DataFrame) -> datetime | None:
    """When the first of these runs began: by its starts.jsonl; without that, so long before result.json was written as
    training took, which does not survive copying. None: no such files."""
    run_dirs = [folder / str(run) for folder in study.dirs for run in rows["run"]]
    found = [_start(RunDir(run_dir)) for run_dir in run_dirs if run_dir.is_dir()]
    return min((time for time in found if time is not None), default=None)


def crps(predicted: Predicted, probabilities: Sequence[float], x: float) -> float:
    """Of log2 lr: integral of the squared distance between the distribution function and the step at `x`."""
    if not predicted.log2_lr:
        return abs(math.log2(predicted.lr) - x)
    values = _spread(predicted, probabilities)
    return float(2 * np.mean(((x < values) - _MASSES) * (values - x)))


def interval_with_error(
    predicted: Predicted, probabilities: Sequence[float], level: float, error: float
) -> tuple[float, float]:
    """The central interval of the predicted log2 lr plus an independent normal error of that standard deviation."""
    values = _spread(predicted, probabilities)
    low, high = float(values[0]) - 9 * error, float(values[-1]) + 9 * error
    ends = [
        float(brentq(lambda x, p=p: float(np.mean(ndtr((x - values) / error))) - p, low, high))
        for p in ((1 - level) / 2, (1 + level) / 2)
    ]
    return ends[0], ends[1]


# ---------------------------------------------------------------------------------------------------------------------


def _score(study: Study, rows: pd.DataFrame, line: Line, quantity: Quantity, predicted: Predicted) -> Score | Waiting:
    if rows.empty:
        return Waiting(line, quantity, None)
    if line.measure.column not in rows:
        return Waiting(line, quantity, Unmeasured.FEW)
    runs = runs_of(rows, line.measure)
    published = study.rule(line.loss, rows)
    by = estimators.ESTIMATORS.get(line.estimator)  # may be gone since
    rule = TRAJECTORY if by is None or by.max_stable else published
    measured = optimum(runs) if quantity == "optimal" else edge(runs, rule)
    if isinstance(measured, Unmeasured):
        return Waiting(line, quantity, measured)
    inside = inside_with_error = None
    if predicted.log2_lr:
        inside = math.log2(predicted.low) <= measured.x <= math.log2(predicted.high)
        low, high = interval_with_error(predicted, line.probabilities, line.level, measured.error)
        inside_with_error = low <= measured.x <= high
    optimal, recommended = quantity == "optimal", line.recommended["lr"]
    return Score(
        line,
        quantity,
        predicted,
        measured,
        math.log2(predicted.lr) - measured.x,
        inside,
        inside_with_error,
        crps(predicted, line.probabilities, measured.x),
        regret(runs, math.log2(predicted.lr)) if optimal else None,
        regret(runs, math.log2(recommended)) if optimal and recommended else None,
        first_start(study, rows),
    )


def _spread(predicted: Predicted, probabilities: Sequence[float]) -> Floats:
    """Equally likely values: the quantiles interpolated, and extrapolated, linearly in those of a normal
    distribution."""
    found: Floats = make_interp_spline(ndtri(probabilities), predicted.log2_lr, k=1)(ndtri(_MASSES))
    return found


def _start(run: RunDir) -> datetime | None:
    try:
        times = [datetime.fromisoformat(start["time"]) for start in read_jsonl(run.starts_file)]
        if times:
            return min(times)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{run.starts_file} is damaged ({error}): when the run began cannot be told") from None
    result = run.result()
    if result is None:
        return None
    ended = datetime.fromtimestamp(run.result_file.stat().st_mtime, UTC)
    return ended - timedelta(seconds=result.seconds)


def _totals(quantity: Quantity, estimator: str, scores: Sequence[Score]) -> Totals:
    of = [s for s in scores if s.quantity == quantity and s.line.estimator == estimator and not s.late]
    sure = [s for s in of if s.inside is not None]
    errors = np.array([s.error for s in of])
    regrets = [s.regret for s in of if s.regret is not None]
    recommended = [s.regret_recommended for s in of if s.regret_recommended is not None]
    return Totals(
        quantity,
        estimator,
        n=len(of),
        targets=len({s.target for s in of}),
        with_interval=len(sure),
        inside=sum(bool(s.inside) for s in sure),
        expected_inside=sum(s.line.level for s in sure),
        inside_with_error=sum(bool(s.inside_with_error) for s in sure),
        crps=float(np.mean([s.crps for s in of])),
        rms=float(np.sqrt(np.mean(errors**2))),
        bias=float(np.mean(errors)),
        regret=float(np.mean([r.loss for r in regrets])) if regrets else math.nan,
        regret_recommended=float(np.mean([r.loss for r in recommended])) if recommended else math.nan,
        beyond=any(r.beyond for r in [*regrets, *recommended]),
    )
