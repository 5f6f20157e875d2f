"""The published practice, and what every estimator shares: files, flags, words."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import tables, words, words_paper
from pipeline.analysis.page.phrases import phrases
from pipeline.analysis.page.summary import summary
from pipeline.analysis.study.measure import Measure
from pipeline.cli import fit as verb
from pipeline.errors import RequestError
from tests.support.synthetic_study import BASE, LRS, WIDTHS, valley, write_run, write_study

HEADER = "param,optimizer,loss,quantity,estimator,exponent,ci_low,ci_high,n_widths,n_runs,standard_error"
PAPER = ["--estimator", "paper"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """SP with exponent -1 in optimum and edge and two seeds; muP with none and one."""
    folder = tmp_path_factory.mktemp("fit") / "quick"
    write_study(folder, valley(-1.0), params=("sp",), seeds=(0, 1))
    write_study(folder, valley(0.0), params=("mup",))
    return folder


@pytest.fixture(scope="module")
def fitted(study):
    return published(study)


def published(folder):
    return fit([folder], estimator="paper")


def fit_one(folder, loss, **grid):
    (group,) = published(write_study(folder, loss, **grid)).groups
    return group


def test_the_valleys_bottom_and_the_edge_are_found_at_every_width(fitted):
    sp, mup = fitted.groups
    assert (sp.param, mup.param) == ("sp", "mup")  # in the order of the rules' table
    assert [w.optimum.lr for w in sp.widths] == pytest.approx([8e-3, 4e-3, 2e-3])
    assert [w.edge.last_stable_lr for w in sp.widths] == pytest.approx([1.6e-2, 8e-3, 4e-3])
    assert [w.edge.min_unstable_lr for w in sp.widths] == pytest.approx([3.2e-2, 1.6e-2, 8e-3])
    assert [w.optimum.loss for w in sp.widths] == pytest.approx([5.005, 4.755, 4.505])  # mean over seeds 0 and 1
    assert [w.optimum.lr for w in mup.widths] == pytest.approx([8e-3] * 3)
    assert [w.grid.n_runs for w in sp.widths + mup.widths] == [14] * 4 + [
        7
    ] * 2  # of the base width, 64, muP has SP's second seed too
    assert (sp.borrowed, mup.borrowed) == (0, 7)


def test_exponents_are_the_slopes_through_them(fitted):
    sp, mup = fitted.groups
    for group in (sp, mup):
        for exponent, lrs in (
            (group.optimal, [w.optimum.lr for w in group.widths]),
            (group.max_stable, [w.edge.min_unstable_lr for w in group.widths]),
        ):
            assert exponent.exponent == pytest.approx(np.polyfit(np.log(WIDTHS), np.log(lrs), 1)[0], abs=1e-12)
    assert sp.optimal.exponent == pytest.approx(-1)
    assert sp.optimal.lr_at(64) == pytest.approx(8e-3)
    assert sp.max_stable.lr_at(64) == pytest.approx(3.2e-2)  # of the minimal unstable learning rates
    assert mup.optimal.exponent == pytest.approx(0, abs=1e-12)


def test_main_prints_the_tables_and_writes_the_files(study, capsys):
    assert verb.main([str(study), *PAPER]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "64     8e-3     5.005       1.6e-2        3.2e-2" in printed
    assert "optimal lr     -1.00 " in printed
    assert str(study) in printed

    assert (study / "exponents.csv").read_text().splitlines()[0].startswith(HEADER)
    exponents = pd.read_csv(study / "exponents.csv")
    assert exponents[["param", "quantity"]].to_numpy().tolist() == [
        ["sp", "optimal"],
        ["sp", "max_stable"],
        ["mup", "optimal"],
        ["mup", "max_stable"],
    ]
    assert exponents["exponent"].tolist() == pytest.approx([-1, -1, 0, 0], abs=1e-9)
    assert exponents["n_runs"].tolist() == [42, 42, 28, 28]
    assert set(exponents["estimator"]) == {"paper"}
    optima = pd.read_csv(study / "optima.csv")
    assert optima.loc[0, ["width", "optimal_lr", "at_edge", "last_stable_lr", "min_unstable_lr"]].tolist() == [
        64, 8e-3, "no", 1.6e-2, 3.2e-2,
    ]  # fmt: skip
    assert len(pd.read_csv(study / "runs.csv")) == 63
    assert not list(study.glob(".*"))  # no half-written file left behind


def test_json_is_strict_and_holds_everything(fitted):
    tables.write(fitted)
    text = (fitted.study.dirs[0] / "fit.json").read_text()
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert content["exponents"][0]["exponent"] == pytest.approx(-1)
    curve = content["groups"][0]["curves"][0]
    assert curve["losses"][-1] is None
    assert curve["unstable"] == [False] * 5 + [True] * 2
    assert content["recipe"]["steps"] == 60
    assert len(content["runs"]) == 63


def test_an_optimum_at_the_end_of_the_grid_is_used_and_flagged(tmp_path):
    group = fit_one(tmp_path, valley(-1.0), lrs=[lr for lr in LRS if lr >= 4e-3])
    assert [w.optimum.at_edge for w in group.widths] == ["no", "low", "low"]
    assert group.optimal.n_widths == 3
    note = next(note for note in phrases(group.estimator).notes(group) if "lowest tried" in note)
    assert "widths 128 and 256" in note
    assert "extend the grid downwards" in note
    group = fit_one(tmp_path / "high", valley(0.0), lrs=[lr for lr in LRS if lr <= 8e-3])
    assert any("highest tried" in note and "upwards" in note for note in phrases(group.estimator).notes(group))


def test_no_unstable_learning_rate_is_said_and_makes_no_exponent(tmp_path):
    group = fit_one(tmp_path, valley(0.0, edge_octaves=99))
    assert not group.max_stable.estimable
    assert group.max_stable.n_widths == 0
    assert "At widths 64, 128 and 256 no learning rate up to 6.4e-2 was unstable" in phrases(group.estimator).answer(
        group
    )
    assert words_paper.unstable_cell(group.widths[0]) == "> 6.4e-2"


def test_widths_without_an_unstable_learning_rate_leave_the_edges_exponent(tmp_path):
    group = fit_one(tmp_path, valley(-1.0, edge_octaves=3.5))  # at 64 the edge would be at 0.128, off the grid
    assert [w.edge.censored for w in group.widths] == [True, False, False]
    assert group.max_stable.n_widths == 2
    assert group.max_stable.exponent == pytest.approx(-1)
    assert "At width 64 no learning rate up to 6.4e-2 was unstable" in phrases(group.estimator).answer(group)
    assert any("between two widths" in note for note in phrases(group.estimator).notes(group))


def test_one_width_has_no_exponent(tmp_path):
    group = fit_one(tmp_path, valley(0.0), widths=(64,))
    assert words.exponent(group.optimal) == words.exponent(group.max_stable) == "not estimable"
    assert "best learning rate at width 64 is 8e-3" in phrases(group.estimator).answer(group)
    assert "nan" not in summary(published(tmp_path))


def test_a_width_where_everything_diverged_is_dropped_and_said(tmp_path):
    group = fit_one(tmp_path, lambda config: math.nan if config.width == 256 else valley(-1.0)(config))
    assert group.optimal.n_widths == group.max_stable.n_widths == 2
    assert "At width 256 every learning rate was unstable" in phrases(group.estimator).answer(group)
    assert words_paper.optimum_cell(group.widths[2]) == "< 1e-3"


def test_one_diverged_seed_makes_the_learning_rate_unstable(tmp_path):
    def loss(config):
        return math.nan if config.seed == 1 and config.lr > 1.5e-2 else 5 + 0.05 * math.log2(config.lr / 8e-3) ** 2

    group = fit_one(tmp_path, loss, widths=(64,), seeds=(0, 1))
    assert group.widths[0].edge.min_unstable_lr == pytest.approx(1.6e-2)


def test_a_run_that_left_for_good_is_no_optimum_however_low_its_final_loss(tmp_path):
    write_study(tmp_path, valley(0.0), widths=(64,))
    losses = [7.6] + [9.0] * (BASE.steps - 1)
    write_run(tmp_path, dataclasses.replace(BASE, lr=0.1), 1.0, losses=losses)
    (group,) = published(tmp_path).groups
    assert group.widths[0].optimum.lr == pytest.approx(8e-3)
    assert group.widths[0].unstable[-1]


def test_the_validation_loss_can_be_chosen_and_must_exist(tmp_path):
    for lr, train, val in ((1e-3, 5.0, 6.0), (2e-3, 5.1, 5.5), (4e-3, 5.2, 5.8)):
        write_run(tmp_path / "both", dataclasses.replace(BASE, lr=lr), train, final_val_loss=val)
        write_run(tmp_path / "none", dataclasses.replace(BASE, lr=lr), train, final_val_loss=None)
    assert fit([tmp_path / "both"], estimator="paper").groups[0].widths[0].optimum.lr == 1e-3
    assert fit([tmp_path / "both"], Measure("val"), "paper").groups[0].widths[0].optimum.lr == 2e-3
    with pytest.raises(RequestError, match="no completed run has a finite final validation loss"):
        fit([tmp_path / "none"], Measure("val"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "required: STUDY"),
        (["nowhere"], "nowhere: no such study folder"),
        (["x", "--metric", "accuracy"], "invalid choice: 'accuracy'"),
        (["x", "--estimator", "ols"], "invalid choice: 'ols'"),
        (
            ["x", "--metric", "train_accuracy", "--value", "best"],
            "--value best is not recorded for train_accuracy; choose from tail",
        ),
        (["x", "--metrc", "val"], "--metrc: unknown key metrc, did you mean metric?"),
    ],
)
def test_a_wrong_request_is_one_line(argv, said):
    with pytest.raises(RequestError) as caught:
        verb.main(argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "fit.json").mkdir()
    with pytest.raises(RequestError, match=r"fit\.json: cannot write"):
        tables.write_text(tmp_path / "fit.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["fit.json"]


@pytest.mark.parametrize(
    ("value", "text"), [(4e-3, "4e-3"), (0.016, "1.6e-2"), (10**-2.5, "3.16e-3"), (0.128, "1.28e-1"), (1.0, "1"), (20, "2e1")]
)  # fmt: skip
def test_learning_rates_read_as_people_write_them(value, text):
    assert words.lr(value) == text


def test_numbers_have_a_minus_sign_and_zero_has_none():
    assert words.number(-0.5) == "\u22120.50"
    assert words.number(-1e-9) == "0.00"
    assert words.plain(words.number(-0.5)) == "-0.50"
