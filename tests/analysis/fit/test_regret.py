import math

import numpy as np
import pytest
from scipy.special import ndtr

from pipeline.analysis.fit.law import Pair
from pipeline.analysis.fit.likelihood import Curve
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.regret import cheapest

# V(u; 0), p = 1 is u^2 / 2
PARABOLA = Curve(x=0.0, level=3.0, curvature=0.1, asymmetry=1e-9, sharpness=1.0)
STEEP = Curve(x=0.0, level=3.0, curvature=0.1, asymmetry=1.0, sharpness=1.0)


def normal(mean, sd):
    return Mixture(np.array([mean]), np.array([sd]), np.ones(1))


def with_edge(edge, sd, optimum_sd=0.3, correlation=0.0):
    both = correlation * sd * optimum_sd
    return Pair(np.ones(1), np.array([[-8.0, edge]]), np.array([[[optimum_sd**2, both], [both, sd**2]]]))


def test_a_parabola_costs_half_its_curvature_times_the_variance():
    found = cheapest(normal(-8, 0.5), PARABOLA, log_loss=False, worst=10.0, level=0.9)
    assert math.log2(found.lr) == pytest.approx(-8, abs=0.05)
    mean_factor = 0.25 * 0.6 + 0.5 + 0.25 * 1.6
    assert found.expected == pytest.approx(0.1 / 2 * 0.5**2 * mean_factor, rel=0.02)
    assert math.isnan(found.diverges)
    assert found.at_most > found.expected


def test_logarithms_are_turned_into_losses():
    log = Curve(0.0, math.log(3.0), 0.1, 1e-9, 1.0)
    small = cheapest(normal(-8, 0.1), log, log_loss=True, worst=10.0, level=0.9)
    assert small.expected == pytest.approx(3 * 0.1 / 2 * 0.1**2 * 1.05, rel=0.05)


def test_a_steep_right_wall_pushes_below_the_optimum():
    found = cheapest(normal(-8, 0.8), STEEP, log_loss=False, worst=10.0, level=0.9)
    assert math.log2(found.lr) < -8.15


def test_a_near_edge_pushes_below_it_and_a_far_one_does_not():
    near = cheapest(with_edge(-7.8, 0.3), PARABOLA, False, 10.0, 0.9)
    far = cheapest(with_edge(-4.0, 0.3), PARABOLA, False, 10.0, 0.9)
    assert math.log2(near.lr) < -8.5
    assert near.diverges < 0.03
    assert math.log2(far.lr) == pytest.approx(-8, abs=0.05)
    assert far.diverges < 1e-6
    assert near.expected > far.expected


def test_the_chance_to_diverge_is_that_of_the_edge():
    found = cheapest(with_edge(-7.8, 0.3), PARABOLA, False, 3.5, 0.9)
    assert found.diverges == pytest.approx(float(ndtr((math.log2(found.lr) + 7.8) / 0.3)), abs=1e-6)


def test_an_edge_that_goes_along_with_the_optimum_is_less_of_a_danger():
    """Monte Carlo of the same scenarios: what a learning rate costs on average."""
    rng, u = np.random.default_rng(0), 0.0
    for correlation in (0.0, 0.9):
        pair = with_edge(-7.0, 0.5, 0.5, correlation)
        found = cheapest(pair, PARABOLA, False, 5.0, 0.9)
        x = math.log2(found.lr)
        optimum, edge = rng.multivariate_normal(pair.mean_H2[0], pair.covariance_H22[0], 200_000).T
        factor = rng.choice([0.6, 1.0, 1.6], 200_000, p=[0.25, 0.5, 0.25])
        cost = np.where(edge < x, 2.0, np.minimum(factor * 0.05 * (x - optimum) ** 2, 2.0))
        assert found.expected == pytest.approx(cost.mean(), rel=0.1)
        assert found.at_most == pytest.approx(np.quantile(cost, 0.9), rel=0.25)
        u = max(u, found.expected)


def test_a_bottom_beyond_the_edge_is_no_loss():
    """The optimum lies an octave above a sure edge: what counts is the height over that at the edge."""
    found = cheapest(with_edge(-9.0, 1e-3, 1e-3), PARABOLA, False, 10.0, 0.9)
    assert math.log2(found.lr) == pytest.approx(-9.0, abs=0.03)
    assert found.expected < 0.005 < 0.1 / 2


def test_runs_that_diverge_more_than_the_rest_have_no_bound():
    found = cheapest(with_edge(-9.0, 3.0, 0.1), PARABOLA, False, 3.001, 0.9)
    assert math.isinf(found.at_most)
