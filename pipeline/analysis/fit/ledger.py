"""The ledger of predictions: what was predicted for a width before it was trained, a line of JSON per group of curves.

A line holds what scoring takes (`scores`) and what the prediction rests on. Lines are added and never changed.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.fit.fitted import QUANTITIES, Fitted, Quantity
from pipeline.analysis.fit.predict import LrPrediction
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.measure import Measure
from pipeline.config import default_settings
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.errors import RequestError
from pipeline.files import locked, read_jsonl, write_atomic
from pipeline.version import __version__

LEDGER = "predictions.jsonl"
"""In the study's folder, where no other file is named."""

_BELOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
PROBABILITIES = (*_BELOW, 0.5, *(round(1 - p, 3) for p in reversed(_BELOW)))
"""Of the quantiles that are recorded."""

# Settings that a study of several optimizers does not share, and where its data were found: no other recipe.
_NOT_COMPARED = frozenset({"weight_decay", "data.path", "data.tokenizer"}).union(
    *(optimizer.settings for optimizer in OPTIMIZERS.values())
)


@dataclass(frozen=True)
class Predicted:
    """A learning rate as it was predicted, with its interval and distribution; nan and empty where the estimator gave
    a point alone."""

    lr: float
    low: float
    high: float
    log2_lr: tuple[float, ...]
    """Quantiles at the line's probabilities."""


@dataclass(frozen=True)
class Line:
    """One prediction of the ledger; its fields are the keys of the JSON."""

    time: datetime
    """UTC, to the second."""
    version: str
    """Of the package."""
    study: str
    param: str
    optimizer: str
    loss: str
    width: int
    estimator: str
    metric: str
    value: str
    level: float
    """Mass between `low` and `high`."""
    probabilities: tuple[float, ...]
    optimal: Predicted | None
    """None: not estimable."""
    max_stable: Predicted | None
    safe: float | None
    """The learning rate that 95 % of runs stand."""
    recommended: Mapping[str, Any]
    """``lr``, None where there is none, and what `predict.Recommendation` says of it."""
    widths: tuple[int, ...]
    """That were trained when it was made."""
    settings: Mapping[str, Any]
    """What changes the mathematics of the runs and is the same in all (`load.Study.recipe_of`)."""
    data: str
    """`data_hash` of the runs it rests on."""

    def predicted(self, quantity: Quantity) -> Predicted | None:
        return self.optimal if quantity == "optimal" else self.max_stable

    @property
    def group(self) -> tuple[str, str, str]:
        return self.param, self.optimizer, self.loss

    @property
    def measure(self) -> Measure:
        return Measure(self.metric, self.value)  # type: ignore[arg-type]  # checked where it was read

    def to_json(self) -> str:
        """In one line, without its end."""
        content = dataclasses.asdict(self) | {"time": self.time.isoformat(timespec="seconds")}
        return json.dumps(_strict(content), allow_nan=False)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Line":
        """Raises `KeyError`, `TypeError`, `ValueError` or `AttributeError` for what is none."""
        fields = {field.name: content[field.name] for field in dataclasses.fields(cls)}
        time = datetime.fromisoformat(fields["time"])
        if time.tzinfo is None:
            raise ValueError(f"time {fields['time']} names no time zone")
        probabilities = tuple(float(p) for p in fields["probabilities"])
        if len(probabilities) < 2 or not _ascends((0.0, *probabilities, 1.0)):
            raise ValueError("probabilities that do not ascend between 0 and 1")
        if not 0 < fields["level"] < 1:
            raise ValueError(f"level {fields['level']}")
        recommended: dict[str, Any] = {"lr": None} | dict(fields["recommended"])
        if recommended["lr"] is not None and not recommended["lr"] > 0:
            raise ValueError(f"recommended learning rate {recommended['lr']}")
        found = cls(
            **fields
            | {"time": time, "probabilities": probabilities, "width": int(fields["width"])}
            | {quantity: _predicted(fields[quantity], len(probabilities)) for quantity in QUANTITIES}
            | {"widths": tuple(int(width) for width in fields["widths"]), "settings": dict(fields["settings"])}
            | {"recommended": recommended}
        )
        found.measure  # noqa: B018  # raises for one that no run records
        return found

    def same_recipe(self, settings: Mapping[str, Any]) -> bool:
        """Whether these are the settings of the runs it rests on, apart from where the data lay."""
        there, defaults = _plain(settings), _plain(default_settings())
        keys = (self.settings.keys() | there.keys()) - _NOT_COMPARED
        return all(self.settings.get(key, defaults.get(key)) == there.get(key, defaults.get(key)) for key in keys)


def lines(fitted: StudyFit, predictions: Sequence[LrPrediction]) -> list[Line]:
    """The predictions as they are recorded now. Raises `RequestError` where a width has finished runs."""
    trained = {width for group in fitted.groups for width in group.grid.runs.widths}
    if known := sorted(trained & {one.width for one in predictions}):
        raise RequestError(f"--record: width {known[0]} has finished runs, so that it cannot be predicted any more")
    now = datetime.now(UTC).replace(microsecond=0)
    return [_line(fitted, one, now) for one in predictions]


