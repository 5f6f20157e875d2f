import math

import pytest

from pipeline.analysis.study.clipping import Clipping, clipped_share
from pipeline.analysis.study.load import load_study
from tests.support.synthetic_study import BASE, LRS, valley, write_run, write_study


@pytest.mark.parametrize(
    ("norms", "threshold", "share"),
    [
        ([0.5, 1.0, 1.5, 2.0], 1.0, 0.5),
        ([0.5, 1.0, 1.5, 2.0], 10_000, 0.0),
        ([0.5, 2.0], None, 0.0),
        ([math.nan, 2.0, 0.1, math.inf], 1.0, 0.5),
        ([math.nan], 1.0, math.nan),
        ([], 1.0, math.nan),
    ],
)
def test_share_is_of_the_recorded_finite_norms(norms, threshold, share):
    assert clipped_share(norms, threshold) == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize(
    ("shares", "acts"),
    [
        ((1.0, 0.96), "always"),
        ((1.0, 0.94), "sometimes"),
        ((0.0, 0.01), "sometimes"),
        ((0.0, 0.0), "never"),
        ((math.nan, 1.0), "always"),
        ((math.nan, math.nan), "unknown"),
        ((), "unknown"),
    ],
)
def test_always_never_or_sometimes(shares, acts):
    assert Clipping(dict(enumerate(shares))).acts == acts


def test_a_study_knows_its_share_per_run(tmp_path):
    write_study(tmp_path, valley(0.0), widths=(64,), lrs=LRS[:2], norm=lambda c, step: 2.0 if step <= 15 else 0.5)
    write_run(tmp_path, BASE, 4.0)  # of an older version: no norms
    shares = load_study([tmp_path]).runs["clipped_share"]
    assert sorted(shares.dropna()) == [0.25, 0.25]
    assert shares.isna().sum() == 1
