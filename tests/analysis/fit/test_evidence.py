import numpy as np
import pytest

from pipeline.analysis.fit.estimate import estimate
from pipeline.analysis.fit.evidence import agreement, check_power_law, clean_exponents, decided
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.runs import Runs


def posterior(mean, sd):
    return Mixture(np.array([mean]), np.array([sd]), np.ones(1))


def test_nearest_compatible_and_equal_are_three_statements():
    minus_1, half, zero = clean_exponents(posterior(-0.38, 0.05))
    assert half.nearest
    assert not half.compatible
    assert not half.equal
    assert minus_1.p_nearest + half.p_nearest + zero.p_nearest == pytest.approx(1)
    assert decided(posterior(-0.38, 0.05)) == -0.5
    half = clean_exponents(posterior(-0.52, 0.03))[1]
    assert half.nearest
    assert half.compatible
    assert half.equal


def test_undecided_between_two():
    assert decided(posterior(-0.25, 0.1)) is None
    assert decided(posterior(-0.25 - 0.1 * 1.7, 0.1)) == -0.5
    assert decided(posterior(-0.25 - 0.1 * 1.6, 0.1)) is None
    assert decided(posterior(-2, 0.1)) == -1
    assert decided(posterior(-0.82, 0.02)) == -1
    assert decided(posterior(1, 0.1)) == 0


def test_agreement_with_a_prediction():
    found = agreement(posterior(-0.6, 0.04), -0.5)
    assert not found.inside
    assert found.p_near == pytest.approx(0.5, abs=0.01)
    assert agreement(posterior(-0.55, 0.04), -0.5).inside


def study(bend, widths=(64, 128, 256, 512, 1024)):
    rng, rows = np.random.default_rng(2), []
    for place, width in enumerate(widths):
        bottom, edge = -0.5 * place - bend * place**2, 2.4 - 0.5 * place - bend * place**2
        for seed in (0, 1):
            for x in np.arange(-8, 5) + 0.5 * seed:
                loss = 5 + 0.08 * shape(np.array([x - bottom]), 0.5, 1.0)[0] + rng.normal(0, 0.004)
                rows.append((width, 2.0**x, seed, loss if x < edge + 0.2 * seed else np.nan))
    return estimate(Runs.of(*zip(*rows, strict=True)))


@pytest.mark.parametrize("quantity", ["optimal", "max_stable"])
def test_one_power_law_passes_and_a_bent_one_is_called_so(quantity):
    straight, bent = (check_power_law(known.law(quantity), known.seen) for known in (study(0.0), study(0.3)))
    assert straight.verdict == "one power law"
    assert bent.verdict == "drift"
    assert [held.width for held in straight.held_out] == [64, 128, 256, 512, 1024]
    local = [one.exponent.median for one in bent.local]
    assert local[0] > -1.2
    assert local[-1] < -2.1
    assert [one.exponent.median for one in straight.local] == pytest.approx([-0.5] * 4, abs=0.6)


def test_two_widths_are_unchecked():
    known = study(0.0, (64, 256))
    found = check_power_law(known.optimal, known.seen)
    assert found.verdict == "unchecked"
    assert len(found.local) == 1
