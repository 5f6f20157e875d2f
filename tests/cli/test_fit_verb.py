"""Every edge case of a study, by its words on the terminal and its exit code: 0 with an explanation, or 2 and one
line."""

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest

from pipeline.cli import main
from tests.support.synthetic_study import BASE, LRS, valley, write_run, write_study


def say(capsys, *argv):
    code = main.main([str(part) for part in argv])
    printed = capsys.readouterr()
    return code, " ".join((printed.out + printed.err).split())


def fit(capsys, folder, *flags):
    code, text = say(capsys, "fit", folder, *flags)
    assert code == 0
    assert not re.search(r"\bnan\b", text)
    assert text.isascii()
    return text


def exponents(folder):
    return pd.read_csv(folder / "exponents.csv", keep_default_na=False).set_index("quantity")


def noisy(exponent, **settings):
    rng, shape = np.random.default_rng(0), valley(exponent, **settings)
    return lambda config: shape(config) + rng.normal(0, 0.004)


def test_an_ordinary_study(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(-0.5), seeds=(0, 1)))
    assert "Under SP with AdamW the optimal learning rate is 8" in text
    assert re.search(r"Of the clean exponents the optimum's is nearest to -1/2 \((> )?9\d %\)", text)
    assert "One power law fits the optimum: every width lies where the others predict it" in text
    assert "Theory has -1/2 for the optimum (observed), inside the interval" in text
    table = exponents(tmp_path)
    assert abs(float(table.exponent["optimal"]) + 0.5) < 0.05
    assert float(table.ci_low["optimal"]) < -0.5 < float(table.ci_high["optimal"])
    assert (table.estimator == "local").all()
    assert table.nearest["optimal"] == "-0.5"
    assert table.theory_inside["optimal"] == "yes"


def test_the_optimum_at_the_end_of_the_grid_everywhere(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(0.0), lrs=[lr for lr in LRS if lr <= 4e-3]))
    assert "no width shows both sides of its valley, so the optimum is bounded at best: extend the grid" in text
    assert ">= 4e-3" in text
    assert (
        "the largest learning rate tried is the best (optimum >= 4e-3 as far as the grid shows); extend the grid "
        "upwards" in text
    )
    assert exponents(tmp_path).exponent["optimal"] == ""


def test_the_optimum_at_the_end_of_the_grid_at_one_width(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(-1.0, edge_octaves=3.5), lrs=[lr for lr in LRS if lr >= 2e-3]))
    assert (
        "At width 256 the smallest learning rate tried is the best (optimum <= 2e-3 as far as the grid shows)" in text
    )
    assert "rests on the valley's shape at the other widths; extend the grid downwards" in text
    table = exponents(tmp_path)
    assert int(table.n_widths["optimal"]) == 3
    assert float(table.ci_low["optimal"]) < -1 < float(table.ci_high["optimal"])


def test_no_unstable_learning_rate(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(0.0, edge_octaves=99)))
    assert (
        "No learning rate was unstable: the edge lies beyond 6.4e-2, the exponent of the edge is not estimable" in text
    )
    assert exponents(tmp_path).exponent["max_stable"] == ""
    assert exponents(tmp_path).nearest["max_stable"] == ""


def test_no_unstable_learning_rate_at_one_width(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(-1.0, edge_octaves=3.5)))
    assert "At width 64 no learning rate was unstable: the edge there is only known to lie beyond 6.4e-2" in text
    assert int(exponents(tmp_path).n_widths["max_stable"]) == 3


def test_all_unstable(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, lambda config: math.nan))
    assert "no learning rate trained stably at any width, so there is no optimum" in text
    assert "< 1e-3" in text


def test_all_unstable_at_one_width(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, lambda c: math.nan if c.width == 256 else valley(-1.0)(c)))
    assert "Width 256 took no part in the fit of the optimum: nothing trained stably there" in text
    assert "the edge lies below the smallest learning rate tried; extend the grid downwards" in text
    assert int(exponents(tmp_path).n_widths["optimal"]) == 2


def test_nan_is_divergence_and_used_as_such(tmp_path, capsys):
    fit(capsys, write_study(tmp_path, noisy(-0.5, edge_octaves=1.5)))
    table = exponents(tmp_path)
    assert abs(float(table.exponent["max_stable"]) + 0.5) < 0.3


def test_ties(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, lambda c: 5.0 if c.lr < 3e-2 else math.nan))
    assert "there is no valley: losses do not depend on the learning rate beyond noise" in text
    assert exponents(tmp_path).exponent["optimal"] == ""


def test_one_width(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(0.0), widths=(64,), seeds=(0, 1)))
    assert "at width 64; an exponent needs two widths" in text
    assert "Fewer than two widths show both a stable and an unstable learning rate" in text
    code, text = say(capsys, "predict", tmp_path, "--width", 64)
    assert code == 0
    assert "optimal lr 8" in text
    code, text = say(capsys, "predict", tmp_path, "--width", 128)
    assert code == 0
    assert "optimal lr not estimable" in text
    assert "recommended lr none: neither the optimum nor the edge is known there" in text


