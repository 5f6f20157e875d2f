"""Local exponents, and what it costs to carry a learning rate from a narrower width."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import base_width
from tests.support.synthetic_study import write_study

WIDTHS = (32, 64, 128, 256, 512)
LRS = tuple(2.0**k for k in range(-13, -2))


def bending(config):
    """The optimum falls like n^-1 up to width 128 and stays from there on; .08 nats per squared octave."""
    best = -6 - min(math.log2(config.width / 32), 2)
    noise = np.random.default_rng([config.seed, config.width, round(1e6 * config.lr)]).normal(0, 2e-3)
    return 2 + 0.08 * (math.log2(config.lr) - best) ** 2 + 0.05 * config.seed + noise


def test_where_the_exponent_settles_and_what_a_base_width_costs(tmp_path, monkeypatch):
    monkeypatch.setattr(base_width, "DRAWS", 10)
    write_study(tmp_path / "study", bending, widths=WIDTHS, lrs=LRS, seeds=(0, 1, 2))
    assert base_width.main([str(tmp_path / "study"), "--out", str(tmp_path / "out")]) == 0
    found = pd.read_csv(tmp_path / "out" / "base_width.csv", comment="#")
    slopes = found.query("quantity == 'exponent'").set_index("width")
    assert list(slopes["other_width"]) == [128, 256, 512]
    for width, exponent in {32: -1.0, 64: -0.5, 128: 0.0}.items():
        assert slopes.loc[width, "value"] == pytest.approx(exponent, abs=0.05)
        assert slopes.loc[width, "ci_low"] < exponent < slopes.loc[width, "ci_high"]
    costs = found.query("quantity == 'regret'").set_index("width")
    for width, octaves in {32: 2, 64: 1, 128: 0, 256: 0, 512: 0}.items():
        assert costs.loc[width, "value"] == pytest.approx(0.08 * octaves**2, abs=0.01)
        assert costs.loc[width, "ci_low"] - 0.005 < 0.08 * octaves**2 < costs.loc[width, "ci_high"] + 0.005
    assert (tmp_path / "out" / "base_width.png").stat().st_size > 10_000


def test_a_learning_rate_that_was_not_tried_at_the_widest_costs_at_least_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.setattr(base_width, "DRAWS", 5)
    monkeypatch.setattr(base_width.figures, "save", lambda *_: [])
    write_study(tmp_path / "study", bending, widths=(32, 128), lrs=LRS, seeds=(0, 1, 2))
    write_study(tmp_path / "study", bending, widths=(512,), lrs=LRS[3:7], seeds=(0, 1, 2))  # 2^-10 to 2^-7, best 2^-8
    assert base_width.main([str(tmp_path / "study"), "--out", str(tmp_path)]) == 0
    found = pd.read_csv(tmp_path / "base_width.csv", comment="#").query("quantity == 'regret'").set_index("width")
    assert found.loc[32, "ci_high"] == math.inf
    assert found.loc[32, "value"] == found.loc[32, "ci_low"] == pytest.approx(0.08, abs=0.01), (
        "2^-6, of which 2^-7 is next"
    )
    assert found.loc[128, "ci_high"] < 0.01


def test_a_study_that_tells_no_optimum_is_one_line(tmp_path, capsys):
    write_study(tmp_path / "study", bending, widths=WIDTHS, lrs=LRS[:2])
    assert base_width.main([str(tmp_path / "study"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("no width there tells its optimum by itself\n")
