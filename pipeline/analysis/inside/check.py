"""The refined coordinate check of a study: what its runs recorded per weight and step, and its exponents over width.

A *ladder* is what one exponent is fitted to: runs of one parameterization, optimizer and loss whose learning rate at
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

from pipeline.analysis.inside.slopes import fit_slopes
from pipeline.analysis.inside.theory import Theory
from pipeline.analysis.study.clipping import Clipping, clipped_share
from pipeline.analysis.study.runs import Floats
from pipeline.config import RunConfig
from pipeline.entries.kinds import SMALL_GROUPS, Place, place_of
from pipeline.errors import RequestError
from pipeline.run.result import Record

QUANTITIES = (
    "effective", "propagating", "update", "input", "input_change", "output", "gradient",
    "operator_norm", "operator_norm_reference", "operator_norm_update",
    "alignment_effective", "alignment_propagating", "update_rank",
    "query", "key", "value", "attention_entropy", "attention_logit", "sparsity", "update_rms", "alignment_rms",
)  # fmt: skip
"""Positive quantities per weight, of which a width exponent means something."""

COMPARED = ("effective", "propagating", "output")
"""Quantities that tables and figures compare over widths."""

# What finite widths bend a slope by: a relative n^-1/2 in every scale (tests/analysis/inside/test_slopes.py)
FINITE_WIDTH = 0.1

Records = list[Record]


@dataclass(frozen=True)
class Series:
    """One quantity of one weight, or of one group of them, after one step."""

    quantity: str
    weight: str
    """Or the group of weights."""
    step: int


@dataclass(frozen=True)
class Slope:
    """A measured width exponent with its 95 % interval, beside the predicted one."""

    quantity: str
    label: str
    """The weight, or the group of weights."""
    place: Place
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
        """yes: the prediction lies in the 95 % interval; no; no prediction; cannot tell: one seed, whose scatter around
        a line says nothing of other seeds, or no error."""
        if self.predicted is None:
            return "no prediction"
        if self.n_seeds < 2 or math.isnan(self.half_width):
            return "cannot tell"
        return "yes" if abs(self.exponent - self.predicted) <= self.half_width else "no"

    @property
    def departs(self) -> bool:
        """By more than its error, and by more than finite widths bend a slope."""
        return self.agrees == "no" and abs(self.exponent - (self.predicted or 0)) > FINITE_WIDTH

    @property
    def nonzero(self) -> bool:
        """Told from 0, by more than one seed."""
        return self.n_seeds > 1 and abs(self.exponent) > self.half_width


@dataclass(frozen=True)
class Ladder:
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
    recorded_places: Mapping[str, Place] = field(default_factory=dict)
    """What weights.json says of the weights; empty: the runs are older than that file."""
    cell: Mapping[str, str] = field(default_factory=dict)
    """Settings beside parameterization, optimizer and loss that tell its runs from others of the study."""

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
        column_of: dict[Series, int] = {}
        columns: list[Floats] = []
        shown = set(self.steps)
        for w, width in enumerate(self.widths):
            for s, seed in enumerate(self.seeds):
                for record in self.records.get((width, seed), ()):
                    if record["step"] not in shown:
                        continue
                    for quantity, weight, value in _coordinates(record):
                        key = Series(quantity, weight, record["step"])
                        if key not in column_of:
                            column_of[key] = len(columns)
                            columns.append(np.full((len(self.widths), len(self.seeds)), math.nan))
                        columns[column_of[key]][w, s] = math.nan if value is None else value
        values = np.stack(columns, -1) if columns else np.empty((len(self.widths), len(self.seeds), 0))
        return list(column_of), values

    @cached_property
    def places(self) -> dict[str, Place]:
        """Of every weight: from weights.json, or of runs that are older than it by the rule that wrote it. Raises
        `RequestError` for a file that lacks one."""
        weights = sorted({key.weight for key in self._series[0]})
        if not self.recorded_places:
            return {weight: place_of(weight, self.config) for weight in weights}
        for weight in weights:
            if weight not in self.recorded_places:
                raise RequestError(f"weights.json of a run of width {self.widths[0]} lacks {weight}: delete the file")
        return {weight: self.recorded_places[weight] for weight in weights}

    @cached_property
    def theory(self) -> Theory | None:
        if self.lr_exponent is None:
            return None
        return Theory(self.config, self.lr_exponent, self.widths, self.clipping.acts == "always")

    @cached_property
    def clipping(self) -> Clipping:
        """As it acted in the steps recorded."""
        norms: dict[float, list[float]] = {}
        for (width, _), records in self.records.items():
            norms.setdefault(width, []).extend(r.number("grad_norm") for r in records if "grad_norm" in r)
        return Clipping({width: clipped_share(found, self.config.grad_clip) for width, found in norms.items()})

    @cached_property
    def by_weight(self) -> list[Slope]:
        """An exponent per quantity, weight and step, over the weights that exist at every width."""
        keys, values = self._series
        return self._fit(keys, [self.places[key.weight] for key in keys], values)

    @cached_property
    def by_group(self) -> list[Slope]:
        """The same for every group of weights: the mean of their logarithms, so that every weight counts the same."""
        keys, values, places = self._grouped
        return self._fit(keys, places, values)

    @cached_property
    def _grouped(self) -> tuple[list[Series], Floats, list[Place]]:
        keys, values = self._series
        members: dict[tuple[str, str, int], list[int]] = {}
        for k, key in enumerate(keys):
            members.setdefault((key.quantity, self.places[key.weight].label, key.step), []).append(k)
        found, columns, places = [], [], []
        for (quantity, label, step), alike in members.items():
            gains = [k for k in alike if self.places[keys[k].weight].part != "bias"]
            # biases act on a constant: they have nothing to propagate, and start from zero
            used = gains if gains and quantity not in ("effective", "gradient") else alike
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log2(values[..., used])
            logs = np.where(np.isfinite(logs), logs, math.nan)
            usable = ~np.isnan(logs).all((0, 1))
            if not usable.any():
                continue
            found.append(Series(quantity, label, step))
            columns.append(2 ** logs[..., usable].mean(-1))
            places.append(self.places[keys[used[0]].weight])
        shape = (len(self.widths), len(self.seeds), 0)
        return found, np.stack(columns, -1) if columns else np.empty(shape), places

    def values(self, quantity: str, label: str, step: int) -> Floats:
        """values_WS of a group; nan: not recorded."""
        keys, values, _ = self._grouped
        return values[..., keys.index(Series(quantity, label, step))]

    def _fit(self, keys: Sequence[Series], places: Sequence[Place], values: Floats) -> list[Slope]:
        if not keys:
            return []
        fits = fit_slopes(np.array(self.widths), values)
        predicted: dict[tuple[Place, str, int], float | None] = {}
        found = []
        for k, (key, place) in enumerate(zip(keys, places, strict=True)):
            if fits.n_widths[k] != len(self.widths):
                continue
            at = (place, key.quantity, key.step)
            if at not in predicted:
                predicted[at] = self.theory.exponent(*at) if self.theory else None
            found.append(
                Slope(
                    key.quantity,
                    key.weight,
                    place,
                    key.step,
                    float(fits.exponent[k]),
                    float(fits.standard_error[k]),
                    float(fits.half_width[k]),
                    float(fits.intercept[k]),
                    predicted[at],
                    int(fits.n_widths[k]),
                    int(fits.n_seeds[k]),
                )
            )
        order = (*self.config.kind.groups, *SMALL_GROUPS)
        return sorted(found, key=lambda e: _in_order(e, order))

    @property
    def compares(self) -> bool:
        """Whether it has slopes after its last step: not where runs diverged before it."""
        return any(e.step == self.steps[-1] and e.quantity in COMPARED for e in self.by_group)

    def group(self, quantity: str, label: str, step: int) -> Slope | None:
        return next((e for e in self.by_group if (e.quantity, e.label, e.step) == (quantity, label, step)), None)

    @cached_property
    def labels(self) -> list[str]:
        """Groups in the order of tables."""
        return list(dict.fromkeys(e.label for e in self.by_group))


def _in_order(e: Slope, order: Sequence[str]) -> tuple[Any, ...]:
    blocks = tuple(int(part) if part.isdigit() else -1 for part in e.label.split("."))
    return (order.index(e.place.group), not e.place.first, blocks, e.label, QUANTITIES.index(e.quantity), e.step)


def _coordinates(record: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """(quantity, weight, value) of a record's flat names."""
    parted = ((*name.partition("/"), value) for name, value in record.items() if "/" in name)
    return [(quantity, weight, value) for quantity, _, weight, value in parted if quantity in QUANTITIES]


def table(found: Sequence[Ladder], of: str = "weights") -> pd.DataFrame:
    """One row per ladder, quantity, weight (or group) and step."""
    rows = [
        {
            "param": f.param,
            "optimizer": f.optimizer,
            "loss": f.loss,
            **f.cell,
            "lr": f.lr,
            "lr_exponent": "" if f.lr_exponent is None else str(f.lr_exponent),
            "quantity": e.quantity,
            "group": e.place.label,
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
        for e in (f.by_weight if of == "weights" else f.by_group)
    ]
    return pd.DataFrame(rows)
