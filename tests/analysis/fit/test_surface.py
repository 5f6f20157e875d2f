"""Two axes at once, on cells whose optima are known."""

import itertools
import math

import numpy as np
import pytest

from pipeline.analysis.fit.law import EdgePlaces
from pipeline.analysis.fit.optima import Optima
from pipeline.analysis.fit.process import wandering
from pipeline.analysis.fit.surface import Surface, group_of, predict_cell
from pipeline.analysis.study.axis import AXES
from pipeline.analysis.study.runs import Runs

BOTH = (AXES["width"], AXES["tokens"])
CELLS = list(itertools.product((256, 512, 1024), (1e9, 4e9, 16e9)))


def table(cells=CELLS, alpha=-0.5, beta=-0.3, edge=2.5, seeds=2, off=None):
    rng, rows = np.random.default_rng(0), []
    for place, (n, tokens) in enumerate(cells):
        bottom = -7 + alpha * math.log2(n / 256) + beta * math.log2(tokens / 1e9) + (off or {}).get(place, 0.0)
        for k, seed in itertools.product(range(-15, 0), range(seeds)):
            u = k - bottom
            loss = 3 + 0.06 * u**2 + rng.normal(0, 0.003)
            rows.append((n, 2.0**k, seed, loss if u < edge else math.nan, tokens))
    n, lr, seed, loss, tokens = zip(*rows, strict=True)
    return Runs.of(n, lr, seed, loss, second=tokens)


def test_both_exponents_and_a_cell_nobody_trained():
    found = group_of(BOTH, {}, table())
    along_n, along_tokens = found.exponents
    assert along_n.median == pytest.approx(-0.5, abs=0.04)
    assert along_tokens.median == pytest.approx(-0.3, abs=0.03)
    one = predict_cell(found, (4096.0, 64e9), 0.9)
    bottom = -7 - 0.5 * 4 - 0.3 * math.log2(64)
    assert one.optimal.low < 2.0**bottom < one.optimal.high
    assert one.max_stable.low < 2.0 ** (bottom + 2.5) < one.max_stable.high
    assert 0 < one.price.expected < 0.1
    assert one.optimal.value <= one.max_stable.value
    assert not one.trained
    assert [axis.name for axis, _ in one.far] == []
    assert [axis.name for axis, _ in predict_cell(found, (4096.0, 65e9), 0.9).far] == ["tokens"]


def test_a_trained_cell_is_read_off_its_own_runs():
    found = group_of(BOTH, {}, table(off={4: 1.0}))
    own = found.at("optimal", CELLS[4])
    assert own.median == pytest.approx(-7 - 0.5 - 0.6 + 1.0, abs=0.25)
    assert [one.cell for one in found.fits] == [tuple(map(float, cell)) for cell in CELLS]
    assert all(one.best.low < one.best.value < one.best.high for one in found.fits)


def test_axes_that_go_up_together_have_no_exponent_of_their_own():
    found = group_of(BOTH, {}, table([(256, 1e9), (512, 2e9), (1024, 4e9), (2048, 8e9)]))
    assert found.exponents == ()
    assert found.at("optimal", (512.0, 2e9)) is not None
    assert found.at("optimal", (4096.0, 16e9)) is None
    assert predict_cell(found, (4096.0, 16e9), 0.9).price is None


def test_a_cell_whose_grid_ends_below_its_optimum_leans_on_the_others():
    runs = table()
    kept = ~((runs.width == 256) & (runs.second == 1e9) & (runs.x > -9))
    found = group_of(BOTH, {}, runs.where(kept)).fits[0]
    assert found.at_edge
    assert found.best.low < 2.0**-7 < found.best.high


def test_no_edge_where_nothing_diverges():
    found = group_of(BOTH, {}, table(edge=math.inf))
    one = predict_cell(found, (4096.0, 64e9), 0.9)
    assert (one.max_stable, found.fits[0].edge) == (None, None)
    assert math.isnan(one.price.diverges)


def test_a_prediction_is_the_conditional_of_a_process_over_both_axes(monkeypatch):
    """Brute force, as for one axis: one joint covariance with a very wide prior of the levels, conditioned."""
    monkeypatch.setattr("pipeline.analysis.fit.law.WANDER", ((0.3,), (1.0,)))
    monkeypatch.setattr("pipeline.analysis.fit.law.JITTER", ((0.1,), (1.0,)))
    cells, asked = np.array([(64, 1), (64, 8), (256, 1), (256, 16), (1024, 2)], dtype=float), (4096.0, 64.0)
    x, edge_cells = np.array([-7.0, -7.4, -8.1, -8.6, -9.2]), cells[[0, 3]]
    empty = np.zeros((5, 1))
    optima = Optima((1, 2, 3, 4, 5), np.ones(1), x[None], np.full((1, 5), 0.02), empty, empty[None], 0.0, x, ())
    edge = EdgePlaces((1, 4), np.array([-4.0, -6.0]), np.array([0.04, 0.09]))
    found = Surface(cells, optima, edge, edge_cells).pair(asked)
    z = np.log2(np.concatenate([cells, edge_cells, [asked, asked]])) - np.log2(cells).mean(axis=0)
    is_edge = np.array([0, 0, 0, 0, 0, 1, 1, 0, 1])
    line, path = z @ z.T, wandering(z[:, 0], z[:, 0]) + wandering(z[:, 1], z[:, 1])
    covariance = 1.2**2 * line + 0.3**2 * path + 1e6
    covariance += np.outer(is_edge, is_edge) * (0.25**2 * line + 0.09**2 * path + 1e6)
    covariance += np.diag([0.02 + 0.01] * 5 + [0.04 + 0.01, 0.09 + 0.01, 0.01, 0.01])
    told, at, values = slice(0, 7), slice(7, 9), np.r_[x, edge.mean]
    gain = np.linalg.solve(covariance[told, told], covariance[told, at])
    assert found.mean_H2[0] == pytest.approx(gain.T @ values, abs=2e-3)
    assert found.covariance_H22[0] == pytest.approx(covariance[at, at] - gain.T @ covariance[told, at], abs=2e-3)
