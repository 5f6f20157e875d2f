import math

import numpy as np
import pytest

from pipeline.analysis.study.edges import Islands, across, intervals, islands
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import (
    LANGUAGE,
    Cause,
    Rule,
    accuracy_floor,
    ground_lost,
    is_lost,
    label,
    lost_ground,
    records_above,
)

NAN, INF = math.nan, math.inf
LRS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def one_width(losses, seed=0, width=64, left=None, accuracy=None):
    n = len(losses)
    return Runs.of([width] * n, LRS[:n], [seed] * n, losses, left, accuracy)


def join(*parts):
    names = ("width", "lr", "seed", "loss", "left", "accuracy")
    return Runs.of(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def test_nan_is_unstable_wherever_it_lies_and_one_too_many_only_at_or_above_the_optimum():
    found = label(one_width([NAN, 7.0, 5.0, 6.0, 6.001]), LANGUAGE)
    assert found.unstable.tolist() == [True, False, False, False, True]
    assert found.best_x.tolist() == [2.0]
    assert found.best_loss.tolist() == [5.0]


def test_leaving_for_good_counts_at_or_above_the_optimum_only():
    found = label(one_width([7.0, 6.0, 5.0, 5.1, 5.2], left=[True, False, False, True, False]))
    assert found.unstable.tolist() == [False, False, False, True, False]


def test_a_single_noisy_seed_below_the_optimum_moves_neither_optimum_nor_edge():
    quiet, noisy = [7.0, 6.0, 5.0, 5.1, 5.2], [7.0, 6.0, 5.0, 5.1, 5.2]
    runs = join(one_width(quiet, 0), one_width(noisy, 1, left=[True, True, False, False, False]), one_width(quiet, 2))
    found = label(runs)
    assert not found.unstable.any()
    assert found.best_x.tolist() == [2.0]


def test_the_best_rate_is_that_of_the_seeds_median():
    runs = join(
        one_width([6.0, 5.0, 5.2, 5.9, 6.5], 0),
        one_width([6.0, 5.0, 4.0, 5.9, 6.5], 1),
        one_width([6.0, 5.0, 5.2, 5.9, 6.5], 2),
    )
    assert label(runs).best_x.tolist() == [1.0]
    half_lost = join(one_width([6.0, 5.0, 4.0], 0), one_width([6.0, 5.0, NAN], 1))
    assert label(half_lost).best_x.tolist() == [1.0]


def test_ties_go_to_the_smallest():
    assert label(one_width([6.0, 5.0, 5.0, 6.0, 7.5])).best_x.tolist() == [1.0]


def test_a_width_that_is_worse_than_a_narrower_one_is_all_unstable_unless_it_wants_larger_rates():
    good = one_width([6.0, 5.0, 5.1, 5.3, 5.5])
    ruined = one_width([6.1, 6.4, 7.0, 6.5, 7.7], width=128)
    found = label(join(good, ruined), LANGUAGE)
    assert found.all_unstable.tolist() == [False, True]
    assert found.unstable[5:].all()
    assert math.isnan(found.best_x[1])
    falling = one_width([9.0, 8.5, 8.0, 7.5, 7.0], width=128)
    assert label(join(good, falling), LANGUAGE).all_unstable.tolist() == [False, False]
    nothing = one_width([NAN] * 5, width=128)
    assert label(join(good, nothing)).all_unstable.tolist() == [False, True]


def test_a_classifier_fails_by_accuracy_and_squared_losses_by_divergence_alone():
    losses, accuracy = [2.3, 0.5, 0.4, 9.0, 2.2], [0.1, 0.8, 0.9, 0.7, 0.19]
    runs = one_width(losses, accuracy=accuracy)
    assert label(runs, Rule(n_classes=10)).unstable.tolist() == [False, False, False, False, True]
    assert label(runs, LANGUAGE).unstable.tolist() == [False, False, False, True, True]
    assert not label(runs).unstable.any()
    assert not label(runs, Rule(cross_entropy=False, n_classes=10)).unstable.any()


def edge(runs):
    found = intervals(runs, label(runs))
    return [tuple(bounds) for bounds in zip(found.low.tolist(), found.high.tolist(), strict=True)]


def test_each_seed_bounds_the_edge():
    runs = join(one_width([6.0, 5.0, 5.1, NAN, NAN], 0), one_width([6.0, 5.0, 5.1, 5.2, NAN], 1))
    assert edge(runs) == [(2.0, 3.0), (3.0, 4.0)]
    assert intervals(runs, label(runs)).estimable_widths == (64,)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([6.0, 5.0, 5.1, 5.2, 5.3], (4.0, INF)),
        ([NAN] * 5, (-INF, 0.0)),
        ([6.0, 5.0, NAN, 5.2, NAN], (1.0, 2.0)),  # what came through above the first unstable one is luck
        ([NAN, 5.0, 5.2, NAN, NAN], (2.0, 3.0)),  # an unstable rate below the optimum is not the edge
    ],
)
def test_bounds(losses, expected):
    assert edge(one_width(losses)) == [expected]


def test_ignored_runs_count_as_neither():
    runs = one_width([6.0, 5.0, 5.1, 5.9, NAN])
    found = intervals(runs, label(runs), np.array([False, False, False, True, False]))
    assert (found.low[0], found.high[0]) == (2.0, 4.0)


