"""Stability: which single runs are unstable (design, section 4). What follows for the edge: `edges`.

Two edges, never mixed: by trajectory (`TRAJECTORY`), which needs no other run to compare with, and by the published
criterion (`Rule`), which compares final values. The one definition: estimators, tables, figures and pages read these
labels.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.study.runs import Bools, Floats, Ints, Runs

# Consecutive logged losses above the initial one, at the end of the run, after which it counts as gone for good.
# More than one, because batches are noisy; few, because catapults recover and must be given the time to.
PATIENCE = 5

# A run lost ground for good where its smoothed final loss lies above its own smoothed minimum by more than so much of
# what it had gained since initialization, and by so many times its noise. A smooth shoulder gains less, but keeps it.
SHARE_LOST, NOISES_LOST = 0.25, 4.0
_SMOOTHED = 0.05  # of the records, that a mean is taken over
_LEAST_SMOOTHED = 5

# Cross-entropy by which a language model's final loss may exceed the width's best and still count as stable
# (paper, D.4: Fig. 5 and 6).
MARGIN = 1.0


def records_above(
    steps: NDArray[np.int64], losses: NDArray[np.float64], warmup_steps: int, guessing: float = math.inf
) -> int:
    """Logged records in a row, at the end of a run and after `warmup_steps`, whose training loss lies above the first
    record's, which is the loss at initialization; in a run that rose above that once, also those that are no better
    than `guessing`, the loss of constant outputs: a network may blow up and die, and then lie below an initialization
    that was worse than that. A non-finite loss counts as above."""
    died = guessing * (1 - 1e-6) if bool(np.any(losses > losses[0])) else math.inf
    after = losses[steps > warmup_steps]
    back = (after <= losses[0]) & (after < died)  # not `>`: nan > x is False
    return len(back) if not back.any() else int(np.argmax(back[::-1]))


def left_for_good(above: int) -> bool:
    """Whether a run with so many `records_above` left the stable region and never came back. A run with fewer records
    after warm-up than `PATIENCE` has not been seen long enough, and is not labelled by this rule."""
    return above >= PATIENCE


def ground_lost(losses: NDArray[np.float64]) -> tuple[float, float]:
    """How far the smoothed training loss ended above its own minimum: as a share of what had been gained from the first
    record to that minimum, and in standard deviations of a smoothed value. (0, 0): it did not, or it was not seen long
    enough."""
    window = max(_LEAST_SMOOTHED, round(_SMOOTHED * len(losses)))
    if len(losses) < 3 * window or not np.isfinite(losses).all():
        return 0.0, 0.0
    smooth = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    least, lost = float(smooth.min()), float(smooth[-1] - smooth.min())
    gained = float(losses[0]) - least
    off = np.diff(losses[-2 * window :])  # differences, so that a slope is no noise
    noise = float(np.std(off)) / math.sqrt(2 * window)
    if lost <= 0 or gained <= 0:
        return 0.0, 0.0
    return lost / gained, lost / max(noise, 1e-12)


def lost_ground(share: float, noises: float) -> bool:
    """Whether a run with such `ground_lost` lost ground for good."""
    return share > SHARE_LOST and noises > NOISES_LOST


def is_lost(status: str, final_loss: float) -> bool:
    """Whether a finished run has no usable final loss: it diverged, or was aborted.

    An adaptive sweep aborts only what has left the stable region, so an aborted run is unstable, never slow.
    """
    return status != "completed" or not math.isfinite(final_loss)


def accuracy_floor(n_classes: int) -> float:
    """Least accuracy of a stable classifier, chance + min(chance, (1 - chance) / 9): the paper's 20 % at 10 classes."""
    chance = 1 / n_classes
    return chance + min(chance, (1 - chance) / 9)


@dataclass(frozen=True)
class Rule:
    """When a run that ended with a finite loss still failed, at or above the optimum: the published criterion.

    Beside divergence and leaving for good, which count for all: under cross-entropy a language model by its loss, a
    classifier of `n_classes` by its accuracy; under squared losses nothing else (paper, D.4).
    """

    cross_entropy: bool = True
    """Whether final values are compared at all; else only trajectories count."""
    n_classes: int | None = None

    def failed(self, runs: Runs, best_loss: float) -> Bools:
        if not self.cross_entropy:
            return np.zeros(len(runs), dtype=np.bool_)
        if self.n_classes is None:
            return ~(runs.loss <= best_loss + MARGIN)  # not `>`: nan > x is False
        return ~(runs.accuracy >= accuracy_floor(self.n_classes))


