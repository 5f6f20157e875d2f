import math

import numpy as np
import pytest

from pipeline.analysis.study.grid import Curve, grid_of, grid_optimum, seed_mean_curve, stability_edge
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import LANGUAGE, Rule

NAN = math.nan


def optimum(losses, left=None, unstable=None):
    """Of a curve over learning rates 1, 2, 4, ..."""
    bad = np.zeros(len(losses), bool) if unstable is None else np.array(unstable)
    return grid_optimum(curve(losses, left), bad)


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
    assert grid_optimum(found, np.zeros(4, bool)).lr == 1.0


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
    found = optimum(losses)
    assert (found.lr, found.loss, found.at_edge) == (lr, 2 if 2 in losses else 3, at_edge)


def test_what_left_for_good_is_no_optimum():
    assert optimum([3, 1, 2], left=[False, True, False]).lr == 4
    assert optimum([3, 1], left=[True, True]).index is None


def test_no_optimum_where_every_learning_rate_is_lost():
    found = optimum([math.inf, NAN])
    assert found.index is None
    assert math.isnan(found.lr)
    assert found.at_edge == "no"


def test_what_is_unstable_is_no_optimum():
    assert optimum([3, 1, 2], unstable=[False, True, False]).lr == 4


LRS = [1.0, 2.0, 4.0, 8.0, 16.0]


def edge(losses, rule=LANGUAGE, left=None, accuracy=None):
    """The bracket of one width's edge, from one seed's losses at 1, 2, 4, ..."""
    (width,) = grid_of(Runs.of([64] * 5, LRS, [0] * 5, losses, left, accuracy), rule, by_trajectory=False).widths
    return width.edge.last_stable_lr, width.edge.min_unstable_lr


def test_the_bracket_lies_above_the_optimum():
    # 7.0 at lr 1 lies below the optimum: under-trained. 6.0 is exactly best + 1, which is not worse than that.
    assert edge([7.0, 5.0, 5.5, 6.0, 6.001]) == (8.0, 16.0)
    assert edge([5.5, 5.0, 5.2, NAN, 5.3]) == (4.0, 8.0)  # the smallest, though a larger one came through
    assert edge([NAN, 5.0, 5.2, 5.4, NAN]) == (8.0, 16.0)  # one below the optimum is not the edge


def test_nothing_unstable_leaves_the_edge_open_above():
    last, first = edge([5.5, 5.0, 5.2, 5.3, 5.4])
    assert last == 16.0
    assert math.isnan(first)


def test_everything_unstable_leaves_the_edge_open_below():
    assert all(math.isnan(value) for value in edge([NAN, math.inf, NAN, NAN, NAN]))
    assert all(math.isnan(value) for value in vars(stability_edge(np.array(LRS), np.ones(5, bool), None)).values())


def test_the_edge_of_classifiers_and_of_squared_losses():
    accuracy = [0.1, 0.8, 0.9, 0.7, 0.19]
    assert edge([2.3, 0.5, 0.4, 9.0, 2.2], Rule(n_classes=10), accuracy=accuracy) == (8.0, 16.0)
    chance = [0.1, 0.12, 0.09, 0.1, 0.1]
    assert edge([2.31, 2.30, 2.32, 2.4, math.inf], Rule(n_classes=10), accuracy=chance) == (8.0, 16.0)
    assert edge([1.0, 0.5, 9.0, math.inf, NAN], Rule(cross_entropy=False)) == (4.0, 8.0)


def test_one_unstable_seed_makes_a_learning_rate_unstable():
    steady, other = [5.5, 5.0, 5.2, 5.3, 5.4], [5.5, 5.1, 5.2, 5.3, 7.0]
    runs = Runs.of([64] * 10, LRS * 2, [0] * 5 + [1] * 5, steady + other)
    (width,) = grid_of(runs, Rule(), by_trajectory=False).widths
    assert width.unstable.tolist() == [False, False, False, False, True]
    assert (width.n_unstable_seeds, width.seeds, width.n_seeds, width.n_missing) == (1, 2, 2, 0)


def test_a_width_that_is_all_unstable_has_no_optimum_and_no_edge_on_its_grid():
    """Ruined beside a narrower width: the fit and the columns of the grid say the same."""
    good, ruined = [6.0, 5.0, 5.1, 5.3, 5.5], [6.1, 6.4, 7.0, 6.5, 7.7]
    runs = Runs.of([64] * 5 + [128] * 5, LRS * 2, [0] * 10, good + ruined)
    narrow, wide = grid_of(runs, Rule(), by_trajectory=False).widths
    assert (narrow.all_unstable, wide.all_unstable) == (False, True)
    assert wide.unstable.all()
    assert wide.optimum.index is None
    assert math.isnan(wide.edge.last_stable_lr)


def test_a_point_of_the_curve_lies_on_the_line_through_its_finite_losses():
    found = curve([3.0, 1.0, math.inf, 2.0])  # at 1, 2, 4, 8
    assert found.at(2**0.5) == pytest.approx(2.0)
    assert found.at(4.0) == pytest.approx(1.5)
    assert (found.at(1e-3), found.at(1e9)) == (3.0, 2.0)
    assert math.isnan(curve([math.inf]).at(1.0))
