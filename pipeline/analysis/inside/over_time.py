"""What runs recorded of their inside, against training time, width or learning rate (paper, Fig. 2, E.6, E.7, E.10,
E.15, E.18): the numbers behind the figures.

Shapes: W widths, S seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.analysis.inside.check import Ladder
from pipeline.analysis.inside.slopes import fit_slopes
from pipeline.analysis.study.runs import Floats
from pipeline.entries.kinds import FIRST
from pipeline.errors import RequestError

Against = Literal["step", "width", "lr"]
AGAINST: tuple[Against, ...] = ("step", "width", "lr")

MODEL = "model"
"""The row of what is measured of the whole model."""

MOST_STEPS = 5  # lines of a panel against width


@dataclass(frozen=True)
class Asked:
    """A kind of quantity, by its `--quantity` name."""

    parts: tuple[str, ...]
    """The recorded quantities, a column each."""
    positive: bool = True
    """Whether it lives on a log scale, where means are geometric and powers of the width mean something."""
    of_model: bool = False
    """Whether it is one number per model, and not one per weight."""
    flags: str = "--diagnostics.interval 100"
    """Of a run that records it."""


_SPECTRA = "--diagnostics.interval 100 --diagnostics.spectra true"
_SHARPNESS = "--diagnostics.sharpness_interval 100"

ASKED: dict[str, Asked] = {
    "alignment": Asked(("alignment_rms", "alignment_effective", "alignment_propagating"), flags=_SPECTRA),
    "updates": Asked(("effective", "propagating")),
    "activations": Asked(("output", "input_change")),
    "operator_norm": Asked(("operator_norm_reference", "operator_norm_update"), flags=_SPECTRA),
    "update_rank": Asked(("update_rank",), flags=_SPECTRA),
    "sparsity": Asked(("sparsity",), positive=False),
    "cosine": Asked(("cosine", "cosine_other"), positive=False),
    "sharpness": Asked(("sharpness",), of_model=True, flags=_SHARPNESS),
    "ntk": Asked(("ntk",), of_model=True, flags=f"{_SHARPNESS} --diagnostics.ntk true"),
}


@dataclass(frozen=True)
class Line:
    """A line of a panel: the mean over seeds, and the least and largest of them."""

    level: float
    """Width, or against width the step."""
    x: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Panel:
    """A quantity of a group of weights."""

    lines: tuple[Line, ...]
    exponent: float
    """Of the width, at the last step that all runs recorded; nan: not known, or not defined."""
    standard_error: float


@dataclass(frozen=True)
class Sheet:
    """The panels of a figure, by quantity and group of weights, of one family of runs."""

    ladder: Ladder
    """Of the learning rate shown; against learning rates, one of them."""
    asked: Asked
    against: Against
    rows: tuple[str, ...]
    panels: Mapping[tuple[str, str], Panel]
    """By (quantity, row); what was not recorded is left out."""


def sheet(ladders: Sequence[Ladder], quantity: str, against: Against) -> Sheet | None:
    """Of the ladders of one family: the first one's learning rate against steps or widths, all of them against learning
    rates. None: they recorded none of it."""
    asked, first = ASKED[quantity], ladders[0]
    shown = ladders if against == "lr" else ladders[:1]
    panels = {}
    for part in asked.parts:
        values = [_values(ladder, part, asked) for ladder in shown]
        for row in dict.fromkeys(row for of_ladder in values for row in of_ladder):
            by_lr = {f.lr: of_ladder[row] for f, of_ladder in zip(shown, values, strict=True) if row in of_ladder}
            panels[part, row] = _panel(by_lr, asked, against)
    rows = rows_of(first, (row for _, row in panels))
    return Sheet(first, asked, against, rows, panels) if panels else None


def sheets(chosen: Sequence[Ladder], every: Sequence[Ladder], quantity: str, against: Against) -> list[Sheet]:
    """One per chosen ladder. `every`: those among which others of the same family are found, for learning rates. Raises
    `RequestError` where nothing was recorded."""
    found = []
    for f in chosen:
        others = [g for g in every if g is not f and _family(g) == _family(f)]
        found.append(sheet([f, *others], quantity, against))
    if not any(found):
        raise RequestError(f"no {quantity} at two widths: train with {ASKED[quantity].flags}")
    return [one for one in found if one is not None]


def _family(f: Ladder) -> tuple[object, ...]:
    return (f.param, f.optimizer, f.loss, *f.cell.values(), f.lr_exponent)


def rows_of(ladder: Ladder, labels: Iterable[str]) -> tuple[str, ...]:
    """Those of the labels that are groups of matrices and norms, in the order of the forward pass."""
    labels = list(dict.fromkeys(labels))
    known = [label for label in (*ladder.config.kind.groups, MODEL) if label in labels]
    # with one block, all that reads the embedding is in it
    return (*known, *(label for label in labels if label.endswith(FIRST) and label.removesuffix(FIRST) not in known))


ByRun = Mapping[tuple[int, int], Mapping[int, float]]
"""By width and seed, values by step."""


def _values(ladder: Ladder, part: str, asked: Asked) -> dict[str, ByRun]:
    """By row: the mean over its weights at every step at which all of them have a value."""
    found: dict[str, dict[tuple[int, int], dict[int, float]]] = {}
    for run, records in sorted(ladder.records.items()):
        for record in records:
            for row, values in _by_row(ladder, record, part, asked).items():
                if None not in values:
                    numbers = np.array(values, dtype=np.float64)
                    found.setdefault(row, {}).setdefault(run, {})[record.step] = _mean(numbers, asked.positive)
    return dict(found)


def _by_row(ladder: Ladder, record: Mapping[str, Any], part: str, asked: Asked) -> dict[str, list[float | None]]:
    if asked.of_model:
        name = f"{part}/1"
        return {MODEL: [record[name]]} if name in record else {}
    found: dict[str, list[tuple[bool, float | None]]] = {}
    for name, value in record.items():
        quantity, _, weight = name.partition("/")
        if quantity == part:
            place = ladder.places[weight]
            found.setdefault(place.label, []).append((place.part == "bias", value))
    # biases act on a constant: they stand for a row only where it has nothing else
    return {row: [v for bias, v in pairs if not bias] or [v for _, v in pairs] for row, pairs in found.items()}


def _mean(values: Floats, positive: bool) -> float:
    """Geometric of positive quantities, in which every weight counts the same."""
    if not positive:
        return float(values.mean())
    return float(np.exp(np.log(values).mean())) if (values > 0).all() else math.nan


def _panel(by_lr: Mapping[float, ByRun], asked: Asked, against: Against) -> Panel:
    first = next(iter(by_lr.values()))
    widths = sorted({width for runs in by_lr.values() for width, _ in runs})
    exponent, error = _exponent(first, widths) if asked.positive else (math.nan, math.nan)
    if against == "step":
        lines = [_line(n, {(step, seed): value for (width, seed), values in first.items() if width == n
                           for step, value in values.items()}, asked) for n in widths]  # fmt: skip
    elif against == "width":
        common = sorted(set.intersection(*(set(values) for values in first.values())))
        lines = [_line(step, {(width, seed): values[step] for (width, seed), values in first.items()}, asked)
                 for step in shown_steps(common)]  # fmt: skip
    else:
        ends = {(n, lr, seed): of_run[max(of_run)] for lr, runs in by_lr.items() for (n, seed), of_run in runs.items()}
        lines = [_line(n, {(lr, seed): end for (m, lr, seed), end in ends.items() if m == n}, asked) for n in widths]
    return Panel(tuple(line for line in lines if len(line.x)), exponent, error)


def _line(level: float, points: Mapping[tuple[float, int], float], asked: Asked) -> Line:
    """Over x, from values by (x, seed)."""
    by_x: dict[float, list[float]] = {}
    for (x, _), value in points.items():
        if math.isfinite(value):
            by_x.setdefault(x, []).append(value)
    xs = sorted(by_x)
    mean = np.array([_mean(np.array(by_x[x]), asked.positive) for x in xs])
    low, high = (np.array([end(by_x[x]) for x in xs]) for end in (min, max))
    return Line(level, np.array(xs, dtype=np.float64), mean, low, high)


def _exponent(by_run: ByRun, widths: Sequence[int]) -> tuple[float, float]:
    common = set.intersection(*(set(values) for values in by_run.values()))
    seeds = sorted({seed for _, seed in by_run})
    if not common or len(widths) < 2:
        return math.nan, math.nan
    last = max(common)
    values_WS = np.array([[by_run.get((n, s), {}).get(last, math.nan) for s in seeds] for n in widths])
    fits = fit_slopes(np.array(widths), values_WS[..., None])
    if fits.n_widths[0] < len(widths):
        return math.nan, math.nan
    return float(fits.exponent[0]), float(fits.standard_error[0])


def shown_steps(steps: Sequence[int]) -> list[int]:
    """At most five of them, evenly on a log scale, the first and the last included."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    wanted = np.geomspace(steps[0], steps[-1], MOST_STEPS)
    return sorted({min(steps, key=lambda step, at=at: abs(math.log(step / at))) for at in wanted})  # type: ignore[misc]
