"""The runs of one family of curves as arrays: what every estimator takes. numpy only.

Throughout, x = log2(lr), in octaves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Runs:
    """Arrays of equal length, one entry per finished run."""

    width: Floats
    """The level of the axis: our own studies' width, or tokens, say, of a table of other people's runs."""
    lr: Floats
    seed: Ints
    loss: Floats
    """What is minimized over learning rates; inf: lost, the run has no usable final value."""
    left: Bools
    """The trajectory left the stable region or lost ground for good (`stability.left_for_good`, `lost_ground`)."""
    accuracy: Floats
    """Final training accuracy, for the label of classifiers; nan without classes."""
    second: Floats | None = None
    """The level of a second axis, where curves differ in two things."""

    @staticmethod
    def of(
        width: Sequence[float] | NDArray[Any],
        lr: Sequence[float] | NDArray[Any],
        seed: Sequence[float] | NDArray[Any],
        loss: Sequence[float] | NDArray[Any],
        left: Sequence[float] | NDArray[Any] | None = None,
        accuracy: Sequence[float] | NDArray[Any] | None = None,
        second: Sequence[float] | NDArray[Any] | None = None,
    ) -> "Runs":
        """From anything array-like; a loss that is not finite becomes inf."""
        losses = np.asarray(loss, dtype=np.float64)
        return Runs(
            np.asarray(width, dtype=np.float64),
            np.asarray(lr, dtype=np.float64),
            np.asarray(seed, dtype=np.int64),
            np.where(np.isfinite(losses), losses, math.inf),
            np.zeros(len(losses), dtype=np.bool_) if left is None else np.asarray(left, dtype=np.bool_),
            np.full(len(losses), math.nan) if accuracy is None else np.asarray(accuracy, dtype=np.float64),
            None if second is None else np.asarray(second, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.lr)

    def where(self, mask: Bools | Ints) -> "Runs":
        """The runs selected by a mask, or by their places, in that order."""
        return Runs(
            self.width[mask],
            self.lr[mask],
            self.seed[mask],
            self.loss[mask],
            self.left[mask],
            self.accuracy[mask],
            None if self.second is None else self.second[mask],
        )

    def with_loss(self, loss: Floats) -> "Runs":
        return replace(self, loss=loss)

    @cached_property
    def x(self) -> Floats:
        """log2 of the learning rate."""
        found: Floats = np.log2(self.lr)
        return found

    @cached_property
    def widths(self) -> tuple[float, ...]:
        """Distinct widths, narrowest first; whole numbers are `int`, and so written without a point."""
        return tuple(whole(width) for width in np.unique(self.width).tolist())


def whole(level: float) -> float:
    """The same number, as `int` where it is one."""
    return int(level) if float(level).is_integer() else float(level)
