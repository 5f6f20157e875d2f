"""`fit`, `report` and `predict` on tables of other people's runs: words, files and exit codes."""

import json
import re

import pandas as pd
import pytest

from pipeline.analysis.page.words import TIMES
from pipeline.cli import main
from tests.support.foreign_table import runs
from tests.support.pages import Page
from tests.support.synthetic_study import valley, write_study


def say(capsys, *argv):
    code = main.main([str(part) for part in argv])
    printed = capsys.readouterr()
    return code, " ".join((printed.out + printed.err).split())


@pytest.fixture
def tokens(tmp_path):
    """A table along tokens, under two optimizers."""
    path = tmp_path / "sweep.csv"
    both = [
        runs(levels=(1e9, 2e9, 4e9, 8e9), exponent=e, width="D").assign(opt=name)
        for name, e in (("Adam", -0.5), ("Lion", 0.0))
    ]
    pd.concat(both).to_csv(path, index=False)
    return path


def test_fit_speaks_of_the_axis_and_writes_beside_the_table(tokens, capsys):
    code, text = say(capsys, "fit", tokens, "--columns", "tokens=D")
    assert code == 0
    assert "With Adam the optimal learning rate is" in text
    assert "at 1B tokens and" in text
    assert "every token budget lies where the others predict it" in text
    assert not re.search(r"\bwidth|\bwide|\bnarrow|\bnan\b|Theory", text)
    assert text.count("No column of diverged") == 1
    assert "Transfer: the optima lie 0.0" in text
    assert "The best one at 1B tokens, carried over as it is, costs" in text
    assert re.search(r"The best loss at 8B tokens: 2\.(69\d|7\d*) under Adam, 2\.(69\d|7\d*) under Lion\.", text)
    folder = tokens.parent / "sweep-fit"
    assert f"Written to {folder}: runs.csv, optima.csv, exponents.csv, fit.json" in text
    exponents = pd.read_csv(folder / "exponents.csv", keep_default_na=False)
    assert list(exponents.columns[:10]) == [
        "param", "optimizer", "loss", "quantity", "estimator", "exponent", "ci_low", "ci_high", "n_widths", "n_runs",
    ]  # fmt: skip
    assert exponents["optimizer"].tolist() == ["Adam", "Adam", "Lion", "Lion"]
    assert set(exponents["theory"]) == {""}
    assert pd.read_csv(folder / "optima.csv")["width"].tolist() == [10**9 * k for k in (1, 2, 4, 8)] * 2
    assert json.loads((folder / "fit.json").read_text())["axis"] == "tokens"


def test_the_published_practice_speaks_of_the_axis_too(tokens, capsys):
    _, text = say(capsys, "fit", tokens, "--columns", "tokens=D", "--estimator", "paper")
    assert "one step at the smallest or largest token budget moves" in text
    assert not re.search(r"\bwidth|\bwidest", text)


def test_predict_takes_the_same_table(tokens, capsys):
    asked = ("predict", tokens, "--axis", "tokens", "--columns", "tokens=D")
    code, text = say(capsys, *asked, "--tokens", "64B")
    assert code == 0
    assert "sweep.csv: learning rate at 64B tokens (not trained), by loss" in text
    assert "64B tokens is 8 times the largest trained" in text
    assert not re.search(r"\bwidth|\bwide", text)
    assert say(capsys, *asked, "--at", "64000000000")[1] == text
    code, text = say(capsys, *asked, "--width", 4096)
    assert (code, text) == (2, "pipeline: error: --width: the runs differ in tokens; say --tokens LEVEL")
    code, text = say(capsys, *asked, "--at", "many")
    assert (code, text) == (
        2,
        "pipeline: error: --at takes numbers such as 4096 or 300B, several with commas or as 1024:8192:x2; got 'many'",
    )


@pytest.mark.slow
def test_report_draws_the_axis(tokens, capsys):
    out = tokens.parent / "elsewhere"
    code, _ = say(capsys, "report", tokens, "--columns", "tokens=D", "--out", out)
    assert code == 0
    assert (out / "figures" / "lr_transfer.svg").is_file()
    assert not (tokens.parent / "sweep-fit").exists()
    found = Page((out / "report.html").read_text())
    labels = " ".join(value for _, name, value in found.attributes if name == "aria-label")
    assert "Learning rate against token budget: sweep.csv" in found.text
    assert "1B, 2B, 4B, 8B tokens" in found.text
    assert not re.search(r"\bwidths?\b(?!-scaling)", found.text + labels)
    assert "8B tokens" in labels
    assert "token budget D" in found.text
    assert [row[0] for row in found.tables[0][1:]] == [
        "1B",
        "2B",
        "4B",
        "8B",
        f"16B 2{TIMES}",
        f"32B 4{TIMES}",
        f"64B 8{TIMES}, unchecked",
    ]


