import math

import numpy as np
import pytest

from pipeline.analysis.study.stability import accuracy_floor, is_lost, records_above, stability_edge, unstable_lrs

NAN, INF = math.nan, math.inf
LRS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def left(losses, warmup=2, patience=3):
    return records_above(np.arange(1, len(losses) + 1), np.array(losses), warmup) >= patience


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([7, 6, 8, 8, 8], True),
        ([7, 6, 8, 8, 7], False),  # at its initial value is not above it
        ([7, 9, 9, 8, 6, 5], False),  # a catapult that recovered
        ([7, 6, 5, 8, NAN, 8], True),  # nan > 7 is False; it counts as above all the same
        ([7, 8, 8, 8, 8], True),
        ([7, 8, 8, 8], False),  # two records after warm-up are fewer than three
        ([NAN], False),
        ([NAN, NAN, NAN, NAN, NAN], True),
    ],
)
def test_left_for_good(losses, expected):
    assert left(losses) is expected


@pytest.mark.parametrize(
    ("status", "loss", "expected"),
    [
        ("completed", 5.0, False),
        ("completed", NAN, True),
        ("completed", INF, True),
        ("diverged", 5.0, True),
        ("aborted", 5.0, True),
    ],
)
def test_is_lost(status, loss, expected):
    assert is_lost(status, loss) is expected


def test_leaving_for_good_counts_at_or_above_the_optimum_only():
    """Below it, noise alone can keep the loss of a run that hardly moves above its first value."""
    left = np.array([True, False, False, True, False])
    losses = np.array([5.3, 5.2, 5.0, 5.1, 5.4])
    assert unstable_lrs(losses, 2, left=left).tolist() == [False, False, False, True, False]
    assert unstable_lrs(losses, 2, left=left, loss="mse").tolist() == [False, False, False, True, False]


def edge(losses, best):
    losses = np.array(losses, dtype=float)
    found = stability_edge(LRS, unstable_lrs(losses, best), best)
    return found.last_stable_lr, found.min_unstable_lr


def test_a_loss_more_than_one_above_the_best_is_unstable_at_or_above_the_optimum_only():
    # 7.0 at lr 1 lies below the optimum: under-trained. 6.0 is exactly best + 1, which is not worse than that.
    losses = np.array([7.0, 5.0, 5.5, 6.0, 6.001])
    assert unstable_lrs(losses, 1).tolist() == [False, False, False, False, True]
    assert edge(losses, 1) == (8.0, 16.0)


@pytest.mark.parametrize("gone", [NAN, INF])
def test_not_finite_is_unstable(gone):
    assert unstable_lrs(np.array([gone, 5.0, 5.2, gone, 5.3]), 1).tolist() == [True, False, False, True, False]
    assert edge([5.5, 5.0, 5.2, gone, 5.3], 1) == (4.0, 8.0)  # the smallest, though a larger one came through


def test_an_unstable_rate_below_the_optimum_is_not_the_edge():
    assert edge([NAN, 5.0, 5.2, 5.4, NAN], 1) == (8.0, 16.0)


def test_nothing_unstable_leaves_the_edge_open_above():
    last, first = edge([5.5, 5.0, 5.2, 5.3, 5.4], 1)
    assert last == 16.0
    assert math.isnan(first)


def test_everything_unstable_leaves_the_edge_open_below():
    assert all(math.isnan(value) for value in edge([NAN, INF, NAN, NAN, NAN], None))
    assert unstable_lrs(np.full(5, NAN), None).all()


def test_a_classifier_still_at_chance_everywhere_is_untrained_not_unstable():
    losses, accuracies = np.array([2.31, 2.30, 2.32, np.inf]), np.array([0.1, 0.12, 0.09, 0.1])
    found = unstable_lrs(losses, 1, accuracies=accuracies, n_classes=10)
    assert found.tolist() == [False, False, False, True]
    assert stability_edge(np.array([0.1, 0.2, 0.4, 0.8]), found, 1).min_unstable_lr == 0.8


def test_the_accuracy_floor_is_the_papers_at_ten_classes():
    assert accuracy_floor(10) == pytest.approx(0.2)
    assert accuracy_floor(2) == pytest.approx(0.5 + 0.5 / 9)


def test_a_classifier_near_chance_is_unstable_at_or_above_the_optimum_only():
    losses = np.array([2.3, 0.5, 0.4, 9.0, 2.2])
    accuracies = np.array([0.1, 0.8, 0.9, 0.7, 0.19])
    found = unstable_lrs(losses, 2, accuracies=accuracies, n_classes=10)
    assert found.tolist() == [False, False, False, False, True]


def test_under_squared_losses_only_divergence_counts():
    losses = np.array([1.0, 0.5, 9.0, INF, NAN])
    assert unstable_lrs(losses, 1, loss="mse").tolist() == [False, False, False, True, True]
    accuracies = np.full(5, 0.1)
    assert unstable_lrs(losses, 1, loss="mse", accuracies=accuracies, n_classes=10).tolist()[2] is False
