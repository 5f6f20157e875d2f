"""The refined coordinate check of a study: what its runs recorded per weight and step, and its exponents over width.

A *family* is what one exponent is fitted to: runs of one parameterization, optimizer and loss whose learning rate at
width n is ``lr * (n / n_base)^lr_exponent``.

Shapes: W widths, S seeds, K series (one per quantity, weight and step).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.inside.slopes import WidthExponents, fit_width_exponents
from pipeline.analysis.inside.theory import Predictions
from pipeline.analysis.study.runs import Floats
from pipeline.config import RunConfig
from pipeline.entries.kinds import SMALL_GROUPS, Place, place_of
from pipeline.errors import RequestError
from pipeline.run.result import Record

QUANTITIES = (
    "effective", "propagating", "update", "input", "input_change", "output", "gradient",
    "operator_norm", "operator_norm_reference", "operator_norm_update",
    "alignment_effective", "alignment_propagating", "update_rank",
    "query", "key", "value", "attention_entropy", "attention_logit", "sparsity",
)  # fmt: skip
"""Positive quantities per weight, of which a width exponent means something."""

# What finite widths bend a slope by: a relative n^-1/2 in every scale (tests/analysis/inside/test_slopes.py)
FINITE_WIDTH = 0.1

Records = list[Record]


@dataclass(frozen=True)
class Series:
    """One quantity of one weight after one step."""

    quantity: str
    weight: str
    step: int


@dataclass(frozen=True)
class Exponent:
    """A measured width exponent with its 95 % interval, beside the predicted one."""

    quantity: str
    label: str
    """The weight, or the group of weights."""
    kind: Place
    step: int
    exponent: float
    standard_error: float
    half_width: float
    intercept: float
    """log2 of the fitted value at width 1."""
    predicted: float | None
    n_widths: int
    n_seeds: int

    @property
    def agrees(self) -> str:
        """yes: the prediction lies in the 95 % interval; no; no prediction; no error: nothing to judge by."""
        if self.predicted is None:
            return "no prediction"
        if math.isnan(self.half_width):
            return "no error"
        return "yes" if abs(self.exponent - self.predicted) <= self.half_width else "no"

    @property
    def departs(self) -> bool:
        """By more than its error, and by more than finite widths bend a slope."""
        return self.agrees == "no" and abs(self.exponent - (self.predicted or 0)) > FINITE_WIDTH

    @property
    def nonzero(self) -> bool:
        return not math.isnan(self.half_width) and abs(self.exponent) > self.half_width


@dataclass(frozen=True)
class Family:
    """Runs of one learning-rate rule at two widths or more, and what they recorded."""

    param: str
    optimizer: str
    loss: str
    lr: float
    """At the base width."""
    lr_exponent: Fraction | None
    """None: learning rates that follow no clean power law; nothing is predicted."""
    config: RunConfig
    """Of one of the runs."""
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    records: Mapping[tuple[int, int], Records]
    """By width and seed."""
    diverged: Mapping[int, int]
    """Runs that ended with a loss that is not finite, by width."""
    name: str = ""
    """Of learning rates that no rule gave."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """What weights.json says of the weights; empty: the runs are older than that file."""

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Steps at which every run recorded finite coordinates; one that diverged early leaves few."""
        found = [
            {record["step"] for record in records if any(value is not None for *_, value in _coordinates(record))}
            for records in self.records.values()
        ]
        return tuple(sorted(set.intersection(*found))) if found else ()

    @cached_property
    def _series(self) -> tuple[list[Series], Floats]:
        """Every quantity of every weight, and its values_WSK; nan: not recorded."""
        places: dict[Series, int] = {}
        columns: list[Floats] = []
        shown = set(self.steps)
        for w, width in enumerate(self.widths):
            for s, seed in enumerate(self.seeds):
                for record in self.records.get((width, seed), ()):
                    if record["step"] not in shown:
                        continue
                    for quantity, weight, value in _coordinates(record):
                        key = Series(quantity, weight, record["step"])
                        if key not in places:
                            places[key] = len(columns)
                            columns.append(np.full((len(self.widths), len(self.seeds)), math.nan))
                        columns[places[key]][w, s] = math.nan if value is None else value
        values = np.stack(columns, -1) if columns else np.empty((len(self.widths), len(self.seeds), 0))
        return list(places), values

    @cached_property
    def kinds(self) -> dict[str, Place]:
        """Of every weight: from weights.json, or of runs that are older than it by the rule that wrote it. Raises
        `RequestError` for a file that lacks one."""
        weights = sorted({key.weight for key in self._series[0]})
        if not self.places:
            return {weight: place_of(weight, self.config) for weight in weights}
        for weight in weights:
            if weight not in self.places:
                raise RequestError(f"weights.json of a run of width {self.widths[0]} lacks {weight}: delete the file")
        return {weight: self.places[weight] for weight in weights}

    @cached_property
    def predictions(self) -> Predictions | None:
        return None if self.lr_exponent is None else Predictions(self.config, self.lr_exponent, self.widths)

    @cached_property
    def weights(self) -> list[Exponent]:
        """An exponent per quantity, weight and step, over the weights that exist at every width."""
        keys, values = self._series
        kinds = [self.kinds[key.weight] for key in keys]
        return self._fit(keys, [key.weight for key in keys], kinds, values)

    @cached_property
    def groups(self) -> list[Exponent]:
        """The same for every group of weights: the mean of their logarithms, so that every weight counts the same."""
        keys, values, kinds = self._grouped
        return self._fit(keys, [kind.label for kind in kinds], kinds, values)

    @cached_property
    def _grouped(self) -> tuple[list[Series], Floats, list[Place]]:
        keys, values = self._series
        members: dict[tuple[str, str, int], list[int]] = {}
        for place, key in enumerate(keys):
            members.setdefault((key.quantity, self.kinds[key.weight].label, key.step), []).append(place)
        found, columns, kinds = [], [], []
        for (quantity, label, step), places in members.items():
            of_kind = [self.kinds[keys[place].weight] for place in places]
            gains = [place for place, kind in zip(places, of_kind, strict=True) if kind.part != "bias"]
            # biases act on a constant: they have nothing to propagate, and start from zero
            used = gains if gains and quantity not in ("effective", "gradient") else places
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log2(values[..., used])
            logs = np.where(np.isfinite(logs), logs, math.nan)
            usable = ~np.isnan(logs).all((0, 1))
            if not usable.any():
                continue
            found.append(Series(quantity, label, step))
            columns.append(2 ** logs[..., usable].mean(-1))
            kinds.append(self.kinds[keys[used[0]].weight])
        shape = (len(self.widths), len(self.seeds), 0)
        return found, np.stack(columns, -1) if columns else np.empty(shape), kinds

    def values(self, quantity: str, label: str, step: int) -> Floats:
        """values_WS of a group; nan: not recorded."""
        keys, values, _ = self._grouped
        return values[..., keys.index(Series(quantity, label, step))]

    def _fit(
        self, keys: Sequence[Series], labels: Sequence[str], kinds: Sequence[Place], values: Floats
    ) -> list[Exponent]:
        if not keys:
            return []
        fits: WidthExponents = fit_width_exponents(np.array(self.widths), values)
        predicted: dict[tuple[Place, str, int], float | None] = {}
        found = []
        for place, (key, label, kind) in enumerate(zip(keys, labels, kinds, strict=True)):
            if fits.n_widths[place] != len(self.widths):
                continue
            at = (kind, key.quantity, key.step)
            if at not in predicted:
                predicted[at] = self.predictions.exponent(*at) if self.predictions else None
            found.append(
                Exponent(
                    key.quantity,
                    label,
                    kind,
                    key.step,
                    float(fits.exponent[place]),
                    float(fits.standard_error[place]),
                    float(fits.half_width[place]),
                    float(fits.intercept[place]),
                    predicted[at],
                    int(fits.n_widths[place]),
                    int(fits.n_seeds[place]),
                )
            )
        order = (*self.config.kind.groups, *SMALL_GROUPS)
        return sorted(found, key=lambda e: _in_order(e, order))

    def group(self, quantity: str, label: str, step: int) -> Exponent | None:
        return next((e for e in self.groups if (e.quantity, e.label, e.step) == (quantity, label, step)), None)

    @cached_property
    def labels(self) -> list[str]:
        """Groups in the order of tables."""
        return list(dict.fromkeys(e.label for e in self.groups))


