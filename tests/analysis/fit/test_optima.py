"""Widths' optima together: what is shared, and by how much widths that share it are surer."""

import dataclasses
import math

import numpy as np
import pytest

from pipeline.analysis.fit import optima as module
from pipeline.analysis.fit.likelihood import ALL, log_likelihood
from pipeline.analysis.fit.neighbourhood import neighbourhoods
from pipeline.analysis.fit.optima import SEEN, optima
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.edges import Intervals, intervals
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import label

WIDTHS = (64, 128, 256, 512)
BOTTOMS = np.array([-6.3, -6.8, -7.3, -7.8])


def near(asymmetry=(0.7,) * 4, noise=0.004, widths=WIDTHS, xs=range(-11, -2), edges=None, curvature=0.06):
    """Neighbourhoods of the widths, and the scale, of two seeds on one grid."""
    rng, rows = np.random.default_rng(6), []
    for place, width in enumerate(widths):
        for x in xs:
            for seed in (0, 1):
                height = curvature * shape(np.array([x - BOTTOMS[place]]), asymmetry[place], 1.0)[0]
                loss = 5 - 0.2 * place + height + rng.normal(0, noise)
                rows.append((width, 2.0**x, seed, math.nan if edges is not None and x > edges[place] else loss))
    runs = Runs.of(*zip(*rows, strict=True))
    labels = label(runs)
    return neighbourhoods(runs, labels, np.zeros(len(runs), dtype=bool), intervals(runs, labels), runs.loss)


def sd(found, place):
    """Of a width's place over all hypotheses."""
    mean = found.weight_C @ found.mean_CW[:, place]
    return math.sqrt(found.weight_C @ (found.variance_CW[:, place] + (found.mean_CW[:, place] - mean) ** 2))


def test_weights_and_likelihoods_are_distributions_of_equal_axes():
    found = optima(*near())
    c, w, x = len(found.weight_C), len(WIDTHS), found.places_WX.shape[1]
    assert found.widths == WIDTHS
    assert found.weight_C.sum() == pytest.approx(1)
    assert (np.diff(found.weight_C) <= 0).all()
    assert found.mean_CW.shape == found.variance_CW.shape == (c, w)
    assert found.likelihood_WCX.shape == (w, c, x)
    assert found.likelihood_WCX.sum(axis=2) == pytest.approx(np.ones((w, c)))
    assert 0 <= found.shape_differs <= 1


def test_optima_lie_between_the_learning_rates_tried():
    found = optima(*near(noise=0.001))
    assert found.weight_C @ found.mean_CW == pytest.approx(BOTTOMS, abs=0.1)
    assert [curve.x for curve in found.curves] == pytest.approx(BOTTOMS, abs=0.15)
    assert [curve.level for curve in found.curves] == pytest.approx([5, 4.8, 4.6, 4.4], abs=0.01)


def test_one_width_is_its_own_likelihood_under_the_prior_of_shapes(monkeypatch):
    """Brute force: over the table, noise of one width spread, its deviations from the shared shape averaged over."""
    (one,), scale = near(widths=(64,))
    likeliest = optima([one], scale)
    monkeypatch.setattr(module, "_MOST", 10**6)
    monkeypatch.setattr(module, "_LEAST", 0.0)
    found = optima([one], scale)
    at = found.places_WX[0]
    table = log_likelihood(one, scale, at)
    octaves = np.log2(ALL.noise_N)
    kernel = np.exp(-0.5 * ((octaves[:, None] - octaves) / 0.6) ** 2)
    of_noise = (kernel / kernel.sum(axis=1, keepdims=True)).sum(axis=0)
    prior = np.outer(
        np.exp(-0.5 * ((ALL.asymmetry_K - 0.2) / 0.5) ** 2), np.exp(-0.5 * (np.log(ALL.sharpness_P) / 0.5) ** 2)
    )
    prior /= prior.sum()
    of_shape = np.zeros_like(prior)
    p = np.arange(len(ALL.sharpness_P))
    for sd_k, sd_p in ((0.12, 0.35), (0.5, 1.2)):
        of_k = np.exp(-0.5 * ((ALL.asymmetry_K[:, None] - ALL.asymmetry_K) / sd_k) ** 2)
        of_p = np.exp(-0.5 * ((p[:, None] - p) / sd_p) ** 2)
        of_k, of_p = (m / m.sum(axis=1, keepdims=True) for m in (of_k, of_p))
        of_shape += np.einsum("kp,ka,pb->ab", prior, of_k, of_p) / 2
    expected = np.einsum("nmskpx,n,kp->x", np.exp(table - table.max()), of_noise, of_shape) * one.below_edge(at)
    marginal = found.weight_C @ found.likelihood_WCX[0]
    assert marginal == pytest.approx(expected / expected.sum(), abs=1e-9)
    assert marginal.max() > 0.02
    assert len(likeliest.weight_C) <= 300 < len(found.weight_C)
    assert sd(likeliest, 0) == pytest.approx(sd(found, 0), rel=0.05)  # what is dropped is the tails'


