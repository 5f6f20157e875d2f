import dataclasses
import math

import numpy as np
import pytest

from pipeline.analysis.fit import law as module
from pipeline.analysis.fit.law import EdgePlaces, OptimumLaw
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.process import forecast_variance, wandering
from pipeline.analysis.study.axis import WIDTH

WIDTHS = (64, 128, 256, 1024)


def law(x, variance=0.01, edge=None, wander=module.WANDER, widths=WIDTHS):
    x = np.atleast_2d(np.asarray(x, dtype=float))
    n = len(x)
    return OptimumLaw(widths, np.full(n, 1 / n), x, np.full_like(x, variance), None, edge, wander)


def line(slope, widths=WIDTHS):
    return -7 + slope * np.log2(np.array(widths) / 64)


@pytest.fixture
def one_hypothesis(monkeypatch):
    monkeypatch.setattr(module, "JITTER", ((0.1,), (1.0,)))
    return ((0.3,), (1.0,))


def test_wandering_is_the_covariance_of_an_integrated_brownian_motion():
    rng, n, dt = np.random.default_rng(0), 4000, 0.01
    steps = rng.normal(0, math.sqrt(dt), (n, 300))
    path = np.cumsum(np.cumsum(steps, axis=1) * dt, axis=1)
    found = wandering(np.array([1.0, 3.0]), np.array([1.0, 3.0]))
    assert np.cov(path[:, [99, 299]].T) == pytest.approx(found, rel=0.1)
    assert wandering(np.array([-1.0]), np.array([2.0]))[0, 0] == 0


def test_a_prediction_is_the_conditional_of_a_gaussian_process(one_hypothesis):
    """Brute force: one joint covariance of all rows and the asked two, levels with a very wide prior, conditioned."""
    x, edge = np.array([-7.1, -7.4, -8.2, -9.0]), EdgePlaces((64, 1024), np.array([-4.0, -6.5]), np.array([0.04, 0.09]))
    pair = law(x, 0.01, edge, one_hypothesis).pair(8192)
    middle = np.log2(WIDTHS).mean()
    z = np.log2([*WIDTHS, 64, 1024, 8192, 8192]) - middle
    is_edge = np.array([0, 0, 0, 0, 1, 1, 0, 1])
    both = np.outer(is_edge, is_edge)
    covariance = 1.2**2 * np.outer(z, z) + 0.3**2 * wandering(z, z) + 1e6
    covariance += both * (0.25**2 * np.outer(z, z) + 0.09**2 * wandering(z, z) + 1e6)
    covariance += np.diag([0.01 + 0.01] * 4 + [0.04 + 0.01, 0.09 + 0.01, 0.01, 0.01])
    told, asked, values = slice(0, 6), slice(6, 8), np.r_[x, edge.mean]
    gain = np.linalg.solve(covariance[told, told], covariance[told, asked])
    assert pair.mean_H2[0] == pytest.approx(gain.T @ values, abs=1e-3)
    expected = covariance[asked, asked] - gain.T @ covariance[told, asked]
    assert pair.covariance_H22[0] == pytest.approx(expected, abs=1e-3)
    assert pair.covariance_H22[0, 0, 1] > 0, "optimum and edge go together"


def test_what_the_others_say_is_a_fit_without_the_width(one_hypothesis):
    x = line(-0.4) + np.array([0.1, -0.2, 0.15, 0.0])
    _, mean, variance, _ = law(x, wander=one_hypothesis)._given.others(1)
    rest = OptimumLaw((64, 256, 1024), np.ones(1), x[None, [0, 2, 3]], np.full((1, 3), 0.01), wander=one_hypothesis)
    # the same middle for the prior of the slope, so that only the width's own row differs
    object.__setattr__(rest, "_middle", law(x)._middle)
    rest.__dict__["_middle"] = law(x)._middle
    without = rest.pair(128).of(0)
    assert mean[0] == pytest.approx(without.location[0], abs=1e-6)
    assert math.sqrt(variance[0]) == pytest.approx(without.sd[0], abs=1e-6)


