"""The optima of all widths: each from its own neighbourhood, their shape shared as far as the runs support it.

Widths share noise, misfit and the shift of seeds. Their asymmetry follows a line over log width, k_n = k_0 + k_1 z_n,
and their sharpness is one, but for deviations of single widths that are small or large; both are tried, and the
evidence decides (partial pooling). numpy only.

Axes: C hypotheses shared by widths (of noise, misfit and shift, H, and of shapes, D), W widths, X places; N, M, S,
K, P as in `likelihood`.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fit.likelihood import ALL, Curve, curve_at, evidence_of_valley, log_likelihood, places
from pipeline.analysis.fit.neighbourhood import Neighbourhood, Scale
from pipeline.analysis.fit.posterior import normalized
from pipeline.analysis.study.runs import Floats, Ints

_K_MEAN, _K_SD = 0.2, 0.5
_TURN = 0.12  # k_1, per octave of width: none, or so much either way
_LOG_P_SD = 0.5
_SMALL, _LARGE = (0.12, 0.35), (0.5, 1.2)  # deviations of single widths: of k, and of p in steps of its grid
_NOISE_SPREAD = 0.6  # octaves, of widths' noise around the shared one
_MOST = 300  # hypotheses that are kept
_LEAST = 1e-3  # and the weight, over the largest, that they need

# A valley is seen where it explains the losses so many times (log) better than no dependence on the learning rate.
SEEN = math.log(10.0)


@dataclass(frozen=True)
class Optima:
    """The optima of the widths as a mixture over C hypotheses, given which they are independent."""

    widths: tuple[float, ...]
    weight_C: Floats
    mean_CW: Floats
    """log2 lr: the median of what the width says, since that is skewed, and laws take it for normal."""
    variance_CW: Floats
    places_WX: Floats
    likelihood_WCX: Floats
    """Of each width's place."""
    shape_differs: float
    """Posterior probability that the widths' valleys do not share their shape."""
    evidence: Floats
    """Per width, log: of a valley, over that of losses that do not depend on the learning rate."""
    curves: tuple[Curve, ...]
    """Per width, the likeliest."""


def optima(near: list[Neighbourhood], scale: Scale, turning: bool = True) -> Optima:
    """Of one width at least; `turning`: asymmetries may follow a line over log width."""
    places_WX = np.stack([places(one, scale) for one in near])
    tables = [log_likelihood(one, scale, at_X) for one, at_X in zip(near, places_WX, strict=True)]
    z = np.log2([float(one.width) for one in near]) if turning else np.zeros(len(near))
    shapes = _shared(z - z.mean())
    given = [_given(*each) for each in zip(near, tables, places_WX, np.swapaxes(shapes.share_DWKP, 0, 1), strict=True)]
    step_W = places_WX[:, 1] - places_WX[:, 0]
    explained = [np.log(np.maximum(one.sum(axis=2) * step, 1e-300)) for one, step in zip(given, step_W, strict=True)]
    weight_HD = normalized(sum(explained, start=np.log(shapes.prior_D)[None, :]))
    weight_D = weight_HD.sum(axis=0)
    shape_WKP = np.einsum("d,dwkp->wkp", weight_D, shapes.share_DWKP)
    weight_C, kept = _likely(weight_HD.ravel())
    likelihood_WCX = np.stack([_kept_rows(one, kept) for one in given])
    mean_CW = np.einsum("wcx,wx->cw", likelihood_WCX, places_WX)
    variance_CW = np.einsum("wcx,wx->cw", likelihood_WCX, places_WX**2) - mean_CW**2
    return Optima(
        widths=tuple(one.width for one in near),
        weight_C=weight_C,
        mean_CW=_medians(likelihood_WCX, places_WX),
        variance_CW=np.maximum(variance_CW, 0) + step_W**2 / 12,
        places_WX=places_WX,
        likelihood_WCX=likelihood_WCX,
        shape_differs=float(weight_D @ shapes.loose_D),
        evidence=np.array([evidence_of_valley(one, scale) for one in near]),
        curves=tuple(map(_likeliest, near, [scale] * len(near), tables, shape_WKP, places_WX)),
    )


