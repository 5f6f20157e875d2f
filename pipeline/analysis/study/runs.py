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

    width: Ints
    lr: Floats
    seed: Ints
    loss: Floats
    """What is minimized over learning rates; inf: lost, the run has no usable final value."""
    left: Bools
    """The trajectory left the stable region or lost ground for good (`stability.left_for_good`, `lost_ground`)."""
    accuracy: Floats
    """Final training accuracy, for the label of classifiers; nan without classes."""

    @staticmethod
    def of(
        width: Sequence[float] | NDArray[Any],
        lr: Sequence[float] | NDArray[Any],
        seed: Sequence[float] | NDArray[Any],
        loss: Sequence[float] | NDArray[Any],
        left: Sequence[float] | NDArray[Any] | None = None,
        accuracy: Sequence[float] | NDArray[Any] | None = None,
    ) -> "Runs":
        """From anything array-like; a loss that is not finite becomes inf."""
        losses = np.asarray(loss, dtype=np.float64)
        return Runs(
            np.asarray(width, dtype=np.int64),
            np.asarray(lr, dtype=np.float64),
            np.asarray(seed, dtype=np.int64),
            np.where(np.isfinite(losses), losses, math.inf),
            np.zeros(len(losses), dtype=np.bool_) if left is None else np.asarray(left, dtype=np.bool_),
            np.full(len(losses), math.nan) if accuracy is None else np.asarray(accuracy, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.lr)

    def where(self, mask: Bools | Ints) -> "Runs":
        """The runs selected by a mask, or by their places, in that order."""
        columns = (self.width, self.lr, self.seed, self.loss, self.left, self.accuracy)
        return Runs(*(column[mask] for column in columns))  # type: ignore[arg-type]

    def with_loss(self, loss: Floats) -> "Runs":
        return replace(self, loss=loss)

    @cached_property
    def x(self) -> Floats:
        """log2 of the learning rate."""
        found: Floats = np.log2(self.lr)
        return found

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Distinct widths, narrowest first."""
        return tuple(np.unique(self.width).tolist())