def test_widths_that_share_their_shape_are_surer_than_alone():
    kept, scale = near(noise=0.01)
    together = optima(kept, scale)
    alone = [sd(optima([one], scale), 0) for one in kept]
    assert sum(sd(together, i) < alone[i] for i in range(4)) >= 3
    assert np.mean([sd(together, i) for i in range(4)]) < 0.9 * np.mean(alone)


def test_an_asymmetry_far_off_is_seen_and_one_that_turns_is_not_held_against_them():
    quiet = {"noise": 5e-4, "curvature": 0.1}
    alike = optima(*near(**quiet)).shape_differs
    turning = optima(*near((0.5, 0.62, 0.74, 0.86), **quiet)).shape_differs
    apart = optima(*near((0.7, -0.8, 0.7, 0.7), **quiet)).shape_differs
    assert alike < 0.5
    assert turning < 0.5
    assert apart > 0.9


def test_flat_losses_show_no_valley():
    flat = optima(*near(curvature=0.0, noise=0.01)).evidence
    assert flat.sum() < 0
    assert (flat < SEEN).all()
    assert (optima(*near(noise=0.01)).evidence > SEEN).all()


def test_an_optimum_lies_below_the_edge():
    """Only the left side of the valleys is left: by themselves, they might go on falling."""
    kept, scale = near(noise=0.03, edges=BOTTOMS + 0.25)

    def beyond(found):
        marginal = np.einsum("c,wcx->wx", found.weight_C, found.likelihood_WCX)
        first = np.floor(BOTTOMS + 0.25) + 1  # the first learning rate that diverged
        return (marginal * (found.places_WX > first[:, None])).sum(axis=1)

    assert (beyond(optima(kept, scale)) < 1e-4).all()
    unseen = Intervals(np.array([64.0]), np.array([0]), np.array([-6.0]), np.array([math.inf]))
    free = [dataclasses.replace(one, edges=unseen) for one in kept]
    assert beyond(optima(free, scale)).max() > 0.1


def test_the_likeliest_valley_has_a_shared_shape_and_its_bottom_below_the_edge():
    """A table that likes every place a little better than the one below it, and all shapes alike."""
    kept, scale = near(edges=BOTTOMS + 0.25)
    one, first = kept[0], math.floor(BOTTOMS[0] + 0.25) + 1  # the first learning rate that diverged
    at_X = np.linspace(first - 2, first + 2, 41)
    axes = (ALL.noise_N, ALL.misfit_M, ALL.shift_S, ALL.asymmetry_K, ALL.sharpness_P)
    table = np.zeros([*map(len, axes), len(at_X)]) + 0.01 * np.arange(len(at_X))
    shape_KP = np.full(table.shape[3:5], 0.01)
    shape_KP[4, 2] = 0.5
    found = module._likeliest(one, scale, table, shape_KP, at_X)
    assert first - 2 < found.x < first
    assert (found.asymmetry, found.sharpness) == (ALL.asymmetry_K[4], ALL.sharpness_P[2])


def test_hypotheses_shared_by_widths():
    """Prior over them; each width's weights of the shapes under each; half of the prior is on loose ones."""
    z = np.array([-1.5, -0.5, 0.5, 1.5])
    shapes = module._shared(z)
    prior, share, loose = shapes.prior_D, shapes.share_DWKP, shapes.loose_D
    assert prior.sum() == pytest.approx(1)
    assert share.sum(axis=(2, 3)) == pytest.approx(np.ones((len(prior), 4)))
    assert prior[loose == 1].sum() == pytest.approx(0.5)
    # without a turn, widths have one shape; with one, the widest's asymmetry differs from the narrowest's
    of_k = share.sum(axis=3) @ ALL.asymmetry_K
    spread = of_k[:, -1] - of_k[:, 0]
    assert spread.max() > 0.2
    assert spread.min() < -0.2
    assert np.sum(np.abs(spread) < 1e-12) == len(spread) / 3
    two = module._shared(np.array([-0.5, 0.5])).share_DWKP
    assert two[:, 0] == pytest.approx(two[:, 1])  # two widths tell of no turn
