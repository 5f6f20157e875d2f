import math

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.analysis.fit.edgelaw import edge_law, edge_of_width
from pipeline.analysis.study.edges import Intervals

WIDTHS = (256, 1024, 4096, 16384)


def seen(rows):
    columns = list(zip(*rows, strict=True))
    return Intervals(*(np.array(column, dtype=float) for column in columns))


def grid(alpha=-0.5, widths=WIDTHS, n_seeds=4, scatter=0.0):
    """Every seed's grid of an octave has a phase of its own."""
    rows = []
    for width in widths:
        for seed in range(n_seeds):
            edge, phase = alpha * math.log2(width) + scatter * (seed - 1.5), 0.25 * seed
            low = math.floor(edge - phase) + phase
            rows.append((width, seed, low, low + 1))
    return rows


def test_the_exponent_is_found_between_the_grid_points():
    law = edge_law(seen(grid()))
    assert law.exponent.median == pytest.approx(-0.5, abs=0.03)
    assert law.exponent.standard_deviation < 0.08
    assert law.at(1024).median == pytest.approx(-5, abs=0.15)
    assert law.at(2**16).median == pytest.approx(-8, abs=0.3)
    spans = [law.at(width).standard_deviation for width in (2**10, 2**16, 2**20)]
    assert spans == sorted(spans)
    assert law.at(512).standard_deviation > law.line(512).standard_deviation


def test_the_posterior_holds_the_truth_of_edges_drawn_from_it():
    rng, inside = np.random.default_rng(5), []
    for _ in range(40):
        alpha, rows = rng.uniform(-1, 0), []
        for width in WIDTHS:
            edge = alpha * math.log2(width) + 0.05 * rng.standard_normal()
            for seed in range(3):
                phase, threshold = rng.random(), edge + 0.25 * rng.standard_normal()
                low = math.floor(threshold - phase) + phase
                rows.append((width, seed, low, low + 1))
        low, high = edge_law(seen(rows)).exponent.interval(0.9)
        inside.append(low <= alpha <= high)
    assert 32 <= sum(inside) <= 40  # of 36 +- 1.9


def test_seeds_that_scatter_are_seen_to():
    calm, wild = edge_law(seen(grid(n_seeds=8))), edge_law(seen(grid(n_seeds=8, scatter=0.3)))
    assert wild.seed_scatter > 1.5 * calm.seed_scatter


def test_a_width_whose_seeds_scatter_by_octaves_is_as_unsure_as_they_are():
    """Half octaves, tau = 2 at one width, .1 at the others: the median of 4 such seeds is off by 1.25 octaves."""
    rng, errors, widths = np.random.default_rng(3), [], []
    for _ in range(60):
        rows = []
        for width in WIDTHS:
            tau = 2.0 if width == 1024 else 0.1
            for seed in range(4):
                low = math.floor(2 * (-0.5 * math.log2(width) + tau * rng.standard_normal())) / 2
                rows.append((width, seed, low, low + 0.5))
        low, high = edge_of_width(seen(rows).of(1024)).interval(0.95)
        errors.append(low <= -5 <= high)
        widths.append(high - low)
        assert edge_law(seen(rows)).exponent.median == pytest.approx(-0.5, abs=0.1)  # the other widths tell
    assert sum(errors) >= 44  # of 60; 31 where all widths share one tau
    assert 2 < np.median(widths) < 6


def test_one_sided_intervals_bound_from_their_side():
    rows = grid(n_seeds=2)
    open_above = [row if row[0] != 16384 else (*row[:2], -5.0, math.inf) for row in rows]
    assert edge_law(seen(open_above)).exponent.median > edge_law(seen(rows)).exponent.median + 0.1
    open_below = [row if row[0] != 16384 else (*row[:2], -math.inf, -7.5) for row in rows]
    assert edge_law(seen(open_below)).exponent.median < edge_law(seen(rows)).exponent.median - 0.1


def test_a_seed_that_says_nothing_changes_nothing():
    rows = [(64, 0, -8.0, -7.0), (64, 1, -7.5, -6.5)]
    known, more = edge_of_width(seen(rows)), edge_of_width(seen([*rows, (64, 2, -math.inf, math.inf)]))
    assert more.interval() == pytest.approx(known.interval())