def test_one_group_of_a_table_without_names(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    runs(levels=(0.5, 1, 2), width="sparsity").to_csv(path, index=False)
    code, text = say(capsys, "fit", path, "--axis", "sparsity")
    assert code == 0
    assert "All runs" in text
    assert "Over all runs the optimal learning rate is" in text
    assert "at sparsity 0.5" in text


@pytest.fixture
def two_axes(tmp_path):
    path = tmp_path / "grid.csv"
    tables = [runs(levels=(256, 512, 1024), seeds=2).assign(tokens=1e9 * k, sparsity=0.5 * k) for k in (1, 4, 16)]
    pd.concat(tables).to_csv(path, index=False)
    return path


def test_two_axes_at_once(two_axes, capsys):
    code, text = say(capsys, "fit", two_axes, "--axis", "width,tokens")
    assert code == 0
    assert "grid.csv: 162 runs along width and tokens, by loss" in text
    assert re.search(r"width -0\.(4\d|5\d?) \+- 0\.\d+ -0\.\d+ to -0\.\d+ token budget -?0\.0\d", text)
    assert text.count("16B") == 3
    folder = two_axes.parent / "grid-fit"
    assert f"Written to {folder}: runs.csv, optima.csv, exponents.csv, fit.json" in text
    exponents = pd.read_csv(folder / "exponents.csv")
    assert exponents["axis"].tolist() == ["width", "tokens"]
    assert (exponents["ci_low"] < [-0.5, 0]).all()
    assert (exponents["ci_high"] > [-0.5, 0]).all()
    optima = pd.read_csv(folder / "optima.csv")
    assert list(optima.columns[:5]) == ["width", "tokens", "optimal_lr", "optimal_ci_low", "optimal_ci_high"]
    assert len(optima) == 9
    assert {"width", "tokens"} < set(pd.read_csv(folder / "runs.csv").columns)
    assert json.loads((folder / "fit.json").read_text())["axes"] == ["width", "tokens"]


def test_predictions_at_two_levels(two_axes, capsys):
    asked = ("predict", two_axes, "--axis", "width,tokens")
    code, text = say(capsys, *asked, "--width", 2048, "--tokens", "300B")
    assert code == 0
    assert "All runs, width 2048, 300B tokens (not trained)" in text
    assert "300B tokens is more than four times from the nearest trained, 16B" in text
    assert re.search(r"optimal lr 2\.\d+e-3 \(90 % interval .* to .*\) max-stable lr .* recommended lr", text)
    assert say(capsys, *asked, "--at", "width=2048,tokens=300B")[1] == text
    code, printed = say(capsys, *asked, "--widths", "2048,4096", "--tokens", "16B", "--json")
    found = json.loads(printed)["predictions"]
    assert [(one["width"], one["tokens"]) for one in found] == [(2048, 16e9), (4096, 16e9)]
    assert all(one["optimal"]["low"] < one["recommended"] < one["optimal"]["high"] for one in found)
    _, text = say(capsys, "predict", two_axes, "--axis", "width,sparsity", "--at", "width=512,sparsity=2")
    assert "All runs, width 512, sparsity 2 (trained)" in text


def test_requests_on_two_axes_that_are_wrong(two_axes, capsys):
    axes = ("--axis", "width,tokens")
    for argv, says in (
        (("predict", *axes, "--width", 64), "differ in width and tokens: say --at width=LEVEL,tokens=LEVEL"),
        (("predict", *axes, "--width", 64, "--tokens", 1, "--batch", 8), "--batch: the runs differ in width and tok"),
        (("predict", *axes, "--width", 64, "--at", "width=8,tokens=8"), "--at width=8,tokens=8: width is given twice"),
        (("predict", *axes, "--width", 64, "--tokens", 1, "--record"), "--record knows one axis"),
        (("predict", "--width", 64, "--tokens", 1), "--width and --tokens exclude each other"),
        (("fit", *axes, "--estimator", "paper"), "--estimator paper knows one axis: two are fitted by local"),
        (("report", *axes), "--axis width,tokens: this draws one axis; pipeline fit and predict know two"),
    ):
        verb, *rest = argv
        code, text = say(capsys, verb, two_axes, *rest)
        assert code == 2, argv
        assert text.startswith("pipeline: error: ")
        assert says in text


def test_requests_that_are_wrong(tmp_path, tokens, capsys):
    study = write_study(tmp_path / "study", valley(-0.5))
    (tmp_path / "runs.txt").write_text("width,lr\n")
    for argv, says in (
        ((tokens, study), "is a table and"),
        ((study, "--columns", "width=n"), "--columns is for tables of runs"),
        ((study, "--axis", "tokens"), "--axis tokens: it is 30720 in all runs of study"),
        ((tokens, "--metric", "val"), "--metric is for study folders: of a table say --columns loss=COLUMN"),
        ((tmp_path / "no.csv",), "no.csv: no such file"),
        ((tmp_path / "runs.txt",), "tables of runs are files that end in .csv"),
        ((tokens,), "no column is called width"),
        ((tokens, "--axis", "a,b,c"), "--axis a,b,c: expected at most 2 different names"),
        ((tokens, "--columns", "tokens=D", "--out", tokens), "cannot be made"),
    ):
        code, text = say(capsys, "fit", *argv)
        assert code == 2, argv
        assert text.startswith("pipeline: error: ")
        assert says in text