def append(path: Path, added: Sequence[Line]) -> None:
    """Adds the lines to the ledger, all or nothing, whoever else does so. Raises `RequestError` for a damaged ledger
    and one that cannot be written."""
    try:
        with locked(path.with_name(f".{path.name}.lock")):
            before = ""
            if path.exists():
                read(path)  # nothing is added to what could not be read again
                before = path.read_text()
            write_atomic(path, before + "".join(f"{line.to_json()}\n" for line in added))
    except OSError as error:
        raise RequestError(f"--record: {path}: cannot write ({error.strerror})") from None


def read(path: Path) -> list[Line]:
    """Every line of the ledger. Raises `RequestError` for a missing or damaged one, naming the line."""
    try:
        contents, whole = read_jsonl(path), path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: no ledger of predictions ({error.strerror}); --record makes one") from None
    except ValueError as error:
        raise RequestError(f"{path} is damaged ({error}): mend or remove the line") from None
    if whole and not whole.endswith(b"\n"):
        raise RequestError(f"{path} is damaged (line {len(contents) + 1}: it has no end): mend or remove the line")
    found = []
    for number, content in enumerate(contents, start=1):
        try:
            found.append(Line.from_json(content))
        except KeyError as error:
            raise RequestError(f"{path} is damaged (line {number}: no {error}): mend or remove the line") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"{path} is damaged (line {number}: {error}): mend or remove the line") from None
    return found


def data_hash(group: GroupFit) -> str:
    """sha256 over the runs of a group, in whichever order they were read.

    Of every run the JSON list ``[param, optimizer, loss, width, lr, seed, value, left, accuracy]``, numbers as Python
    writes them: its value of the measure that is minimized (null: lost), whether it left the stable region for good,
    and its final training accuracy (null: none). These lines are sorted as text and joined by line ends. Where runs lie
    and how folders are called does not matter.
    """
    runs, name = group.grid.runs, [group.param, group.optimizer, group.loss]
    columns = (runs.width.astype(np.int64), runs.lr, runs.seed, runs.loss, runs.left, runs.accuracy)
    rows = [json.dumps(_strict([*name, *row])) for row in zip(*(c.tolist() for c in columns), strict=True)]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------


def _line(fitted: StudyFit, one: LrPrediction, now: datetime) -> Line:
    group = one.group
    return Line(
        time=now,
        version=__version__,
        study=fitted.study.name,
        param=group.param,
        optimizer=group.optimizer,
        loss=group.loss,
        width=int(one.width),
        estimator=group.estimator.name,
        metric=fitted.measure.metric,
        value=fitted.measure.value,
        level=one.level,
        probabilities=PROBABILITIES,
        optimal=_distribution(group.fitted, "optimal", one),
        max_stable=_distribution(group.fitted, "max_stable", one),
        safe=one.safe,
        recommended=dataclasses.asdict(one.recommended),
        widths=tuple(int(width) for width in group.grid.runs.widths),
        settings=_plain(_recipe(fitted, group)),
        data=data_hash(group),
    )


def _recipe(fitted: StudyFit, group: GroupFit) -> Mapping[str, Any]:
    """The settings that the group's runs share."""
    study = fitted.study
    if not isinstance(study, Study):
        return study.recipe
    return study.recipe_of(study.runs[(study.runs[list(group.key)] == list(group.key.values())).all(axis=1)])


def _distribution(fitted: Fitted, quantity: Quantity, one: LrPrediction) -> Predicted | None:
    lr = fitted.lr_at(quantity, one.width, one.level)
    if lr is None:
        return None
    if not lr.has_interval:
        return Predicted(lr.value, math.nan, math.nan, ())
    pairs = [fitted.lr_at(quantity, one.width, 1 - 2 * p) for p in _BELOW]
    below, above = [pair.low for pair in pairs if pair], [pair.high for pair in pairs if pair]
    # quantiles of one distribution ascend, up to the precision that they were found with
    ascending = np.maximum.accumulate(np.log2([*below, lr.value, *reversed(above)]))
    return Predicted(lr.value, lr.low, lr.high, tuple(round(float(x), 6) for x in ascending))


def _predicted(content: Any, n: int) -> Predicted | None:
    if content is None:
        return None
    lr, low, high = (math.nan if content[key] is None else float(content[key]) for key in ("lr", "low", "high"))
    log2_lr = tuple(float(x) for x in content["log2_lr"])
    if not lr > 0 or len(log2_lr) not in (0, n) or list(log2_lr) != sorted(log2_lr):
        raise ValueError("a prediction that is no learning rate with ascending quantiles")
    if log2_lr and not 0 < low <= high:
        raise ValueError("quantiles without an interval")
    return Predicted(lr, low, high, log2_lr)


def _ascends(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(_strict(content)))
    return found


def _strict(value: Any) -> Any:
    """Strict JSON knows neither nan nor inf: they become null."""
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
