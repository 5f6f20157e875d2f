"""Predictions at untrained widths against a joint normal distribution, and against studies drawn from the model."""

import numpy as np
import pytest

from pipeline.analysis.fit import drift
from pipeline.analysis.fit.drift import DRIFT, Line, extrapolated
from pipeline.analysis.fit.edgelaw import edge_law
from pipeline.analysis.fit.powerlaw import OptimumLaw
from pipeline.analysis.study.stability import Intervals

WIDTHS = (64, 256, 1024, 4096)


def _joint(widths, covariance, x, to, scale):
    """Conditioning a joint normal over all values, mu and alpha with a very wide prior."""
    every = np.log2(np.array([*widths, to], dtype=float))
    z = every - np.log2(np.array(widths, dtype=float)).mean()
    bend = scale * z**2 / 2
    prior = 1e6 * (1 + np.outer(z, z)) + np.outer(bend, bend)
    k, own = prior[:-1, -1], prior[:-1, :-1] + covariance
    return k @ np.linalg.solve(own, x), prior[-1, -1] - k @ np.linalg.solve(own, k)


@pytest.mark.parametrize("scale", [0.0, 0.08, 0.5])
@pytest.mark.parametrize("to", [16, 512, 2**15])
def test_against_conditioning_a_joint_normal(scale, to):
    rng = np.random.default_rng(0)
    root = rng.standard_normal((4, 4)) / 5
    covariance, x = root @ root.T + 0.02 * np.eye(4), rng.standard_normal(4)
    found = Line(np.array(WIDTHS, dtype=float), covariance).at(to, x, scale)
    assert found == pytest.approx(_joint(WIDTHS, covariance, x, to, scale), rel=1e-4, abs=1e-4)


def test_the_interval_grows_with_the_distance_and_the_prediction_follows_a_bend():
    z = np.log2(np.array(WIDTHS)) - 9
    straight, bent = -0.3 * z, -0.3 * z - 0.04 * z**2
    covariance = 0.05**2 * np.eye(4)
    law = OptimumLaw(WIDTHS, straight, covariance)
    for near, far in ((8192, 2**15), (2**15, 2**18)):
        assert extrapolated(law, near).standard_deviation < extrapolated(law, far).standard_deviation
    assert extrapolated(law, 2**15).standard_deviation > 1.3 * law.at(2**15).standard_deviation
    assert extrapolated(law, 2**15).median == pytest.approx(law.at(2**15).median, abs=1e-6)
    curved, irregular = OptimumLaw(WIDTHS, bent, covariance), OptimumLaw(WIDTHS, bent, covariance, scale=2.0)
    assert extrapolated(curved, 2**15).median < curved.at(2**15).median - 0.2
    follows = [extrapolated(one, 2**15).median - one.at(2**15).median for one in (curved, irregular)]
    assert follows[0] < 1.5 * follows[1] < 0  # what may be irregularity is no drift


def test_two_widths_say_nothing_of_a_drift_and_the_interval_is_all_prior():
    law = OptimumLaw((256, 1024), np.array([-6.0, -7.0]), 1e-8 * np.eye(2), tail=0)
    found, plain = extrapolated(law, 4096), law.at(4096)
    assert found.median == pytest.approx(plain.median, abs=1e-6)
    bend = DRIFT * (3.0**2 - 1.0**2) / 2  # what the line through both widths does not take up
    assert found.standard_deviation**2 - plain.standard_deviation**2 == pytest.approx(bend**2, rel=1e-3)


def test_intervals_hold_the_truth_of_studies_that_drift():
    rng = np.random.default_rng(1)
    z, to = np.log2(np.array(WIDTHS)), 2**14
    hits, plain_hits = 0, 0
    for _ in range(300):
        alpha, bend = rng.uniform(-1, 0), DRIFT * rng.standard_normal()

        def truth(at, alpha=alpha, bend=bend):
            return alpha * (at - z.mean()) + bend * (at - z.mean()) ** 2 / 2 + 0.05 * rng.standard_normal(np.shape(at))

        law = OptimumLaw(WIDTHS, truth(z) + 0.1 * rng.standard_normal(4), 0.1**2 * np.eye(4))
        value = float(truth(np.log2(to)))
        for name in ("drift", "plain"):
            low, high = (extrapolated(law, to) if name == "drift" else law.at(to)).interval(0.9)
            hits += name == "drift" and low <= value <= high
            plain_hits += name == "plain" and low <= value <= high
    assert 0.85 <= hits / 300 <= 0.97
    assert plain_hits / 300 < 0.8


def test_what_each_width_says_of_the_edge_by_itself():
    low = np.repeat([-5.0, -6.0, -7.0], 8)
    seen = Intervals(np.repeat([64, 256, 1024], 8), np.tile(np.arange(8), 3), low, low + 0.5)
    law = edge_law(seen)
    mean, covariance = law.observed
    assert mean == pytest.approx([-4.75, -5.75, -6.75], abs=0.02)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.1] * 3, abs=0.06)
    assert extrapolated(law, 4096).median == pytest.approx(-7.75, abs=0.05)
    assert extrapolated(law, 2**16).standard_deviation > law.at(2**16).standard_deviation + 0.1


def test_without_drift_nothing_changes(monkeypatch):
    law = OptimumLaw(WIDTHS, np.array([-5.0, -5.9, -7.2, -8.1]), 0.1**2 * np.eye(4))
    before = law.at(2**15)
    monkeypatch.setattr(drift.Line.at, "__defaults__", (0.0,))
    after = extrapolated(law, 2**15)
    assert after.median == pytest.approx(before.median)
    assert after.standard_deviation == pytest.approx(before.standard_deviation)
