"""The atlas: exponents of many people's tables beside the rules that are quoted."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import atlas
from pipeline.analysis.page import figures_atlas
from pipeline.analysis.page.figures_atlas import Row
from pipeline.analysis.study.axis import AXES


def family(exponent: float, column: str, levels: tuple[int, ...] = (64, 128, 256), **said: object) -> pd.DataFrame:
    rows = [
        {**said, column: level, "lr": 2.0**k, "loss": 3 + 0.1 * (k + 6 - exponent * math.log2(level / 64)) ** 2}
        for level in levels
        for k in range(-12, 0)
    ]
    noise = np.random.default_rng(0).normal(0, 1e-3, len(rows))
    return pd.DataFrame(rows).assign(loss=lambda frame: frame["loss"] + noise)


def test_every_study_of_every_table_has_its_exponent(tmp_path, capsys):
    many = [
        family(-0.5, "n", study="a", axis="n", param="sp", optimizer="SGD"),
        family(0.5, "B", study="b", axis="B", param="sp", optimizer="AdamW"),
        family(-1.0, "n", study="c", axis="ladder", param="mup", optimizer="AdamW"),
        family(-1.0, "n", study="d", axis="n", levels=(64,)),
    ]
    pd.concat(many).to_csv(tmp_path / "many.csv", index=False)
    family(0.25, "d_model").to_parquet(tmp_path / "one.parquet")
    out = tmp_path / "new" / "folder"
    assert atlas.main(["--from", str(tmp_path), "--along", "ladder=n", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.count("left out") == said.err.count("\n") == 1
    assert "many.csv: d: left out" in said.err
    found = pd.read_csv(out / "atlas.csv").query("quantity == 'optimal'").set_index(["source", "axis"])
    wanted = {("many", "width"): -0.5, ("many", "batch"): 0.5, ("many", "ladder"): -1.0, ("one", "width"): 0.25}
    assert set(found.index) == set(wanted)
    for key, exponent in wanted.items():
        assert found.loc[key, "exponent"] == pytest.approx(exponent, abs=0.05)
        assert found.loc[key, "ci_low"] < exponent < found.loc[key, "ci_high"]
    assert (out / "atlas.png").stat().st_size > 10_000


def test_a_wrong_request_is_one_line(capsys):
    assert atlas.main(["--from", ".", "--form", "tables"]) == 2
    assert capsys.readouterr().err == "--form: unknown key form, did you mean from?\n"
    assert atlas.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_rule_stands_only_where_a_study_of_its_kind_does():
    row = Row("s", "", "width", "sp", "SGD", "optimal", 3, 64, 256, 36, -0.5, -0.6, -0.4)
    rules = atlas.rules()
    assert {rule.axis for rule in rules} <= set(AXES)
    texts = [text.get_text() for text in figures_atlas.atlas([row], rules).axes[0].texts]
    assert texts == ["muP's rate of hidden weights (-1)", "controlled divergence (-0.5)"]


@pytest.mark.parametrize(("given", "message"), [
    (["--from", "nowhere"], "nowhere: no such folder"),
    (["--from", "."], ".: no tables"),
    (["--from", ".", "--along", "ladder"], "--along ladder: expected AXIS=COLUMN"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    assert atlas.main(given) == 2
    assert capsys.readouterr().err.startswith(message)
