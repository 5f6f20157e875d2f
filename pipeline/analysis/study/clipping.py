"""Clipping as it happened: which share of a run's recorded steps had a gradient whose norm was above the threshold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# In every step but a few, such as those of a warm-up: then the step's length no longer depends on the gradient's
ALWAYS = 0.95

Acts = Literal["always", "sometimes", "never", "unknown"]


def clipped_share(norms: Sequence[float], threshold: float | None) -> float:
    """Share of the recorded gradient norms, which are those before clipping, above `threshold`; 0 without one; nan
    where no norm is finite."""
    if threshold is None:
        return 0.0
    known = np.asarray(norms, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(np.mean(known > threshold)) if len(known) else math.nan


@dataclass(frozen=True)
class Clipping:
    """How often clipping acted in the runs that decide something, by width."""

    shares: Mapping[float, float]

    @property
    def acts(self) -> Acts:
        """always: in nearly every step at every width; never: in none at any; unknown: no width's norms are known."""
        known = [share for share in self.shares.values() if not math.isnan(share)]
        if not known:
            return "unknown"
        if min(known) >= ALWAYS:
            return "always"
        return "sometimes" if max(known) > 0 else "never"

    @property
    def span(self) -> tuple[float, float]:
        """Least and largest share over the widths; nan where none is known."""
        known = [share for share in self.shares.values() if not math.isnan(share)]
        return (min(known), max(known)) if known else (math.nan, math.nan)
