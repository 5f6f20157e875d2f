import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from pipeline.analysis.fit import likelihood as module
from pipeline.analysis.fit.likelihood import Hypotheses, evidence_of_valley
from pipeline.analysis.fit.neighbourhood import Neighbourhood, Scale, neighbourhoods
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.edges import intervals
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import label

ONE = Hypotheses(np.array([1.3]), np.array([0.3]), np.array([0.2]), np.array([0.4]), np.array([0.7]))


def runs_of(rows):
    return Runs.of(*zip(*rows, strict=True))


def near(rows, y=None):
    runs = runs_of(rows)
    labels = label(runs)
    nothing = np.zeros(len(runs), dtype=bool)
    return neighbourhoods(runs, labels, nothing, intervals(runs, labels), runs.loss if y is None else y)


def bowl(seeds=(0, 1), noise=0.004, xs=range(-9, 0), offset=0.01):
    rng = np.random.default_rng(1)
    return [(64, 2.0**x, s, 4 + 0.05 * (x + 5) ** 2 + offset * s + rng.normal(0, noise)) for x in xs for s in seeds]


def test_the_likelihood_is_that_of_a_normal_with_level_and_curvature_integrated_out():
    (one,), scale = near(bowl(xs=range(-8, -3)))
    places = np.array([-6.0, -5.0, -4.5])
    found = module.log_likelihood(one, scale, places, ONE).ravel()
    same = one.seed_R[:, None] == one.seed_R[None, :]
    apart = (one.x_R[:, None] - one.x_R[None, :]) / 0.7
    covariance = (1.3 * scale.noise) ** 2 * (np.eye(len(one.x_R)) + same)
    covariance += 0.3**2 * np.outer(one.height_R, one.height_R) * (np.exp(-0.5 * apart**2) + np.eye(len(apart)) / 16)
    covariance += 0.2**2 * np.outer(one.slope_R, one.slope_R) * same
    # a level so uncertain that its prior is flat, and the grid of curvatures that the code sums over
    covariance += 1e4 * np.ones_like(covariance)
    step = np.linspace(-2.5, 2.5, 11)
    weight = norm.pdf(step) / norm.pdf(step).sum()
    expected = []
    for place in places:
        height = shape(one.x_R - place, 0.4, 0.7)
        parts = [
            multivariate_normal.logpdf(one.y_R, scale.curvature * math.exp(s) * height, covariance) + math.log(w)
            for s, w in zip(step, weight, strict=True)
        ]
        expected.append(np.logaddexp.reduce(parts))
    assert found - found[0] == pytest.approx(np.array(expected) - expected[0], abs=1e-3)


def test_only_stable_runs_near_the_best_enter():
    rows = [*bowl(xs=range(-12, 0)), (64, 0.9, 0, math.nan), (64, 0.9, 1, math.nan), (64, 0.95, 0, 4.5)]
    (one,), _ = near(rows)
    assert one.x_R.min() == one.best - 4
    assert one.x_R.max() == one.best + 3 - (one.best > -5)
    assert (one.low, one.high) == (-12, pytest.approx(math.log2(0.95)))
    assert not near([row for row in rows if math.log2(row[1]) in (-5, -4)])[0]  # two learning rates are too few


def test_a_spike_of_one_seed_is_a_stray_and_a_wall_is_not():
    rows = [(n, lr, s, loss + 0.5 * (s == 1 and lr == 2**-6)) for n, lr, s, loss in bowl()]
    (one,), _ = near(rows)
    assert not ((one.x_R == -6) & (one.seed_R == 1)).any()
    assert ((one.x_R == -6) & (one.seed_R == 0)).any()
    steep = [(n, lr, s, loss + 3.0 * (lr == 2**-2)) for n, lr, s, loss in bowl()]
    assert (near(steep)[0][0].x_R == -2).sum() == 2


def test_many_runs_are_averaged_and_say_the_same():
    (many,), _ = near(bowl(range(200), offset=0.0, xs=range(-9, -1)))
    assert set(many.count_R.tolist()) == {200}
    assert len(many.x_R) == 8
    assert many.y_R == pytest.approx(4 + 0.05 * (many.x_R + 5) ** 2, abs=0.002)


def test_an_optimum_lies_below_the_edge():
    rows = [*bowl(xs=range(-9, -2)), *((64, 2.0**-2, s, math.nan) for s in (0, 1))]
    (one,), _ = near(rows)
    assert one.below_edge(np.array([-4.0, -3.0, -2.5, -2.0, -1.0])) == pytest.approx([1, 1, 0.5, 1e-6, 1e-6])


def test_the_pilot_knows_noise_and_curvature():
    _, scale = near(bowl(range(8), noise=0.02, offset=0.0))
    assert scale.noise == pytest.approx(0.02, rel=0.3)
    assert scale.curvature == pytest.approx(0.1, rel=0.2)
    _, alone = near(bowl((0,), noise=0.02))
    assert 0.003 < alone.noise < 0.04


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_evidence_of_a_valley(seeds):
    valley, scale = near(bowl(seeds))
    assert evidence_of_valley(valley[0], scale) > 3
    rng = np.random.default_rng(3)
    flat = [(64, 2.0**x, s, 4 + rng.normal(0, 0.01)) for x in range(-9, 0) for s in seeds]
    flat[-1] = (*flat[-1][:3], 5.0)  # half recovered
    none, scale = near(flat)
    assert evidence_of_valley(none[0], scale) < 1


def test_places_hold_the_optimum_and_little_else():
    (one,), scale = near(bowl(range(4), noise=0.002))
    at = module.places(one, scale)
    assert at[0] < -5 < at[-1]
    assert at[-1] - at[0] < 2
    cell = (2, 0, 0, 3, 3)
    curve = module.curve_at(one, scale, -5.0, cell)
    assert curve.level == pytest.approx(4.015, abs=0.01)
    assert curve.height(np.array([-5.0, -4.0])).tolist() == pytest.approx([0, 0.05], abs=0.02)


def test_neighbourhood_is_made_of_arrays_of_equal_length():
    (one,), scale = near(bowl())
    assert isinstance(one, Neighbourhood)
    assert isinstance(scale, Scale)
    assert len(one.x_R) == len(one.y_R) == len(one.seed_R) == len(one.height_R) == len(one.slope_R)
