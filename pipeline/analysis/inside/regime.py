"""The regime of a ladder of runs (paper, Definition 1), from the width exponents of logits, activations and gradients.

Stable: neither logits nor activations grow with width. Controlled divergence: logits grow, activations do not.
Catastrophic: both grow.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.analysis.inside.check import Ladder, Records
from pipeline.analysis.inside.slopes import fit_slopes

Regime = Literal["stable", "controlled divergence", "catastrophic", "undecided"]
Growth = Literal["grows", "bounded", "unclear"]

# Between no growth and the slowest that theory knows, n^1/2, which finite widths bend
GROWS, BOUNDED = 0.1, 0.25


@dataclass(frozen=True)
class Trend:
    """A width exponent with its standard error and half of its 95 % interval (nan: no error)."""

    exponent: float
    standard_error: float
    half_width: float

    @property
    def growth(self) -> Growth:
        """grows: the interval lies above `GROWS`; bounded: below `BOUNDED`; unclear: it does not say."""
        if math.isnan(self.half_width):
            return "unclear"
        if self.exponent - self.half_width > GROWS:
            return "grows"
        return "bounded" if self.exponent + self.half_width < BOUNDED else "unclear"


@dataclass(frozen=True)
class Inside:
    """What a ladder's runs show after `step`, and the regime that follows.

    What grows is looked for in the changes since the reference: beside the initial values, a change that grows with
    width is small at first, and outgrows them at some width.
    """

    ladder: Ladder
    step: int
    trends: Mapping[str, Trend]
    """logit changes, activation changes, logits, activations, gradients, loss; what was not recorded is left out."""
    calibration: Mapping[int, tuple[float, float]]
    """By width, on the validation split: expected calibration error and mean largest probability."""

    @property
    def lost(self) -> bool:
        """Every run diverges at the widest width, none at the narrowest."""
        diverged = self.ladder.diverged
        widest = self.ladder.widths[-1]
        of_widest = sum(width == widest for width, _ in self.ladder.records)
        return diverged.get(widest, 0) >= of_widest > 0 and not diverged.get(self.ladder.widths[0])

    def growth(self, what: Literal["logit", "activation"]) -> Growth:
        """grows: the changes do, or the values themselves; else what the changes say, or without them the values."""
        found = [self.trends[name].growth for name in (f"{what} changes", f"{what}s") if name in self.trends]
        if "grows" in found:
            return "grows"
        return found[0] if found else "unclear"

    @property
    def regime(self) -> Regime:
        logits, activations = self.growth("logit"), self.growth("activation")
        if self.lost or logits == activations == "grows":
            return "catastrophic"
        if "unclear" in (logits, activations):
            return "undecided"
        return "stable" if logits == activations == "bounded" else "controlled divergence"


def inside(ladder: Ladder) -> Inside | None:
    """None for a ladder of which no step was recorded by all runs, unless the reason is that some diverged."""
    if not ladder.steps:
        return Inside(ladder, 0, {}, calibration(ladder)) if ladder.diverged else None
    readout = {weight for weight, place in ladder.places.items() if place.layer == "output"}

    def largest(quantity: str, of_readout: bool = False) -> Value:
        def of(record: Mapping[str, Any]) -> float | None:
            named = {name.partition("/")[2]: v for name, v in record.items() if name.startswith(f"{quantity}/")}
            found = [value for weight, value in named.items() if (weight in readout) == of_readout]
            return None if None in found else max(found, default=None)

        return of

    values: dict[str, Value] = {
        "logit changes": largest("update", of_readout=True),
        "activation changes": largest("update"),
        "logits": lambda record: record.get("probe_logit_rms", record.get("logit_rms")),
        "activations": largest("output"),
        "gradients": largest("gradient"),
        "loss": lambda record: record.get("loss"),
    }
    step = ladder.steps[-1]
    trends = {name: trend for name, value in values.items() if (trend := _trend(ladder, step, value)) is not None}
    return Inside(ladder, step, trends, calibration(ladder))


Value = Callable[[Mapping[str, Any]], float | None]


def _trend(ladder: Ladder, step: int, value: Value) -> Trend | None:
    values_WS = np.full((len(ladder.widths), len(ladder.seeds)), math.nan)
    for (width, seed), records in ladder.records.items():
        record = next((r for r in records if r["step"] == step), None)
        found = None if record is None else value(record)
        if found is not None:
            values_WS[ladder.widths.index(width), ladder.seeds.index(seed)] = found
    fit = fit_slopes(np.array(ladder.widths), values_WS[..., None])
    if fit.n_widths[0] < len(ladder.widths):
        return None
    return Trend(float(fit.exponent[0]), float(fit.standard_error[0]), float(fit.half_width[0]))


def calibration(ladder: Ladder) -> dict[int, tuple[float, float]]:
    """By width: expected calibration error and mean largest probability at the last validation, means over seeds."""
    by_width: dict[int, list[tuple[float, float]]] = {}
    for (width, _), records in ladder.records.items():
        found = last(records, "val_calibration_error", "val_max_probability")
        if found is not None:
            by_width.setdefault(width, []).append((found[0], found[1]))
    return {width: tuple(np.mean(by_width[width], axis=0).tolist()) for width in sorted(by_width)}


def last(records: Records, *names: str) -> list[float] | None:
    """The values of the last record that has them all."""
    for record in reversed(records):
        values = [record.get(name) for name in names]
        if all(value is not None for value in values):
            return [float(value) for value in values if value is not None]
    return None


def sharpness_curves(ladder: Ladder) -> dict[int, list[tuple[Any, Any]]]:
    """By width, (steps, largest eigenvalues) per seed that recorded them."""
    curves: dict[int, list[tuple[Any, Any]]] = {}
    for (width, _), records in sorted(ladder.records.items()):
        points = _points(records, "sharpness/1")
        if points:
            curves.setdefault(width, []).append(tuple(np.array(points).T))
    return curves


def _points(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(record["step"], record[name]) for record in records if record.get(name) is not None and record[name] > 0]
