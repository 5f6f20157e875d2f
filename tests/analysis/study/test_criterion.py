import math

import numpy as np
import pytest

from pipeline.analysis.fit.edgelaw import edge_law
from pipeline.analysis.study.criterion import Crossing, brackets, crossings
from pipeline.analysis.study.grid import grid_of
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import LANGUAGE, Rule

LRS = [1.0, 2.0, 4.0, 8.0, 16.0]


def found(losses, rule=LANGUAGE, accuracy=None):
    return crossings(grid_of(Runs.of([64] * 5, LRS, [0] * 5, losses, None, accuracy), rule))


def test_a_curve_crosses_between_two_learning_rates():
    (one,) = found([5.2, 5.0, 5.5, 6.5, 7.0])
    assert (one.width, one.below, one.above) == (64, 4.0, 8.0)
    assert one.lr == pytest.approx(2**2.5)  # half-way from 5.5 to 6.5 in octaves


@pytest.mark.parametrize(
    "losses",
    [
        [5.2, 5.0, 5.1, 5.2, 5.9],  # never
        [5.2, 5.0, 5.5, math.nan, 7.0],  # diverges before it crosses
        [math.nan] * 5,
    ],
)
def test_no_crossing(losses):
    assert found(losses) == ()


def test_classifiers_cross_the_floor_of_accuracy():
    (one,) = found([2.0, 0.5, 0.6, 2.2, 2.3], Rule(n_classes=10), [0.3, 0.9, 0.8, 0.1, 0.1])
    assert (one.below, one.above) == (4.0, 8.0)
    assert one.lr == pytest.approx(2 ** (2 + 6 / 7))  # from 0.8 to 0.1, the floor is 0.2


def test_squared_losses_have_no_criterion():
    assert found([5.2, 5.0, 5.5, 6.5, 7.0], Rule(cross_entropy=False)) == ()


def test_an_exponent_of_crossings_is_no_surer_than_the_learning_rates_around_them():
    """Crossings on a line to the last digit, with an octave around each at two octaves of widths."""
    found = [Crossing(64 * 4.0**k, 2.0**-k, 2.0 ** (-k - 0.5), 2.0 ** (-k + 0.5)) for k in range(2)]
    seen = brackets(found)
    assert seen.two_sided.all()
    assert np.exp2(seen.low).tolist() == pytest.approx([one.below for one in found])
    law = edge_law(seen)
    assert law is not None
    low, middle, high = law.exponent.quantiles([0.025, 0.5, 0.975])
    assert middle == pytest.approx(-0.5, abs=0.02)
    assert high - low > 0.5
