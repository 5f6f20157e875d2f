"""Which further runs would narrow a prediction most, from the fit's own variances. numpy only.

The variance of the prediction (`process.forecast_variance`), irregularity of the width included, is computed before and
after each candidate's runs.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.analysis.fit.fitted import Observed
from pipeline.analysis.fit.process import forecast_variance
from pipeline.analysis.study.runs import Floats, Runs

Kind = Literal["narrower", "wider", "seeds"]


@dataclass(frozen=True)
class Advice:
    """One way to spend runs, and what it would do."""

    kind: Kind
    width: float
    """The width to add; of `seeds`, the widest one trained."""
    shrink: float
    """Half-width of the prediction's interval after over before; below 1 is narrower."""
    cost: float | None
    """Compute, as a share of what the study has cost so far; None: not known how it goes with the axis."""


def advise(
    seen: Observed, runs: Runs, width: float, width_step: int = 1, cost_power: float | None = 2
) -> tuple[Advice, ...]:
    """Candidates for the prediction at `width`, the one that narrows most first: a width four times narrower, one four
    times wider than those trained (not beyond `width` itself), both multiples of `width_step`, and as many seeds again
    everywhere. `runs` are the family's. A run costs like
    width to the `cost_power`, by default squared; None: that is not known.
    """
    widths = np.array(seen.widths, dtype=np.float64)
    variance, jitter = seen.variance, seen.jitter**2
    per_width = {n: int(np.sum(runs.width == n)) for n in runs.widths}
    power = 0.0 if cost_power is None else cost_power
    spent = sum(count * n**power for n, count in per_width.items())
    typical = float(np.median(list(per_width.values())))
    before = _predicted(widths, variance + jitter, seen, width)
    candidates: list[tuple[Kind, float]] = [("seeds", widths[-1])]
    if (narrow := max(widths[0] / 4 // width_step, 1) * width_step) < widths[0]:
        candidates.append(("narrower", narrow))
    if widths[-1] < width:
        candidates.append(("wider", min(widths[-1] * 4, width)))
    found_ways = []
    for kind, new in candidates:
        if kind == "seeds":
            after = _predicted(widths, variance / 2 + jitter, seen, width)
            cost = 1.0
        else:
            measured = float(np.median(variance))
            more = np.append(variance + jitter, measured + jitter)
            after = _predicted(np.append(widths, new), more, seen, width)
            after = min(after, measured) if new == width else after  # its own runs know its irregularity too
            cost = float(typical * new**power / spent)
        known = None if cost_power is None else cost
        found_ways.append(Advice(kind, round(new) if new >= 1 else new, math.sqrt(after / before), known))
    return tuple(sorted(found_ways, key=lambda way: way.shrink))


def _predicted(widths: Floats, variance: Floats, seen: Observed, width: float) -> float:
    return forecast_variance(widths, variance, seen.wander, width) + seen.jitter**2
