import math

import numpy as np
import pytest

from pipeline.analysis.fit.published import Curve, grid_optimum, seed_mean_curve
from pipeline.analysis.study.runs import Runs

NAN = math.nan


def curve(losses, left=None):
    n = len(losses)
    return Curve(
        2.0 ** np.arange(n),
        np.array(losses, dtype=float),
        np.full(n, np.nan),
        np.ones(n, dtype=int),
        np.zeros(n, dtype=int),
        np.zeros(n, dtype=bool) if left is None else np.array(left),
    )


def test_the_curve_averages_seeds_and_one_lost_or_left_seed_rules_a_learning_rate_out():
    lrs = [2.0, 1.0, 1.0, 2.0, 4.0, 4.0, 8.0]
    losses = [5.0, 6.0, 6.5, NAN, 7.0, 3.0, math.inf]
    left = [False, False, False, False, True, False, False]
    found = seed_mean_curve(
        Runs.of([64] * 7, lrs, [0, 0, 1, 1, 0, 1, 0], losses, left, [0.5, NAN, 0.25, NAN, NAN, NAN, 1])
    )
    assert found.lrs.tolist() == [1, 2, 4, 8]
    assert found.losses.tolist() == [6.25, math.inf, 5.0, math.inf]
    assert found.left.tolist() == [False, False, True, False]
    assert found.n_seeds.tolist() == [2, 2, 2, 1]
    assert found.n_lost.tolist() == [0, 1, 0, 1]
    assert found.accuracies[[0, 1, 3]].tolist() == [0.25, 0.5, 1]
    assert math.isnan(found.accuracies[2])
    assert grid_optimum(found).lr == 1.0


@pytest.mark.parametrize(
    ("losses", "lr", "at_edge"),
    [
        ([3, 2, 4], 2, "no"),
        ([2, 3, 4], 1, "low"),
        ([4, 3, 2], 4, "high"),
        ([4, 3, math.inf], 2, "no"),  # the next learning rate was tried, and diverged
        ([4, 2, 2], 2, "no"),
        ([NAN, 2, 3], 2, "no"),
        ([2], 1, "both"),
    ],
)
def test_grid_optimum(losses, lr, at_edge):
    found = grid_optimum(curve(losses))
    assert (found.lr, found.loss, found.at_edge) == (lr, 2 if 2 in losses else 3, at_edge)


def test_what_left_for_good_is_no_optimum():
    assert grid_optimum(curve([3, 1, 2], left=[False, True, False])).lr == 4
    assert grid_optimum(curve([3, 1], left=[True, True])).index is None


def test_no_optimum_where_every_learning_rate_is_lost():
    found = grid_optimum(curve([math.inf, NAN]))
    assert found.index is None
    assert math.isnan(found.lr)
    assert found.at_edge == "no"
