import math

import numpy as np
import pytest

from pipeline.analysis.fit.edgelaw import edge_law, edge_of_width
from pipeline.analysis.fit.powerlaw import OptimumLaw
from pipeline.analysis.study.stability import Intervals

WIDTHS = (256, 1024, 4096, 16384)


def optimum(off=(0, 0, 0, 0), error=0.05, alpha=-0.5):
    z = np.log2(WIDTHS)
    return OptimumLaw(WIDTHS, alpha * z + np.array(off), error**2 * np.eye(4))


def test_the_line_and_its_interval():
    law = optimum()
    assert law.exponent.median == pytest.approx(-0.5)
    low, high = law.exponent.interval()
    assert 0.02 < (high - low) / 2 < 0.08
    assert law.line(512).median == pytest.approx(-4.5)
    assert law.at(512).standard_deviation > law.line(512).standard_deviation
    assert law.at(2**20).standard_deviation > law.at(2**15).standard_deviation > law.at(2**11).standard_deviation


def test_irregular_widths_widen_the_interval():
    regular, bent = optimum(error=0.02), optimum((0, 1.2, -1.2, 0), error=0.02)
    assert bent.exponent.standard_deviation > 3 * regular.exponent.standard_deviation
    assert bent.jitter > 3 * regular.jitter


def test_a_fitted_width_is_drawn_to_the_line_and_no_further():
    law = optimum((0, 0.3, 0, 0), error=0.1)
    at, line, own = law.at(1024).median, law.line(1024).median, law.x[1]
    assert line < at < own
    assert law.at(1024).standard_deviation < 0.1
    assert OptimumLaw(WIDTHS, law.x, np.diag([1e-8] * 4)).at(1024).median == pytest.approx(own, abs=1e-3)


def test_one_width_has_a_place_and_no_exponent():
    law = OptimumLaw((256,), np.array([-8.0]), np.array([[0.01]]))
    assert law.at(256).interval() == pytest.approx((-8.196, -7.804), abs=1e-3)


def seen(rows):
    columns = list(zip(*rows, strict=True))
    return Intervals(
        np.array(columns[0]), np.array(columns[1]), np.array(columns[2], float), np.array(columns[3], float)
    )


def grid(alpha=-0.5, widths=WIDTHS, n_seeds=4, scatter=0.0):
    rows = []
    for width in widths:
        for seed in range(n_seeds):
            edge, phase = alpha * math.log2(width) + scatter * (seed - 1.5), 0.25 * seed
            low = math.floor(edge - phase) + phase
            rows.append((width, seed, low, low + 1))
    return rows


def test_the_edges_exponent_is_found_between_the_grid_points():
    law = edge_law(seen(grid(-0.5)))
    assert law.exponent.median == pytest.approx(-0.5, abs=0.03)
    assert law.exponent.standard_deviation < 0.08
    assert law.at(1024).median == pytest.approx(-5, abs=0.15)
    assert law.at(2**16).median == pytest.approx(-8, abs=0.3)
    assert law.at(2**16).standard_deviation > law.at(2**12).standard_deviation


def test_seeds_that_scatter_are_seen_to():
    calm, wild = edge_law(seen(grid(n_seeds=8))), edge_law(seen(grid(n_seeds=8, scatter=0.3)))
    assert wild.seed_scatter > 1.5 * calm.seed_scatter


def test_one_sided_intervals_bound_from_their_side():
    rows = grid(-0.5, n_seeds=2)
    open_above = [row if row[0] != 16384 else (*row[:2], -5.0, math.inf) for row in rows]
    assert edge_law(seen(open_above)).exponent.median > edge_law(seen(rows)).exponent.median + 0.1
    open_below = [row if row[0] != 16384 else (*row[:2], -math.inf, -7.5) for row in rows]
    assert edge_law(seen(open_below)).exponent.median < edge_law(seen(rows)).exponent.median - 0.1


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
