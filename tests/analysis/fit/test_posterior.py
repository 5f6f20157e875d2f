import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.fit.posterior import Mixture, half_normal_grid, jitter_prior, normalized


def test_one_normal_has_its_own_quantiles_and_probabilities():
    one = Mixture(np.array([1.0]), np.array([2.0]), np.ones(1))
    assert one.quantiles([0.025, 0.5, 0.975]) == pytest.approx(stats.norm(1, 2).ppf([0.025, 0.5, 0.975]), abs=1e-6)
    assert one.probability(0, 3) == pytest.approx(stats.norm(1, 2).cdf(3) - stats.norm(1, 2).cdf(0))
    assert one.probability(-math.inf, math.inf) == 1
    assert one.interval(0.9) == pytest.approx(stats.norm(1, 2).interval(0.9), abs=1e-6)
    assert one.standard_deviation == pytest.approx(2)


def test_a_mixture_weighs_its_parts_and_takes_atoms():
    two = Mixture(np.array([0.0, 10.0]), np.array([0.0, 1.0]), np.array([0.25, 0.75]))
    assert two.cdf(0.0) == pytest.approx(0.25)
    assert two.cdf(10.0) == pytest.approx(0.25 + 0.375)
    assert two.mean == pytest.approx(7.5)
    assert two.shifted(1.0, 2.0).location.tolist() == [1.0, 11.0]
    assert two.shifted(1.0, 2.0).sd.tolist() == pytest.approx([2.0, math.sqrt(5)])


def test_the_half_normal_grid_is_equally_likely():
    grid = half_normal_grid(0.3, 200)
    assert np.mean(grid**2) == pytest.approx(0.3**2, rel=0.02)
    values, weights = jitter_prior(0.1, 20, 8)
    assert weights.sum() == pytest.approx(1)
    assert weights[-8:].sum() == pytest.approx(0.03)
    assert values.max() > 1


def test_normalized_stands_huge_and_tiny_logs():
    assert normalized(np.array([-1e5, -1e5 + math.log(3)])).tolist() == pytest.approx([0.25, 0.75])