def test_what_left_for_good_is_not_the_best_however_low_its_loss():
    assert label(one_width([6.0, 5.0, 5.5, 1.0], left=[False, False, False, True])).best_x.tolist() == [1.0]


def trajectory(*ends, noise=0.02, n=60):
    """A training loss that goes through `ends` in straight lines."""
    rng = np.random.default_rng(0)
    return np.interp(np.linspace(0, len(ends) - 1, n), np.arange(len(ends)), ends) + rng.normal(0, noise, n)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (trajectory(7, 4, 6), True),
        (trajectory(7, 4, 4.5), False),  # a sixth of what was gained
        (trajectory(7, 5, 4), False),
        (trajectory(7, 6.9, 7, noise=0.3), False),  # within the noise
        (trajectory(7, 8, 9), False),  # nothing was gained: that is leaving for good
        (trajectory(7, 4, 6, n=12), False),  # not seen long enough
        (np.array([7.0, NAN] * 30), False),
    ],
)
def test_losing_ground_for_good(losses, expected):
    assert lost_ground(*ground_lost(losses)) is expected


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
    ("losses", "expected"),
    [
        ([5.6, 1e28, math.log(10), 2.4, math.log(10)], True),  # blew up and died: its outputs are constant
        ([5.6, 1e28, math.log(10), 2.4, 2.2], False),
        ([5.6, 5.0, 2.4, 2.4, 2.4], False),  # slow, and never above its initial loss
    ],
)
def test_what_blew_up_and_guesses_left_for_good(losses, expected):
    assert (records_above(np.arange(len(losses)), np.array(losses), 0, guessing=math.log(10)) >= 3) is expected


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


def test_the_accuracy_floor_is_the_papers_at_ten_classes():
    assert accuracy_floor(10) == pytest.approx(0.2)
    assert accuracy_floor(2) == pytest.approx(0.5 + 0.5 / 9)


def test_every_run_says_what_it_is_unstable_by():
    good = one_width([6.0, 5.0, 5.1, 6.5, NAN], left=[True, False, True, True, True])
    worse = one_width([6.1, 6.4, 7.0, NAN, 7.7], width=128)
    stable, left, failed, lost, whole = Cause.STABLE, Cause.LEFT, Cause.FAILED, Cause.LOST, Cause.WIDTH
    causes = label(join(good, worse), LANGUAGE).cause.tolist()
    assert causes == [stable, stable, left, failed, lost, whole, whole, whole, lost, whole]
    by_trajectory = label(join(good, worse)).cause.tolist()
    assert by_trajectory == [stable, stable, left, left, lost, stable, stable, stable, lost, stable]


def seeds(*losses, left=None):
    return join(*(one_width(list(one), seed, left=left) for seed, one in enumerate(losses)))


HOLE = [6.0, 5.0, INF, INF, 4.9, INF], [6.0, 5.0, INF, 5.5, INF, INF], [6.0, 5.0, 5.1, INF, 4.9, INF]


@pytest.mark.parametrize("island", [4.9, 5.2], ids=["best on it", "best below it"])
def test_an_edge_with_islands_is_open_across_them_wherever_the_best_rate_lies(island):
    runs = seeds(*[[island if loss == 4.9 else loss for loss in one] for one in HOLE])
    labels = label(runs)
    assert labels.best_x.tolist() == [4.0 if island < 5 else 1.0]
    assert islands(runs, labels) == (Islands(64, 2.0, 4.0, 2, 3),)
    found = across(intervals(runs, labels), runs, labels)
    assert found.low.tolist() == [1.0, 1.0, 1.0]
    assert found.high.tolist() == [5.0, 5.0, 5.0]


def test_a_lone_run_that_comes_through_makes_no_island():
    runs = seeds([6.0, 5.0, INF, INF, 5.2], [6.0, 5.0, INF, INF, INF], [6.0, 5.0, INF, INF, INF])
    assert islands(runs, label(runs)) == ()
    alone = one_width([6.0, 5.0, INF, 5.2, INF])
    assert islands(alone, label(alone)) == ()
    seen = intervals(runs, label(runs))
    assert across(seen, runs, label(runs)).high.tolist() == seen.high.tolist()


def test_seeds_whose_thresholds_scatter_make_no_island():
    """Each at rates of its own, as in an adaptive sweep: 2.0 is too much for two of them, 4.0 for none of two others."""
    low = [Runs.of([64] * 3, [0.5, 1.0, 2.0], [seed] * 3, [6.0, 5.0, INF]) for seed in (0, 1)]
    high = [Runs.of([64] * 4, [0.5, 1.0, 4.0, 8.0], [seed] * 4, [6.0, 5.0, 5.1, INF]) for seed in (2, 3)]
    runs = Runs.of(
        *(np.concatenate([getattr(part, name) for part in (*low, *high)]) for name in ("width", "lr", "seed", "loss"))
    )
    assert islands(runs, label(runs)) == ()


def test_slow_training_below_the_best_rate_is_no_hole():
    left = [False, True, False, False, False]
    runs = seeds([7.0, 6.9, 5.0, 5.1, INF], [7.0, 6.9, 5.0, 5.1, INF], left=left)
    assert islands(runs, label(runs)) == ()
    worse = seeds([7.0, 7.1, 5.0, 5.1, INF], [7.0, 7.1, 5.0, 5.1, INF], left=left)
    assert [one.hole for one in islands(worse, label(worse))] == [1.0]
