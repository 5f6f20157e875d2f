"""`fit`, `report` and `predict` on tables of other people's runs: words, files and exit codes."""

import json
import re

import pandas as pd
import pytest

from pipeline.cli import main
from tests.support.foreign_table import runs
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
    assert (code, text) == (2, "pipeline: error: --width: the runs differ in tokens; say --at LEVEL")
    code, text = say(capsys, *asked, "--at", "many")
    assert (code, text) == (
        2,
        "pipeline: error: --at takes numbers such as 4096 or 300B, several with commas; got 'many'",
    )


def test_report_draws_the_axis(tokens, capsys):
    pytest.importorskip("plotly")
    out = tokens.parent / "elsewhere"
    code, _ = say(capsys, "report", tokens, "--columns", "tokens=D", "--out", out)
    assert code == 0
    assert (out / "figures" / "lr_transfer.svg").is_file()
    assert not (tokens.parent / "sweep-fit").exists()
    page = (out / "report.html").read_text()
    body, charts = page.split("<script>")[0].split("</style>")[1], re.search(r"const charts = (.*);\n", page)[1]
    assert "Learning rate against token budget: sweep.csv" in body
    assert "1B, 2B, 4B, 8B tokens" in body
    assert not re.search(r"\bwidths?\b(?!-scaling)", body)
    assert "8B tokens" in charts
    assert "token budget D" in charts
    assert "width 8" not in charts


def test_one_group_of_a_table_without_names(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    runs(levels=(0.5, 1, 2), width="sparsity").to_csv(path, index=False)
    code, text = say(capsys, "fit", path, "--axis", "sparsity")
    assert code == 0
    assert "All runs" in text
    assert "Over all runs the optimal learning rate is" in text
    assert "at sparsity 0.5" in text


def test_requests_that_are_wrong(tmp_path, tokens, capsys):
    study = write_study(tmp_path / "study", valley(-0.5))
    (tmp_path / "runs.txt").write_text("width,lr\n")
    for argv, says in (
        ((tokens, study), "is a table and"),
        ((study, "--columns", "width=n"), "--columns is for tables of runs"),
        ((study, "--axis", "tokens"), "--axis is for tables of runs"),
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
