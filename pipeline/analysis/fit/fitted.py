"""The fit of a family of curves: the one complete result that every estimator returns.

What an estimator cannot tell is None, nan or empty here, so that nobody asks which estimator it was.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from pipeline.analysis.fit.evidence import PowerLawCheck
from pipeline.analysis.fit.exponent import LrLaw
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.regret import Price
from pipeline.analysis.fit.transfer import Transfer
from pipeline.analysis.study.grid import GridEnd
from pipeline.analysis.study.runs import Floats

Quantity = Literal["optimal", "max_stable"]
QUANTITIES: tuple[Quantity, ...] = ("optimal", "max_stable")


@dataclass(frozen=True)
class Lr:
    """A learning rate and its interval; `low` and `high` are nan where the estimator gives none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    def below(self, ceiling: float) -> "Lr":
        """With nothing above `ceiling`."""
        return Lr(min(self.value, ceiling), min(self.low, ceiling), min(self.high, ceiling))


LEVEL = 0.95
"""Mass of the intervals of fitted widths and exponents."""


def lr_of(posterior: Mixture, level: float = LEVEL) -> Lr:
    """Median and central interval of log2 lr, as learning rates."""
    low, median, high = posterior.quantiles([(1 - level) / 2, 0.5, (1 + level) / 2])
    return Lr(2.0**median, 2.0**low, 2.0**high)


class LeftOut(Enum):
    """Why a width took no part in the fit of the optimum."""

    UNSTABLE = "nothing there is stable"
    FEW_RUNS = "too few runs are near its optimum"
    ONE_SIDED = "no width shows both sides of its valley"
    NO_VALLEY = "no valley: losses do not depend on the learning rate beyond noise"


@dataclass(frozen=True)
class FittedWidth:
    """What an estimator makes of one width, and what it lacks."""

    best: Lr | None
    """The optimal learning rate; None: it has none."""
    best_loss: float
    """Loss at `best`; nan without one."""
    edge: Lr | None
    """The edge as the estimator draws it (`Estimator.edge_name`)."""
    at_edge: GridEnd
    """Which end of the grid the best learning rate tried is."""
    left_out: LeftOut | None = None
    """Of the fit of the optimum; None: it took part, or the estimator does not say."""


@dataclass(frozen=True)
class Observed:
    """What the widths say of a quantity by themselves, which `advice` needs; octaves."""

    widths: tuple[float, ...]
    variance: Floats
    """Per width."""
    jitter: float
    """Standard deviation of single widths around the power law."""
    wander: float
    """How far the exponent wanders per root octave of width."""


LrAt = Callable[[Quantity, float, float], Lr | None]
"""Of a quantity, a width, trained or not, and a level: the learning rate and the interval that holds so much mass; None
where nothing is known."""


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Fitted:
    """A family of curves as an estimator sees it."""

    widths: tuple[FittedWidth, ...]
    """In the order of the grid's."""
    laws: Mapping[Quantity, LrLaw]
    """Of both quantities."""
    lr_at: LrAt
    intervals: bool = True
    """Whether `lr_at` knows intervals."""
    posteriors: Mapping[Quantity, Mixture] = field(default_factory=dict)
    """Of the exponents; a quantity that is not estimable, or an estimator without distributions, has none."""
    stands: Callable[[float], Mixture | None] = _nothing
    """Of a width: log2 of the largest learning rate that one run with a new seed stands."""
    price: Callable[[float, float], Price | None] = _nothing
    """Of a width and a level: the learning rate of least expected regret, and what it costs."""
    observed: Mapping[Quantity, Observed] = field(default_factory=dict)
    """Of the quantities that have a power law with an error, over two widths at least."""
    checks: Mapping[Quantity, PowerLawCheck] = field(default_factory=dict)
    """Whether one power law describes all widths; an estimator that does not check it has none."""
    edge_limited: bool = False
    """The optimum saturates at the edge, so that its exponent is the edge's."""
    log_loss: bool = False
    """Valleys were fitted to log losses."""
    transfer: Transfer | None = None
    """How well learning rates transfer; None: fewer than three optima, or an estimator without valleys."""
    shape_differs: float = 0.0
    """Probability that the widths' valleys do not share their shape, beyond an asymmetry that turns with width."""
