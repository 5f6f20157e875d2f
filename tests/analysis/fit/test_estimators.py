"""An estimator is one entry: one that nobody has heard of is fitted, reported, predicted with and written to files."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.fit.estimators import ESTIMATORS, Estimator
from pipeline.analysis.fit.exponent import LrLaw
from pipeline.analysis.fit.fitted import Fitted, FittedWidth, Lr
from pipeline.analysis.fit.study_fit import fit
from pipeline.cli import main
from pipeline.errors import RequestError
from tests.support.synthetic_study import valley, write_study


def two_ends(grid):
    """Slopes between the narrowest and the widest width, and nothing else."""

    def law(lrs):
        widths = [w.width for w in grid.widths]
        slope = float(np.log(lrs[-1] / lrs[0]) / np.log(widths[-1] / widths[0]))
        return LrLaw(tuple(widths), slope, log_lr_at_1=float(np.log(lrs[0]) - slope * np.log(widths[0])))

    laws = {
        "optimal": law([w.optimum.lr for w in grid.widths]),
        "max_stable": law([w.edge.last_stable_lr for w in grid.widths]),
    }
    widths = [
        FittedWidth(Lr(w.optimum.lr), w.optimum.loss, Lr(w.edge.last_stable_lr), w.optimum.at_edge) for w in grid.widths
    ]
    return Fitted(tuple(widths), laws, lambda quantity, n, _: Lr(laws[quantity].lr_at(n)), intervals=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "two_ends", Estimator("two_ends", "a line through both ends", two_ends))
    return write_study(tmp_path / "s", valley(-1.0))


def say(capsys, *argv):
    assert main.main([*map(str, argv), "--estimator", "two_ends"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_it_is_fitted_and_written(folder, capsys):
    text = say(capsys, "fit", folder)
    assert "64 8e-3 - 8e-3 1.6e-2 - 7" in text
    assert "Under SP with AdamW the optimal learning rate is 8e-3 at width 64 and 2e-3 at width 256" in text
    assert "exponent -1.00 (no interval)" in text
    assert "valley shape" not in text  # what another one does
    table = pd.read_csv(folder / "exponents.csv", keep_default_na=False)
    assert table["estimator"].tolist() == ["two_ends"] * 2
    assert table["exponent"].tolist() == pytest.approx([-1, -1])
    assert table[["ci_low", "nearest", "one_power_law", "theory_inside"]].to_numpy().tolist() == [[""] * 4] * 2
    assert pd.read_csv(folder / "optima.csv")["max_stable_lr"].tolist() == pytest.approx([1.6e-2, 8e-3, 4e-3])


def test_it_reports(folder, capsys):
    say(capsys, "report", folder)
    page = (folder / "report.html").read_text()
    assert "Intervals hold 95 %; what the estimator does not tell is left out." in page
    assert "max-stable rate" in page
    assert "<b>\u22121.00</b>" in page


def test_it_predicts(folder, capsys):
    text = say(capsys, "predict", folder, "--width", 512)
    assert "optimal lr 1e-3 (no interval)" in text
    assert "recommended lr none: the estimator two_ends has no interval" in text
    (found,) = json.loads(say(capsys, "predict", folder, "--width", 512, "--json"))["predictions"]
    assert found["max_stable"] == {"value": pytest.approx(2e-3), "low": None, "high": None}
    assert found["safe"] is None


def test_help_and_choices_follow(folder, capsys):
    with pytest.raises(SystemExit):
        main.main(["fit", "--help"])
    assert "a line through both ends" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_one_is_refused(folder):
    with pytest.raises(RequestError, match="no estimator 'ols': choose one of local, paper"):
        fit([folder], estimator="ols")
