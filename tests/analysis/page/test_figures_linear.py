"""The script of the two-layer linear model: its table, its files, what it refuses."""

import pandas as pd
import pytest

from analysis import linear_model
from pipeline.analysis.page import figures


def run(monkeypatch, capsys, *argv):
    monkeypatch.setattr("sys.argv", ["linear_model.py", *argv])
    code = linear_model.main()
    return code, capsys.readouterr()


def test_the_script_prints_exponents_beside_the_published_and_writes_them(tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: drawn.setdefault(name, figure) and [])
    argv = ("--widths", "64,256,1024", "--params", "sp,mup,musoli", "--seeds", "3", "--steps", "150")
    code, said = run(monkeypatch, capsys, *argv, "--out", str(tmp_path))
    assert (code, said.err) == (0, "")
    assert said.out.isascii()
    rows = [line.split() for line in said.out.splitlines()]
    assert [row[:2] for row in rows[1:3]] == [["SP", "simultaneous"], ["SP", "published"]]
    assert rows[1][-4:-2] == ["-1", "-1"]
    text = (tmp_path / "linear_model.csv").read_text()
    assert text.startswith("# python analysis/linear_model.py --widths 64,256,1024 --params sp,mup,musoli --seeds 3")
    assert str(tmp_path) not in text
    table = pd.read_csv(tmp_path / "linear_model.csv", comment="#")
    assert len(table) == 6 * (3 + 1)
    exponents = table[table["quantity"] == "max_stable_exponent"].set_index(["param", "update"])
    assert exponents.loc[("sp", "simultaneous"), "published"] == -1
    assert exponents["value"].between(exponents["ci_low"], exponents["ci_high"]).all()
    assert sorted(drawn) == ["linear_model_c2", "linear_model_c3"]
    assert len(drawn["linear_model_c2"].axes) == 3
    assert len(drawn["linear_model_c3"].axes) == 6
    labels = [text.get_text() for text in drawn["linear_model_c2"].axes[2].get_legend().get_texts()]
    assert labels[0].startswith("SP: \u22121.0")
    assert labels[0].endswith("published \u22121")
    assert "published" not in labels[2]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--widths", "64"], "different whole numbers from 2 to 4194304"),
        (["--widths", "64,64"], "different whole numbers from 2 to 4194304"),
        (["--widths", "64,x"], "different whole numbers from 2 to 4194304"),
        (["--widths", "-64,128"], "different whole numbers from 2 to 4194304"),
        (["--params", "sp,nope"], "no parameterization 'nope' of SGD"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--widths", "64,99999999999"], "different whole numbers from 2"),
        (["--steps", "1", "--widths", "64,128", "--seeds", "1"], "--steps 1: not every width diverges so soon"),
        (["--steps", "-1"], "--steps must be at least 1"),
        (["--nope"], "--nope"),
    ],
)
def test_wrong_requests_get_one_line(monkeypatch, capsys, argv, words):
    code, said = run(monkeypatch, capsys, *argv)
    assert code == 2
    assert words in said.err
    assert said.err.count("\n") == 1


def test_the_committed_result_is_what_the_script_says_today():
    committed = pd.read_csv("analysis/results/linear_model.csv", comment="#")
    found = committed[committed["quantity"] == "max_stable_exponent"].set_index(["param", "update"])["value"]
    for param, exponent in (("sp", -1), ("ntp", 0), ("mup", 0)):
        assert found[param, "simultaneous"] == pytest.approx(exponent, abs=0.01)
