"""The two-layer linear model as a study: exponents of the edge, and what C.2 and C.3 show."""

import numpy as np
import pytest

from pipeline.analysis.inside.linear import UPDATES, after_training, course, linear_edge

WIDTHS = (64, 256, 1024, 4096, 16384)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(("param", "exponent"), [("sp", -1), ("ntp", 0), ("mup", 0)])
def test_exponents_are_those_of_the_paper_in_either_order(param, exponent, update):
    found = linear_edge(param, WIDTHS, 8, 400, update)
    assert found.predicted == exponent
    assert found.exponent == pytest.approx(exponent, abs=0.04)
    assert 0 < found.half_width < 0.06
    line = found.lr_at_1 * np.array(WIDTHS) ** found.exponent
    np.testing.assert_allclose(line, found.lr_W, rtol=0.15)


def test_gradient_descent_catapults_where_the_published_order_diverges():
    """Above 2 / lambda f grows until lambda has shrunk, up to 4 / lambda (Lewkowycz et al., 2020)."""
    wide = (4096, 16384)
    assert linear_edge("sp", wide, 4, 400, "simultaneous").lr_times_kernel == pytest.approx(4, abs=0.05)
    assert linear_edge("sp", wide, 4, 400, "published").lr_times_kernel == pytest.approx(2, abs=0.05)
    above = course(wide, 0, 2.1, 400)
    f, published = (above.f_AWS[update][..., 0] for update in UPDATES)
    assert (np.nanmax(np.abs(f), 0) > 50).all()
    np.testing.assert_allclose(f[-1], 1, atol=1e-3)
    assert (above.lambda_AWS["simultaneous"][-1] < 0.95 * above.lambda_AWS["simultaneous"][0]).all()
    assert np.isnan(published[-1]).all()


def test_below_the_edge_sp_is_a_kernel():
    for eta in (1.0, 1.9):
        found = course((16384,), 0, eta, 200)
        for update in UPDATES:
            np.testing.assert_allclose(np.ptp(found.lambda_AWS[update]), 0, atol=1e-3)
            assert found.f_AWS[update][-1] == pytest.approx(1, abs=1e-3)


def test_after_training_the_label_is_learned_and_the_kernels_spread_vanishes():
    found = after_training((64, 16384), 4, 400)
    small = found.x_AW[:, 0] * 64 < 1.5
    np.testing.assert_allclose(found.f_AWS["simultaneous"][small], 1, atol=1e-9)
    spread = found.lambda_AWS["simultaneous"][0].std(1)
    assert spread[1] < spread[0] / 4