def test_two_widths(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(-0.5), widths=(64, 256), seeds=(0, 1)))
    assert "Two widths give the optimum's exponent no lack-of-fit check: whether it is a power law is assumed" in text
    assert "unchecked" in exponents(tmp_path).one_power_law.tolist()
    code, text = say(capsys, "predict", tmp_path, "--width", 512)
    assert code == 0
    assert (
        "Two widths cannot tell whether the optimum follows a power law: what the interval allows for is assumed"
        in text
    )


def test_missing_cells(tmp_path, capsys):
    write_study(tmp_path, noisy(-0.5), seeds=(0, 1))
    for run in sorted(tmp_path.glob("*w128-lr4e-3-s1*")):
        for file in run.iterdir():
            file.unlink()
        run.rmdir()
    assert "1 of the 42 points of the grid has no finished run; the others are used as they are" in fit(
        capsys, tmp_path
    )


def test_a_single_seed_states_what_is_assumed(tmp_path, capsys):
    text = fit(capsys, write_study(tmp_path, noisy(-0.5)))
    assert "One seed per width: the noise of a run is taken from the scatter around the fitted valleys" in text
    assert "optimum and edge scatter over seeds (about 0.1 and 0.2 octave) is assumed, not measured" in text


def test_duplicates_are_refused_naming_both(tmp_path, capsys):
    first, again = write_run(tmp_path / "a", BASE, 5.0), write_run(tmp_path / "b", BASE, 5.1)
    code, text = say(capsys, "fit", tmp_path / "a", tmp_path / "b")
    assert code == 2
    assert "the same point was trained twice" in text
    assert str(first) in text
    assert str(again) in text


def test_runs_still_going_are_left_out_and_counted(tmp_path, capsys):
    write_study(tmp_path, noisy(-0.5), seeds=(0, 1))
    (write_run(tmp_path, dataclasses.replace(BASE, lr=0.3), 5.0) / "result.json").unlink()
    assert "(1 unfinished run left out)" in fit(capsys, tmp_path)


def test_runs_that_differ_in_settings_are_groups_apart(tmp_path, capsys):
    write_study(tmp_path, noisy(-0.5))
    write_study(tmp_path, noisy(0.0), steps=70, model=dataclasses.replace(BASE.model, n_layer=4))
    text = fit(capsys, tmp_path)
    assert "SP / AdamW / 60 steps" in text
    assert "SP / AdamW / 70 steps" in text
    assert "Groups differ in model.n_layer too, beside what they are called by." in text
    table = pd.read_csv(tmp_path / "exponents.csv")
    assert table["steps"].tolist() == [60, 60, 70, 70]
    optimal = table[table["quantity"] == "optimal"]
    assert optimal["exponent"].tolist() == pytest.approx([-0.5, 0.0], abs=0.1)


def test_the_optimum_saturates_at_the_edge(tmp_path, capsys):
    """The loss falls up to the edge, which moves like n^-1/2: the optimum's exponent is the edge's."""
    lrs = tuple(1e-3 * 2**k for k in range(8))

    def falling(config):
        octaves = math.log2(config.lr / 4e-2) + 0.5 * math.log2(config.width / 64) + 0.2 * config.seed
        return math.nan if octaves > 0 else 5.0 + 0.06 * max(-0.2 - octaves, 0) ** 1.5 + 0.001 * octaves

    text = fit(capsys, write_study(tmp_path, falling, lrs=lrs, seeds=(0, 1, 2), widths=(64, 256, 1024)))
    assert "It saturates at the stability edge, from which it is not told apart" in text
    table = exponents(tmp_path)
    assert (table.edge_limited == "yes").all()
    assert table.exponent["optimal"] == table.exponent["max_stable"]
    _, text = say(capsys, "predict", tmp_path, "--width", 4096)
    assert "The optimum saturates at the edge of stability: both are predicted from the edge's runs" in text


def test_an_exponent_that_drifts(tmp_path, capsys):
    def bent(config):
        z = math.log2(config.width / 64)
        return valley(0.0, best_at_64=8e-3 * 2 ** (-0.4 * z * z))(config) + 0.003 * math.sin(1e3 * config.lr)

    text = fit(
        capsys,
        write_study(tmp_path, bent, widths=(64, 128, 256, 512), lrs=[1e-4 * 2**k for k in range(10)], seeds=(0, 1)),
    )
    assert "The optimum does not follow one power law: predicted from the other widths, it is off at" in text
    assert "Do not extrapolate with the common one" in text
    assert exponents(tmp_path).one_power_law["optimal"] == "no"
    _, text = say(capsys, "predict", tmp_path, "--width", 1024)
    assert "The optimum drifts away from one power law" in text


@pytest.mark.parametrize("measure", [("--metric", "val"), ("--value", "last"), ("--value", "best")])
def test_other_measures(tmp_path, capsys, measure):
    text = fit(capsys, write_study(tmp_path, noisy(-0.5), seeds=(0, 1)), *measure)
    assert "optimal learning rate is" in text
    assert {"--metric": "final validation loss", "--value": f"{measure[1]} training loss"}[measure[0]] in text


def test_accuracy_of_text_is_refused(tmp_path, capsys):
    code, text = say(capsys, "fit", write_study(tmp_path, noisy(-0.5)), "--metric", "val_accuracy")
    assert code == 2
    assert "no completed run has a finite final validation error; try another --metric" in text
