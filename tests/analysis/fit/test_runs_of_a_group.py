"""From the run table to what estimators take: accuracies, lost runs, and the base width's runs of all."""

import math

import pandas as pd
import pytest

from pipeline.analysis.fit.study_fit import fit, runs_of
from pipeline.analysis.study.measure import Measure
from tests.support.synthetic_study import LRS, valley, write_study


def table(**columns):
    common = {"width": 64, "lr": [1.0, 2.0, 4.0], "seed": 0, "status": ["completed", "completed", "diverged"]}
    common |= {"left_for_good": False, "lost_ground": False}
    common |= {"final_train_accuracy": [0.9, 0.5, 0.1], "final_train_loss": 1.0}
    return pd.DataFrame(common | columns)


def test_accuracy_is_maximized_and_what_is_lost_stays_lost():
    assert runs_of(table(), Measure("train_accuracy")).loss.tolist() == pytest.approx([0.1, 0.5, math.inf])
    assert runs_of(table(), Measure()).loss.tolist() == [1.0, 1.0, math.inf]
    best = runs_of(table(best_val_loss=[1.0, 2.0, 3.0]), Measure("val", "best"))
    assert best.loss.tolist() == [1.0, 2.0, math.inf]


def test_leaving_for_good_and_losing_ground_are_both_instabilities():
    left = runs_of(table(left_for_good=[True, False, False], lost_ground=[False, True, False]), Measure()).left
    assert left.tolist() == [True, True, False]


def test_at_the_base_width_the_runs_of_other_parameterizations_count_and_the_same_point_once(tmp_path):
    write_study(tmp_path, valley(-0.5), params=("sp",), widths=(64, 128), seeds=(0, 1))
    write_study(tmp_path, valley(-0.5), params=("mup",), widths=(64, 128), seeds=(0,))
    sp, mup = fit([tmp_path], estimator="paper").groups
    assert (sp.param, sp.borrowed) == ("sp", 0)  # it has all that muP has
    assert (mup.param, mup.borrowed) == ("mup", len(LRS))  # seed 1
    assert [(w.width, w.grid.n_runs) for w in mup.widths] == [(64, 2 * len(LRS)), (128, len(LRS))]


def test_a_group_that_did_not_train_the_base_width_borrows_nothing(tmp_path):
    write_study(tmp_path, valley(-0.5), params=("sp",), widths=(64, 128))
    write_study(tmp_path, valley(-0.5), params=("mup",), widths=(128,))
    _, mup = fit([tmp_path], estimator="paper").groups
    assert [w.width for w in mup.widths] == [128]
    assert mup.borrowed == 0