LANGUAGE = Rule()
TRAJECTORY = Rule(cross_entropy=False)


class Cause(IntEnum):
    """What a run is unstable by. Where several runs are, the largest is told."""

    STABLE = 0
    WIDTH = 1
    """Nothing at its width trains as well as at a narrower one, or nothing there is usable."""
    LEFT = 2
    """It left the stable region for good, or lost ground for good."""
    FAILED = 3
    """Its final loss or accuracy is too bad beside its width's best (`Rule`)."""
    LOST = 4
    """It has no usable final loss."""


@dataclass(frozen=True)
class Labels:
    """Labels of `runs`, and per width (in the order of `runs.widths`) what they were taken against."""

    cause: Ints
    """Per run, a `Cause`."""
    best_x: Floats
    """Per width: log2 of the learning rate with the smallest median loss over seeds; nan: no usable run."""
    best_loss: Floats
    """Per width: that median; nan: no usable run."""
    all_unstable: Bools
    """Per width: nothing there trained stably, so the edge lies below the smallest learning rate tried."""

    @property
    def unstable(self) -> Bools:
        """Per run."""
        unstable: Bools = self.cause != Cause.STABLE
        return unstable


def label(runs: Runs, rule: Rule = TRAJECTORY) -> Labels:
    """Label every run.

    Unstable is a run that is lost, wherever it lies; at or above its width's best learning rate also one that left for
    good or failed by the `rule`. Below, these only mean that the run is under-trained: there a single noisy seed says
    nothing. The best learning rate is taken from medians over seeds, of rates at which fewer than half of the seeds are
    lost or left. A whole width is unstable when nothing is usable there, or its best loss exceeds a narrower width's by
    more than `MARGIN` (language; a classifier: it stays below the accuracy floor that a narrower one passes) and not at
    the largest learning rate tried, where it would rather be under-trained.
    """
    n = len(runs.widths)
    cause = np.where(np.isfinite(runs.loss), Cause.STABLE, Cause.LOST)
    best_x, best_loss = np.full(n, math.nan), np.full(n, math.nan)
    all_unstable = np.zeros(n, dtype=np.bool_)
    narrower, passed = math.inf, False
    for place, width in enumerate(runs.widths):
        here = runs.width == width
        of_width = runs.where(here)
        x, median = _medians(of_width)
        if not np.isfinite(median).any():
            all_unstable[place] = True
            cause[here] = np.maximum(cause[here], Cause.WIDTH)
            continue
        best = int(np.argmin(median))
        beyond = of_width.x >= x[best] - 1e-9
        failed = rule.failed(of_width, float(median[best]))
        works = not bool(failed[np.abs(of_width.x - x[best]) < 1e-9].all())
        worse = not works if rule.n_classes is not None else bool(median[best] > narrower + MARGIN)
        known = passed if rule.n_classes is not None else math.isfinite(narrower)
        if rule.cross_entropy and known and worse and best < len(x) - 1:
            all_unstable[place] = True
            cause[here] = np.maximum(cause[here], Cause.WIDTH)
            continue
        best_x[place], best_loss[place] = x[best], median[best]
        # a classifier that never passes the floor is untrained or hopeless; its failures say nothing of stability
        bad = failed if works else np.zeros(len(of_width), dtype=np.bool_)
        told = np.where(bad, Cause.FAILED, np.where(of_width.left, Cause.LEFT, Cause.STABLE))
        cause[here] = np.maximum(cause[here], np.where(beyond, told, Cause.STABLE))
        narrower, passed = min(narrower, float(median[best])), passed or works
    return Labels(cause, best_x, best_loss, all_unstable)


def _medians(runs: Runs) -> tuple[Floats, Floats]:
    """Distinct x of one width, ascending, and the median loss over seeds there: inf where half of them or more are lost
    or left."""
    lrs, place = np.unique(runs.lr, return_inverse=True)
    usable = np.where(runs.left, math.inf, runs.loss)
    if len(lrs) == len(runs):
        median = np.empty(len(lrs))
        median[place] = usable
        return np.log2(lrs), median
    order = np.lexsort((usable, place))
    counts = np.bincount(place)
    start = np.cumsum(counts) - counts
    ranked = usable[order]
    low, high = ranked[start + (counts - 1) // 2], ranked[start + counts // 2]
    with np.errstate(invalid="ignore"):
        return np.log2(lrs), np.where(np.isfinite(high), (low + high) / 2, math.inf)
