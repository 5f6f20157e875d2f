"""The measures of transfer, on valleys whose costs are known."""

import numpy as np
import pytest

from pipeline.analysis.fit.law import OptimumLaw
from pipeline.analysis.fit.likelihood import Curve
from pipeline.analysis.fit.optima import Optima
from pipeline.analysis.fit.transfer import transfer

WIDTHS = (64, 128, 256, 512)


def measured(x, curvatures=(0.06,) * 4, level=5.0, log_loss=False, widths=WIDTHS):
    x = np.array(x, dtype=float)
    n = len(widths)
    law = OptimumLaw.of_places(widths, x, np.full(n, 1e-4))
    curves = tuple(Curve(at, level, c, 1e-9, 1.0) for at, c in zip(x, curvatures, strict=True))
    empty = np.zeros((n, 1))
    optima = Optima(widths, np.ones(1), x[None], np.full((1, n), 1e-4), empty, empty[:, None], 0.0, np.ones(n), curves)
    return transfer(law, optima, log_loss)


def test_parabolas_on_a_power_law():
    found = measured([-7, -7.5, -8, -8.5])
    assert found.fit_error == pytest.approx(0, abs=1e-6)
    assert [width for width, _ in found.off_by_octave] == [64, 128, 256, 512]
    assert [value for _, value in found.off_by_octave] == pytest.approx([0.03] * 4)
    assert found.robustness == pytest.approx(0, abs=1e-6)
    assert [width for width, _ in found.carried] == [512, 2048, 8192]
    # 1.5, 2.5 and 3.5 octaves off
    assert [value for _, value in found.carried] == pytest.approx([0.03 * off**2 for off in (1.5, 2.5, 3.5)], rel=0.02)


def test_an_irregular_width_and_valleys_that_narrow():
    found = measured([-7, -7.3, -8.2, -8.5], curvatures=(0.02, 0.04, 0.08, 0.16))
    z, x = np.arange(4.0), np.array([-7, -7.3, -8.2, -8.5])
    residual = np.polyfit(z, x, 1, full=True)[1][0]
    assert found.fit_error == pytest.approx(np.sqrt(residual / 2))
    assert found.robustness == pytest.approx(1)


def test_costs_of_log_losses_are_losses():
    found = measured([-7] * 4, log_loss=True, level=np.log(3.0))
    assert found.off_by_octave[0][1] == pytest.approx(3 * np.expm1(0.03))
    assert [value for _, value in found.carried] == pytest.approx([0] * 3, abs=1e-3)


def test_two_widths_have_none():
    assert measured([-7, -7.5], curvatures=(0.06,) * 2, widths=WIDTHS[:2]) is None