def _given(one: Neighbourhood, table: Floats, at_X: Floats, share_DKP: Floats) -> Floats:
    """Likelihood of a width's place, (H, D, X): noise shared but for its spread, shapes as a hypothesis has them."""
    by_place = np.einsum("an,nmskpx->amskpx", _noise_kernel(), np.exp(table - table.max()))
    by_place = by_place.reshape(-1, share_DKP[0].size, len(at_X))
    given = np.einsum("dq,hqx->hdx", share_DKP.reshape(len(share_DKP), -1), by_place, optimize=True)
    found: Floats = given * one.below_edge(at_X)
    return found


def _likely(weight: Floats) -> tuple[Floats, Ints]:
    """Of the hypotheses that are kept, the likeliest first: their weights and their places."""
    kept = np.argsort(-weight, kind="stable")[:_MOST]
    kept = kept[weight[kept] > _LEAST * weight.max()]
    return weight[kept] / weight[kept].sum(), kept


def _kept_rows(given_HDX: Floats, kept: Ints) -> Floats:
    rows = given_HDX.reshape(-1, given_HDX.shape[2])[kept]
    found: Floats = rows / rows.sum(axis=1, keepdims=True)
    return found


def _medians(likelihood_WCX: Floats, places_WX: Floats) -> Floats:
    """(C, W)."""
    below_WCX = np.cumsum(likelihood_WCX, axis=2)
    return np.array(
        [[np.interp(0.5, below, at) for below in below_CX] for below_CX, at in zip(below_WCX, places_WX, strict=True)]
    ).T


@dataclass(frozen=True)
class _Shapes:
    """Hypotheses D about the widths' shapes."""

    prior_D: Floats
    share_DWKP: Floats
    """Each width's weights of (K, P)."""
    loose_D: Floats
    """1: widths may deviate by much."""


def _prior_KP() -> Floats:
    k = np.exp(-0.5 * ((ALL.asymmetry_K - _K_MEAN) / _K_SD) ** 2)
    p = np.exp(-0.5 * (np.log(ALL.sharpness_P) / _LOG_P_SD) ** 2)
    found: Floats = np.outer(k / k.sum(), p / p.sum())
    return found


def _bell(grid: Floats, at: Floats, sd: float) -> Floats:
    """Rows that sum to 1: weights of the grid's values around each of `at`."""
    weight = np.exp(-0.5 * ((grid - np.asarray(at)[..., None]) / sd) ** 2) + 1e-300
    found: Floats = weight / weight.sum(axis=-1, keepdims=True)
    return found


def _noise_kernel() -> Floats:
    octaves = np.log2(ALL.noise_N)
    return _bell(octaves, octaves, _NOISE_SPREAD)


def _shared(z: Floats) -> _Shapes:
    """What widths may have in common; z around their mean."""
    k, p = ALL.asymmetry_K, np.arange(len(ALL.sharpness_P), dtype=np.float64)
    turns = np.array([-_TURN, 0.0, _TURN]) if len(z) > 2 else np.zeros(1)
    turn_prior = np.array([0.25, 0.5, 0.25]) if len(z) > 2 else np.ones(1)
    prior_KP = _prior_KP()
    prior, share, loose = [], [], []
    for sd_k, sd_p in (_SMALL, _LARGE):
        of_k = _bell(k, k[:, None, None] + turns[:, None] * z, sd_k)  # (k_0, k_1, W, K)
        of_p = _bell(p, p, sd_p)  # (p_0, P)
        both = of_k[:, :, None, :, :, None] * of_p[None, None, :, None, None, :]
        share.append(both.reshape(-1, len(z), len(k), len(p)))
        prior.append((prior_KP[:, None, :] * turn_prior[:, None]).ravel() / 2)
        loose.append(np.full(len(prior[-1]), float(sd_k == _LARGE[0])))
    return _Shapes(np.concatenate(prior), np.concatenate(share), np.concatenate(loose))


def _likeliest(one: Neighbourhood, scale: Scale, table: Floats, shape_KP: Floats, at_X: Floats) -> Curve:
    """The valley that explains the runs best, of the shapes that all widths together leave, its bottom below the
    edge."""
    log = table + np.log(shape_KP)[:, :, None] + np.log(one.below_edge(at_X))
    *cell, place = (int(i) for i in np.unravel_index(int(np.argmax(log)), table.shape))
    return curve_at(one, scale, float(at_X[place]), tuple(cell))