def _in_order(e: Exponent, order: Sequence[str]) -> tuple[Any, ...]:
    blocks = tuple(int(part) if part.isdigit() else -1 for part in e.label.split("."))
    return (order.index(e.kind.group), not e.kind.first, blocks, e.label, QUANTITIES.index(e.quantity), e.step)


def _coordinates(record: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """(quantity, weight, value) of a record's flat names."""
    parted = ((*name.partition("/"), value) for name, value in record.items() if "/" in name)
    return [(quantity, weight, value) for quantity, _, weight, value in parted if quantity in QUANTITIES]


def table(found: Sequence[Family], of: str = "weights") -> pd.DataFrame:
    """One row per family, quantity, weight (or group) and step."""
    rows = [
        {
            "param": f.param,
            "optimizer": f.optimizer,
            "loss": f.loss,
            "lr": f.lr,
            "lr_exponent": "" if f.lr_exponent is None else str(f.lr_exponent),
            "quantity": e.quantity,
            "group": e.kind.label,
            **({"weight": e.label} if of == "weights" else {}),
            "step": e.step,
            "exponent": e.exponent,
            "standard_error": e.standard_error,
            "ci_low": e.exponent - e.half_width,
            "ci_high": e.exponent + e.half_width,
            "predicted": math.nan if e.predicted is None else e.predicted,
            "n_widths": e.n_widths,
            "n_seeds": e.n_seeds,
            "agrees": e.agrees,
        }
        for f in found
        for e in (f.weights if of == "weights" else f.groups)
    ]
    return pd.DataFrame(rows)
