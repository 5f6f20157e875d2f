import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.fit.exponent import fit_exponent, slope_step

WIDTHS = [64, 128, 256, 512]
LRS = [8e-3, 4e-3, 4e-3, 1e-3]


def test_slope_error_and_interval_agree_with_scipy():
    fit = fit_exponent(WIDTHS, LRS)
    reference = stats.linregress(np.log(WIDTHS), np.log(LRS))
    half = stats.t.ppf(0.975, len(WIDTHS) - 2) * reference.stderr
    assert fit.exponent == pytest.approx(reference.slope)
    assert fit.standard_error == pytest.approx(reference.stderr)
    assert (fit.ci_low, fit.ci_high) == pytest.approx((reference.slope - half, reference.slope + half))
    assert fit.lr_at(300) == pytest.approx(math.exp(reference.intercept + reference.slope * math.log(300)))
    assert fit.exponent == pytest.approx(np.polyfit(np.log(WIDTHS), np.log(LRS), 1)[0])


def test_a_power_law_is_recovered_whatever_the_order_of_the_widths():
    fit = fit_exponent([1024, 64, 256], [0.3 * n**-0.7 for n in (1024, 64, 256)])
    assert fit.exponent == pytest.approx(-0.7)
    assert fit.exact
    assert not fit_exponent(WIDTHS, LRS).exact


def test_two_widths_have_a_slope_and_no_error():
    fit = fit_exponent([64, 256], [8e-3, 4e-3])
    assert fit.exponent == pytest.approx(-0.5)
    assert all(math.isnan(value) for value in (fit.standard_error, fit.ci_low, fit.ci_high))
    assert fit.estimable
    assert not fit.exact


@pytest.mark.parametrize("widths", [[], [64]])
def test_fewer_than_two_widths_have_no_slope(widths):
    fit = fit_exponent(widths, [1e-3] * len(widths))
    assert math.isnan(fit.exponent)
    assert fit.n_widths == len(widths)
    assert not fit.estimable


def test_slope_step_is_what_one_grid_step_at_the_end_does():
    moved = fit_exponent(WIDTHS, [*LRS[:-1], 2 * LRS[-1]]).exponent - fit_exponent(WIDTHS, LRS).exponent
    assert slope_step(WIDTHS, 2.0) == pytest.approx(moved)
    assert slope_step([64, 128, 256], 2.0) == pytest.approx(0.5)