def test_fewer_than_two_two_sided_widths_are_not_estimable():
    rows = [(n, s, low, high if n == 256 else math.inf) for n, s, low, high in grid()]
    assert edge_law(seen(rows)) is None
    assert edge_law(seen(grid(widths=(256,)))) is None
    assert edge_of_width(seen(rows).of(256)).median == pytest.approx(-4, abs=0.2)
    assert edge_of_width(seen(rows).of(1024)) is None


@pytest.mark.parametrize("octaves", [1.5, 2, 5])
def test_a_single_absurd_seed_is_an_outlier(octaves):
    rows = grid(n_seeds=8)
    calm = edge_law(seen(rows))
    rows[0] = (*rows[0][:2], rows[0][2] + octaves, rows[0][3] + octaves)
    found = edge_law(seen(rows))
    assert found.exponent.median == pytest.approx(calm.exponent.median, abs=0.01)
    assert found.seed_scatter < 2 * calm.seed_scatter


def test_what_each_width_says_by_itself():
    low = np.repeat([-5.0, -6.0, -7.0], 8)
    law = edge_law(Intervals(np.repeat([64.0, 256.0, 1024.0], 8), np.tile(np.arange(8), 3), low, low + 0.5))
    mean, covariance = law.observed
    assert mean == pytest.approx([-4.75, -5.75, -6.75], abs=0.02)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.1] * 3, abs=0.06)
    assert not (covariance - np.diag(np.diag(covariance))).any()


def test_a_single_interval_is_a_uniform_edge_smeared_by_the_scatter_over_seeds():
    """Brute force: tau over eight equally likely values of a half-normal of 0.3 octave, 2 % of seeds anywhere,
    1 % of widths chaotic, with a tau of 1 or 2."""
    found = edge_of_width(seen([(64, 0, -8.0, -7.0)]))
    m = np.arange(-11.5, -3.5 + 1e-9, 0.05)

    def likelihood(taus):
        tau = np.array(taus)[:, None]
        return (0.98 * (norm.cdf((-7.0 - m) / tau) - norm.cdf((-8.0 - m) / tau)) + 0.02 / 8).mean(axis=0)

    mass = 0.99 * likelihood(0.3 * norm.ppf(0.5 + 0.5 * (np.arange(8) + 0.5) / 8)) + 0.01 * likelihood([1.0, 2.0])
    mass /= mass.sum()
    mean = mass @ m
    assert found.mean == pytest.approx(mean, abs=0.01)
    assert found.standard_deviation == pytest.approx(math.sqrt(mass @ (m - mean) ** 2), rel=0.02)


@pytest.mark.parametrize("octaves", [1.0, 5.0, 11.0, 20.0])
def test_an_interval_leaves_open_what_the_learning_rates_leave_open(octaves):
    """One seed and one width: all that is known is the bracket, in which every place is as likely."""
    alone = edge_of_width(seen([(64, 0, -6.0, octaves - 6.0)]))
    low, high = alone.interval(0.95)
    slack = 0.02 * 8 + 2 * norm.ppf(0.9) * 0.3  # seeds that tell nothing, and scatter over seeds
    assert 0.9 * octaves <= high - low <= octaves + slack
    assert alone.median == pytest.approx(octaves / 2 - 6, abs=0.03)


@pytest.mark.parametrize("octaves", [5.0, 11.0, 20.0])
def test_a_law_through_wide_brackets_is_as_open_as_lines_through_them(octaves):
    """Against lines drawn at random whose edges lie in every bracket, the irregularity of widths left out."""
    rng, z = np.random.default_rng(0), np.log2(WIDTHS) - np.log2(WIDTHS).mean()
    law = edge_law(seen([(width, 0, -6.0, octaves - 6.0) for width in WIDTHS]))
    ends = rng.uniform(-6, octaves - 6, (2, 200_000))  # of the line, at the outer widths: uniform, as mu and alpha are
    alphas = (ends[1] - ends[0]) / (z[-1] - z[0])
    for found, drawn in ((law.exponent, alphas), (law.at(WIDTHS[0]), ends[0]), (law.at(WIDTHS[-1]), ends[1])):
        assert np.allclose(
            found.quantiles([0.05, 0.5, 0.95]), np.quantile(drawn, [0.05, 0.5, 0.95]), atol=0.1 + 0.02 * octaves
        )
