"""The learning rates of GPT-3's models: the law through them beside plain least squares, and the figure."""

import re

import numpy as np
import pytest

from analysis import figure, gpt3
from pipeline.analysis.published import read


def test_the_law_through_them_is_that_of_least_squares(tmp_path, capsys):
    rows = read("gpt3")
    width, lr = (np.array([float(row[name]) for row in rows]) for name in ("width", "lr"))
    assert gpt3.law(rows).exponent.median == pytest.approx(np.polyfit(np.log(width), np.log(lr), 1)[0], abs=0.02)
    assert gpt3.main(["--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    exponent, low, high = re.findall(r"-\d\.\d\d\b", out)[:3]
    assert f"{exponent} ({low} to {high})" in figure.find("F.9").note
    assert "published -0.648, inside" in out
    assert (tmp_path / "gpt3.png").stat().st_size > 10_000


def test_rates_on_one_power_law_give_it_back():
    rows = [{"width": f"{n}", "lr": f"{6e-4 * (n / 256) ** -0.5:.8f}"} for n in (256, 512, 1024, 2048, 4096)]
    exponent = gpt3.law(rows).exponent
    assert exponent.median == pytest.approx(-0.5, abs=0.01)
    low, high = exponent.interval()
    assert low < -0.5 < high


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert gpt3.main(["--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
