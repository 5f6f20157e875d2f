import dataclasses

import numpy as np
import pytest

from pipeline.analysis.fit import valley as module
from pipeline.analysis.fit.valley import fit_valley
from pipeline.analysis.fit.valley_shape import huber, shape, student
from pipeline.analysis.study.runs import Runs

WIDTHS = (64, 256, 1024)
BOTTOMS = (3.3, 2.2, 1.25)


def study(noise=0.0, seeds=(0, 1), k=0.6, p=1.0, rng=None, span=(-2, 7), level=0.0):
    rows = []
    for place, width in enumerate(WIDTHS):
        for seed in seeds:
            xs = np.arange(*span) - place + 0.37 * seed
            heights = shape(xs - BOTTOMS[place], k, p)[0]
            extra = 0 if rng is None else rng.normal(0, noise, len(xs))
            losses = 5 - 0.3 * place + level * seed + 0.07 * heights + extra
            rows += [(width, 2.0**x, seed, loss) for x, loss in zip(xs, losses, strict=True)]
    return Runs.of(*zip(*rows, strict=True))


def fit(runs, stable=None):
    stable = np.ones(len(runs), dtype=bool) if stable is None else stable
    return fit_valley(runs, stable, dict(zip(WIDTHS, np.round(BOTTOMS), strict=True)))


@pytest.mark.parametrize(("k", "p"), [(0.6, 1.0), (1e-9, 1.0), (-0.4, 0.7), (0.5, 1.8)])
def test_the_derivatives_are_those_of_the_shape(k, p):
    u = np.linspace(-4, 3, 41)
    value, du, dk, dp = shape(u, k, p)
    step = 1e-5
    assert value.min() >= 0
    assert du == pytest.approx((shape(u + step, k, p)[0] - shape(u - step, k, p)[0]) / (2 * step), abs=1e-6)
    assert dk == pytest.approx((shape(u, k + step, p)[0] - shape(u, k - step, p)[0]) / (2 * step), abs=1e-5)
    assert dp == pytest.approx((shape(u, k, p + step)[0] - shape(u, k, p - step)[0]) / (2 * step), abs=1e-6)
    assert shape(np.zeros(1), k, p)[0] == 0


@pytest.mark.parametrize(("loss", "most"), [(student, 6.0), (huber, np.inf)])
def test_weights_are_the_slopes_of_the_costs(loss, most):
    at, step = np.geomspace(0.05, 200, 50), 1e-6
    weight, cost = loss(at)
    slope = (loss(at + step)[1] - loss(at - step)[1]) / (2 * step)
    assert weight * at == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert loss(np.zeros(1))[1] == pytest.approx(0, abs=1e-12)
    assert (np.diff(cost) > 0).all()
    assert cost[-1] < most


@pytest.mark.parametrize(("k", "p"), [(0.6, 1.0), (0.3, 1.5), (0.7, 0.7)])
def test_bottoms_between_the_grids_points_are_found(k, p):
    found = fit(study(k=k, p=p))
    assert found.x == pytest.approx(BOTTOMS, abs=0.03)
    assert found.level == pytest.approx([5, 4.7, 4.4], abs=0.005)
    assert np.sqrt(np.diag(found.covariance)).max() < 0.05


def test_one_gross_outlier_pulls_nothing():
    runs = study(noise=0.003, rng=np.random.default_rng(1))
    clean = fit(runs)
    spoilt = runs.loss.copy()
    spoilt[np.flatnonzero(runs.width == 256)[5]] += 0.8
    assert fit(runs.with_loss(spoilt)).x == pytest.approx(clean.x, abs=0.05)


@pytest.mark.parametrize("spike", [0.2, 0.3, 0.6])
def test_a_spike_beside_the_bottom_is_no_wall_of_a_valley_elsewhere(spike):
    runs = study(noise=0.004, seeds=(0,), span=(-3, 5), rng=np.random.default_rng(4))
    runs = runs.where((runs.x < 5 - 0.5 * np.log2(runs.width / 64)) | (runs.width < 1024))  # an edge above the optimum
    spoilt = runs.loss.copy()
    here = np.flatnonzero(runs.width == 1024)
    above = here[np.argmin(np.where(runs.x[here] > BOTTOMS[2], runs.x[here], np.inf))]
    spoilt[above] += spike
    assert fit(runs.with_loss(spoilt)).x == pytest.approx(BOTTOMS, abs=0.25)


def test_a_width_far_off_the_power_law_is_found_there():
    rng = np.random.default_rng(2)
    rows, bottoms = [], (3.3, 0.2, 1.25)
    for width, bottom in zip(WIDTHS, bottoms, strict=True):
        for x in np.arange(-3.0, 5.0):
            rows.append(
                (width, 2.0**x, 0, 5 + 0.03 * shape(np.array([x - bottom]), 0.6, 1.0)[0][0] + rng.normal(0, 0.01))
            )
    runs = Runs.of(*zip(*rows, strict=True))
    found = fit_valley(runs, np.ones(len(runs), dtype=bool), dict(zip(WIDTHS, np.round(bottoms), strict=True)))
    assert found.x == pytest.approx(bottoms, abs=0.3)


def test_the_levels_of_seeds_are_paired_off():
    """Seeds on grids of their own, one of them higher throughout: with a common level the bottoms would move."""
    assert fit(study(level=0.1)).x == pytest.approx(BOTTOMS, abs=0.03)


def test_errors_are_as_large_as_said():
    pulls = []
    for seed in range(60):
        found = fit(study(noise=0.01, rng=np.random.default_rng(seed)))
        error = found.x - np.array(BOTTOMS)
        pulls.append(
            (error[2] - error[0])
            / np.sqrt(found.covariance[0, 0] + found.covariance[2, 2] - 2 * found.covariance[0, 2])
        )
    assert 0.7 < np.std(pulls) < 1.25
    assert abs(np.mean(pulls)) < 0.5


def test_more_runs_say_more():
    few = fit(study(noise=0.01, rng=np.random.default_rng(3)))
    many = fit(study(noise=0.01, rng=np.random.default_rng(3), seeds=range(8)))
    assert np.trace(many.covariance) < 0.5 * np.trace(few.covariance)


def test_unstable_runs_and_runs_beyond_the_window_take_no_part():
    runs = study()
    far = runs.x > np.repeat(BOTTOMS, len(runs) // 3) + module.WINDOW[1]
    spoilt = np.where(far, 99.0, runs.loss)
    assert fit(runs.with_loss(spoilt)).x == pytest.approx(fit(runs, ~far).x, abs=1e-6)


def test_a_width_with_too_few_runs_is_left_out_and_nothing_fits_nothing():
    runs = study()
    thin = runs.where((runs.width != 256) | (runs.x < -2))
    assert fit(thin).widths == (64, 1024)
    assert fit(runs, np.zeros(len(runs), dtype=bool)) is None


def test_ties_and_no_noise_at_all_fit(recwarn):
    found = fit(study().with_loss(np.full(len(study()), 5.0)))
    assert np.isfinite(found.x).all()
    assert np.isfinite(found.covariance).all()


def test_it_is_deterministic():
    runs = study(noise=0.01, rng=np.random.default_rng(5))
    first, second = fit(runs), fit(runs)
    assert all(
        np.array_equal(a, b) for a, b in zip(dataclasses.astuple(first), dataclasses.astuple(second), strict=True)
    )
