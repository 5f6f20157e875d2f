import numpy as np
import pytest

from pipeline.analysis.fit.valley_shape import ANGLE, shape

SHAPES = [(0.6, 1.0), (1e-9, 1.0), (-0.8, 0.4), (1.6, 1.5), (0.3, 0.7)]


@pytest.mark.parametrize(("k", "p"), SHAPES)
def test_a_valley_has_its_bottom_at_0_and_unit_curvature_there(k, p):
    u = np.linspace(-5, 4, 901)
    height = shape(u, k, p)
    assert height[500] == pytest.approx(0, abs=1e-12)
    assert (np.diff(height[:501]) < 0).all()
    assert (np.diff(height[500:]) > 0).all()
    bottom = shape(np.array([-1e-3, 0.0, 1e-3]), k, p)
    assert (bottom[0] - 2 * bottom[1] + bottom[2]) / 1e-6 == pytest.approx(1, rel=1e-3)


def test_asymmetry_mirrors_and_the_limits_are_those_of_the_formula():
    u = np.linspace(-4, 4, 81)
    assert shape(u, 0.7, 1.2) == pytest.approx(shape(-u, -0.7, 1.2))
    assert shape(u, 1e-9, 1.0) == pytest.approx(u**2 / 2)
    assert shape(u, 0.5, 1.0) == pytest.approx((np.exp(0.5 * u) - 1 - 0.5 * u) / 0.25)
    # p = 1/2 of the parabola: walls that end straight
    assert shape(np.array([50.0, 51.0]), 1e-9, 0.5) == pytest.approx(np.sqrt(1 + np.array([50.0, 51.0]) ** 2) - 1)
    assert np.isfinite(shape(np.array([-1e3, 1e3]), 1.6, 1.5)).all()


def test_the_series_for_small_asymmetries_meets_the_formula():
    """Where k u crosses 0.03 the formula would lose digits."""
    u = np.array([-2.0, 2.0])
    below, above = shape(u, 0.0149999, 0.8), shape(u, 0.0150001, 0.8)
    assert below == pytest.approx(above, rel=1e-6)


@pytest.mark.parametrize("k", [-0.8, 0.0, 0.4, 1.6])
def test_walls_at_an_angle_are_straight_their_slopes_in_the_ratio_of_k_and_lowest_at_0(k):
    height = shape(np.array([-9.0, -8.0, -1e-3, 0.0, 1e-3, 8.0, 9.0]), k, ANGLE)
    assert height[3] == pytest.approx(0, abs=1e-12)
    assert height[2] > 0 < height[4]
    left, right = height[0] - height[1], height[6] - height[5]
    assert right / left == pytest.approx(np.exp(2 * k), rel=1e-2)
    assert (left + right) / 2 == pytest.approx(0.45, rel=1e-2)
    assert shape(np.array([-1.0, 1.0]), 0.0, ANGLE) == pytest.approx(0.45 * 0.86, rel=1e-2)
