"""Which runs and which learning rates are unstable, and where a width's stability edge lies (design, section 4)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Consecutive logged losses above the initial one, at the end of the run, after which it counts as gone for good.
# More than one, because batches are noisy; few, because catapults recover and must be given the time to.
PATIENCE = 5

# Cross-entropy by which a language model's final loss may exceed the width's best and still count as stable (paper, D.4:
# Fig. 5 and 6).
MARGIN = 1.0


@dataclass(frozen=True)
class Edge:
    """Bracket of a width's max-stable learning rate: it lies in (last_stable_lr, min_unstable_lr).

    `min_unstable_lr` is nan when no learning rate at or above the optimum was unstable (the edge lies beyond
    `last_stable_lr`, the largest one tried); both are nan when all were (the edge lies below the smallest one tried).
    """

    last_stable_lr: float
    min_unstable_lr: float

    @property
    def censored(self) -> bool:
        """The grid shows at most one side of the edge."""
        return math.isnan(self.min_unstable_lr)


def records_above(steps: NDArray[np.int64], losses: NDArray[np.float64], warmup_steps: int) -> int:
    """Logged records in a row, at the end of a run and after `warmup_steps`, whose training loss lies above the first
    record's, which is the loss at initialization. A non-finite loss counts as above."""
    back = losses[steps > warmup_steps] <= losses[0]  # not `>`: nan > x is False
    return len(back) if not back.any() else int(np.argmax(back[::-1]))


def left_for_good(above: int) -> bool:
    """Whether a run with so many `records_above` left the stable region and never came back. A run with fewer records
    after warm-up than `PATIENCE` has not been seen long enough, and is not labelled by this rule."""
    return above >= PATIENCE


def is_lost(status: str, final_loss: float) -> bool:
    """Whether a finished run has no usable final loss: it diverged, or was aborted.

    An adaptive sweep aborts only what has left the stable region, so an aborted run is unstable, never slow.
    """
    return status != "completed" or not math.isfinite(final_loss)


def unstable_lrs(
    losses: NDArray[np.float64],
    best: int | None,
    *,
    left: NDArray[np.bool_] | None = None,
    loss: str = "cross_entropy",
    accuracies: NDArray[np.float64] | None = None,
    n_classes: int | None = None,
) -> NDArray[np.bool_]:
    """Which learning rates (ascending) of one width are unstable, given their seed-mean final losses.

    `losses` holds inf or nan where any seed is lost (`is_lost`); such a rate is unstable wherever it lies. At or above
    the optimum, at index `best`, so is one where any seed `left` for good, and, under cross-entropy, one that failed:
    whose mean loss exceeds the best by more than `MARGIN`, or, with `n_classes`, whose mean training accuracy is below
    `accuracy_floor`, unless the best one is (paper, D.4; under the squared losses nothing else counts). Below the optimum all this only means
    that the run is under-trained: at tiny learning rates the batches' noise alone can keep the loss above its first
    value. `best` is None when no rate is usable.
    """
    unstable: NDArray[np.bool_] = ~np.isfinite(losses)
    if best is None:
        return unstable
    if left is not None:
        unstable[best:] |= left[best:]
    if loss != "cross_entropy":
        return unstable
    if n_classes is None:
        unstable[best:] |= ~(losses[best:] <= losses[best] + MARGIN)
    else:
        assert accuracies is not None
        works = accuracies >= accuracy_floor(n_classes)
        if works[best]:  # otherwise untrained or hopeless: its failures say nothing of stability
            unstable[best:] |= ~works[best:]
    return unstable


def accuracy_floor(n_classes: int) -> float:
    """Least accuracy of a stable classifier, chance + min(chance, (1 - chance) / 9): the paper's 20 % at 10 classes."""
    chance = 1 / n_classes
    return chance + min(chance, (1 - chance) / 9)


def stability_edge(lrs: NDArray[np.float64], unstable: NDArray[np.bool_], best: int | None) -> Edge:
    """The last stable and the minimal unstable learning rate: the smallest unstable one above the optimum (paper, D.4)."""
    if best is None:
        return Edge(math.nan, math.nan)
    beyond = np.flatnonzero(unstable[best:]) + best
    if not len(beyond):
        return Edge(float(lrs[-1]), math.nan)
    first = int(beyond[0])
    assert first > best, "the optimum itself is stable"
    return Edge(float(lrs[first - 1]), float(lrs[first]))
