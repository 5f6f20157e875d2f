import math

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.optimum import Curve, grid_optimum, seed_mean_curve

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


def runs(rows):
    table = pd.DataFrame(rows, columns=["lr", "final_train_loss", "status", "left_for_good"])
    return table.assign(final_val_loss=10 - table["final_train_loss"], final_train_accuracy=NAN)


def test_the_curve_averages_seeds_and_one_lost_or_left_seed_rules_a_learning_rate_out():
    found = seed_mean_curve(
        runs(
            [
                (2.0, 5.0, "completed", False),
                (1.0, 6.0, "completed", False),
                (1.0, 6.5, "completed", False),
                (2.0, NAN, "diverged", False),
                (4.0, 7.0, "completed", True),
                (4.0, 3.0, "completed", False),
                (8.0, 1.0, "aborted", False),
            ]
        )
    )
    assert found.lrs.tolist() == [1, 2, 4, 8]
    assert found.losses.tolist() == [6.25, math.inf, 5.0, math.inf]
    assert found.left.tolist() == [False, False, True, False]
    assert found.n_seeds.tolist() == [2, 2, 2, 1]
    assert found.n_lost.tolist() == [0, 1, 0, 1]
    assert grid_optimum(found).lr == 1.0


def test_the_metric_chooses_the_loss():
    table = runs([(1.0, 6.0, "completed", False), (2.0, 5.0, "completed", False)])
    assert grid_optimum(seed_mean_curve(table, "train")).lr == 2.0
    assert grid_optimum(seed_mean_curve(table, "val")).lr == 1.0
    table.loc[0, "final_val_loss"] = NAN
    assert seed_mean_curve(table, "val").losses[0] == math.inf
    assert seed_mean_curve(table, "train").losses[0] == 6.0


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
