"""A seeded subset of benchmarks/estimators.py: simulated studies with known truth."""

import numpy as np
import pytest

from benchmarks import estimators
from benchmarks.estimators import Cell
from benchmarks.studies import NOTE


@pytest.mark.slow
@pytest.mark.parametrize("world", ["note", "other", "fresh"])
def test_four_widths_beat_the_published_practice_and_cover(world):
    found = estimators.run_cell(Cell(world, 4, "mild", 2, "x2"), range(60))
    assert found["opt_ratio"] < 0.45
    assert found["max_ratio"] < 0.95
    assert found["opt_coverage"] >= 0.9
    assert found["max_coverage"] >= 0.87
    assert found["opt_half"] < 0.075
    assert abs(found["opt_bias"]) < 0.02


@pytest.mark.slow
def test_an_edge_that_limits_the_optimum_is_seen_and_another_is_not():
    near, covered = estimators.edge_limited("note", (0.0, 0.2), range(25))
    assert near >= 0.85
    assert covered >= 0.75
    assert estimators.edge_limited("note", (1.4, 3.0), range(25))[0] <= 0.04


@pytest.mark.slow
def test_the_clean_rule():
    share, wrong = estimators.clean_rule("note", -0.5, range(25))
    assert share >= 0.8
    assert wrong == 0


def test_studies_are_what_they_are_said_to_be():
    truth, found = estimators.simulated(NOTE, 3)
    z = np.log2(np.array(truth.widths) / 256)
    assert np.polyfit(z, truth.optimum, 1)[0] == pytest.approx(truth.alpha, abs=0.05)
    assert (truth.edge > truth.optimum).all()
    assert len(found.runs) == 80
    assert estimators.study(Cell("other", 3, "hard", 1, "x4 staggered"), 5) == pytest.approx(
        estimators.study(Cell("other", 3, "hard", 1, "x4 staggered"), 5), nan_ok=True
    )
