import math

import numpy as np
import pytest

from pipeline.analysis.fit import measured
from pipeline.analysis.fit.measured import LEAST_ERROR, Measured, Unmeasured, edge, optimum, regret
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import LANGUAGE

X = np.arange(-10.0, -3.0)


def runs(loss, x=X, seeds=(0,)):
    """Of one width; `loss` of x and a seed."""
    points = [(value, seed) for value in x for seed in seeds]
    return Runs.of(
        [64] * len(points), [2.0**value for value, _ in points], [s for _, s in points], [loss(*p) for p in points]
    )


def bowl(at, edge=math.inf, curvature=0.08):
    return lambda x, seed: math.inf if x > edge else 3 + curvature * (x - at) ** 2


@pytest.mark.parametrize("at", [-7.4, -7.0, -5.1])
def test_the_vertex_of_a_parabola_is_exact(at):
    found = optimum(runs(bowl(at)))
    assert found.x == pytest.approx(at)
    assert found.error == LEAST_ERROR


def test_a_grid_with_steps_of_its_own():
    assert optimum(runs(bowl(-7.3), x=[-10, -8.5, -7.9, -6.1, -5.8, -4])).x == pytest.approx(-7.3)


def test_a_lopsided_valley_has_a_larger_error_that_holds_the_truth():
    def loss(x, seed):
        return 3 + 0.05 * (x + 7.3) ** 2 + (0.02 * (x + 7.3) ** 3 if x > -7.3 else 0)

    found = optimum(runs(loss))
    assert found.error > 2 * LEAST_ERROR
    assert abs(found.x + 7.3) < 2 * found.error


def test_what_a_seed_adds_to_every_loss_is_no_error_and_may_be_missing():
    whole = runs(lambda x, seed: bowl(-7.3)(x, seed) + 0.5 * seed, seeds=(0, 1, 2))
    gap = whole.where(~((whole.seed == 2) & (np.abs(whole.x + 7) < 0.1)))
    for some in (whole, gap):
        assert optimum(some).x == pytest.approx(-7.3)
        assert optimum(some).error == LEAST_ERROR


def test_errors_are_as_large_as_they_say():
    """Of many noisy grids: the scaled error has a standard deviation near 1."""
    rng, scaled = np.random.default_rng(1), []
    for _ in range(150):
        at = rng.uniform(-7.5, -6.5)
        found = optimum(runs(lambda x, seed, at=at: bowl(at)(x, seed) + rng.normal(0, 0.02), seeds=(0, 1, 2)))
        scaled.append((found.x - at) / found.error)
    assert 0.6 < np.sqrt(np.mean(np.square(scaled))) < 1.3
    assert np.mean(np.abs(scaled) < 2) > 0.9


def test_noise_makes_the_error():
    rng = np.random.default_rng(0)
    noisy = runs(lambda x, seed: bowl(-7.3)(x, seed) + rng.normal(0, 0.05), seeds=(0, 1, 2, 3))
    quiet = runs(lambda x, seed: bowl(-7.3)(x, seed) + rng.normal(0, 0.002), seeds=(0, 1, 2, 3))
    assert optimum(noisy).error > 2 * optimum(quiet).error
    assert optimum(noisy) == optimum(noisy)


def test_a_cliff_right_above_the_best_is_told_roughly():
    found = optimum(runs(bowl(-5.2, edge=-6)))
    assert found == Measured(-5.75, 0.3)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (bowl(-12), Unmeasured.LOW_END),
        (bowl(-2), Unmeasured.HIGH_END),
        (bowl(-7, edge=-9), Unmeasured.FEW),
        (lambda x, seed: math.inf, Unmeasured.FEW),
    ],
)
def test_what_is_not_measured_says_why(loss, why):
    assert optimum(runs(loss)) is why


def test_no_vertex_lies_in_a_gap_where_a_seed_was_lost():
    """Whatever comes through beyond it."""
    found = optimum(runs(lambda x, seed: math.inf if (x, seed) == (-6, 1) else bowl(-6.4)(x, seed), seeds=(0, 1, 2)))
    assert (found.x, found.error) == (-6.75, 0.3)


def test_a_flat_bottom_is_its_best_point():
    x = np.array([-2.0, -1, 0, 1, 2])
    assert measured.vertex(x, np.array([1.0, 1, 1, 1, 1]), 2) == (0, 0.5)


def test_the_edge_is_the_middle_of_the_gap():
    assert edge(runs(bowl(-7, edge=-5.5)), LANGUAGE) == Measured(-5.5, 0.5)


def test_the_edge_of_seeds_is_their_median():
    def loss(x, seed):
        return bowl(-7, edge=-5.5 + seed)(x, seed)

    found = edge(runs(loss, seeds=(-1, 0, 1)), LANGUAGE)
    assert found.x == -5.5
    assert found.error == pytest.approx(math.hypot(0.5, math.sqrt(math.pi / 2 / 3)))
    found = edge(runs(loss, seeds=(-1, 0, 9)), LANGUAGE)  # one seed is stable throughout
    assert found.x == -5.5


@pytest.mark.parametrize(("low", "high"), [(-99, -99), (0, 0), (-99, 0)])
def test_an_edge_that_most_seeds_do_not_bracket_is_not_measured(low, high):
    loss = {0: bowl(-7, edge=low), 1: bowl(-7, edge=high)}
    assert edge(runs(lambda x, seed: loss[seed](x, seed), seeds=(0, 1)), LANGUAGE) is Unmeasured.NO_EDGE


def test_regret_on_the_grid_is_the_difference_of_losses():
    some = runs(bowl(-7))
    assert regret(some, -7).loss == pytest.approx(0)
    assert regret(some, -5).loss == pytest.approx(0.08 * 4)
    assert 0 < regret(some, -6.5).loss < 0.08
    assert not regret(some, -6.5).beyond


def test_regret_beyond_the_grid_is_that_of_its_end():
    found = regret(runs(bowl(-7)), -20)
    assert found.loss == pytest.approx(0.08 * 9)
    assert found.beyond


def test_a_lost_run_costs_one_more_than_the_worst():
    loss = {0: bowl(-7, edge=-5.5), 1: bowl(-7, edge=-4.5)}
    some = runs(lambda x, seed: loss[seed](x, seed), seeds=(0, 1))
    worst = 3 + 0.08 * 9
    assert regret(some, -4).loss == pytest.approx(worst + 1 - 3)
    assert regret(some, -5).loss == pytest.approx((worst + 1 + 3 + 0.08 * 4) / 2 - 3)


def test_regret_of_nothing():
    assert regret(runs(lambda x, seed: math.inf), -7) is None
    assert regret(runs(bowl(-7), x=[-7]), -7) is None


def test_seeds_that_disagree_make_an_error_where_their_mean_is_a_parabola():
    found = optimum(runs(lambda x, seed: bowl(-7.3 + seed)(x, seed), seeds=(-1, 1)))
    assert found.x == pytest.approx(-7.3)
    assert 0.2 < found.error < 1.5