def test_the_weights_of_hypotheses_are_their_evidence(monkeypatch):
    monkeypatch.setattr(module, "JITTER", ((0.02, 0.5), (0.5, 0.5)))
    straight, crooked = (law(line(-0.5) + np.array(off)) for off in ([0, 0, 0, 0], [0.8, -0.8, 0.8, -0.8]))
    assert straight.jitter < 0.15 < 0.45 < crooked.jitter
    bent = law(-7 - 0.15 * np.log2(np.array(WIDTHS) / 64) ** 2)
    assert bent.wandering > 1.5 * straight.wandering


def test_along_an_axis_the_scales_of_wandering_weigh_differently():
    values, weights = module.wandering_by(WIDTH.wander)
    assert values == module.WANDER[0]
    assert len(weights) == len(values)
    assert sum(weights) == pytest.approx(1)
    mean = [np.dot(prior, values) for prior in (weights, module.WANDER[1])]
    assert mean[0] < mean[1] / 2  # along width exponents wander less
    assert module.wandering_by(None) is module.WANDER


def test_exact_places_on_a_line_have_its_slope():
    found = law(line(-0.5), 1e-6).exponent
    assert found.median == pytest.approx(-0.5, abs=1e-3)
    assert found.interval()[0] < -0.5 < found.interval()[1]
    assert law(line(-0.5), 1e-6, wander=module.STRAIGHT).line(2048).median == pytest.approx(-9.5, abs=0.01)


def test_a_mixture_of_optima_widens_the_exponent():
    either = law([line(-0.5), line(-0.1)], 1e-4).exponent
    assert either.interval()[0] < -0.45
    assert either.interval()[1] > -0.15


def test_predictions_widen_with_distance_and_more_than_a_straight_lines():
    known = law(line(-0.5))
    spans = [known.at(width).standard_deviation for width in (512, 2048, 8192, 32768)]
    assert spans == sorted(spans)
    straight = OptimumLaw.of_places(WIDTHS, line(-0.5), np.full(4, 0.01))
    assert spans[-1] > 1.5 * straight.at(32768).standard_deviation
    assert known.at(8192).median == pytest.approx(-10.5, abs=0.15)


def test_a_width_is_drawn_to_the_law_as_far_as_it_is_unsure_itself():
    x = line(-0.5) + np.array([0, 0.6, 0, 0])
    sure, unsure = (OptimumLaw.of_places(WIDTHS, x, np.array([0.01, v, 0.01, 0.01])).at(128) for v in (0.001, 1.0))
    assert abs(sure.median - x[1]) < 0.1
    assert abs(unsure.median - line(-0.5)[1]) < 0.2


def test_one_width_has_its_own_place():
    found = OptimumLaw.of_places((64,), np.array([-7.0]), np.array([0.04])).at(64)
    assert (found.median, found.standard_deviation) == (pytest.approx(-7), pytest.approx(0.2))


def test_a_subset_on_one_power_law():
    rest = law(line(-0.5)).straight(np.array([0, 2, 3]))
    assert rest.widths == (64, 256, 1024)
    assert rest.at(128).median == pytest.approx(-7.5, abs=0.05)


def test_a_forecast_is_the_variance_of_the_prediction(one_hypothesis):
    known = law(line(-0.5), 0.03, wander=one_hypothesis)
    found = forecast_variance(np.array(WIDTHS, dtype=float), np.full(4, 0.03 + 0.1**2), 0.3, 4096)
    assert known.pair(4096).of(0).sd[0] ** 2 == pytest.approx(found + 0.1**2, rel=1e-6)


def test_pairs_of_measured_widths():
    optimum, edge = (
        Mixture(np.array([-7.0]), np.array([0.1]), np.ones(1)),
        Mixture(np.array([-5.0]), np.array([0.2]), np.ones(1)),
    )
    pair = dataclasses.replace(module.Pair.independent(optimum, edge)).with_scatter(0.3)
    assert pair.of(0).median == pytest.approx(-7)
    assert pair.of(1).standard_deviation == pytest.approx(math.hypot(0.2, 0.3))
