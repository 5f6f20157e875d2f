"""The table of claims: in step with `analysis/results`, its published numbers the paper's, and a reason where we
disagree; and the measured table of what coordinate checks recorded."""

import csv
import re
import shutil

import pytest

from analysis import claims, measured
from pipeline.analysis.published import checks, exponents
from pipeline.errors import RequestError
from tests.support.synthetic_coordinates import MLP, write_coordinates

FOUND = claims.claims()
QUANTITIES = {
    "optimal": "optimal",
    "max_stable": "max_stable",
    "finite": "max_stable",
    "max_stable_exponent": "max_stable",
}


def test_the_readme_has_the_table():
    text = (claims.HERE / "README.md").read_text()
    assert claims.readme(text) == text, "python analysis/claims.py"
    assert len(FOUND) >= 24


def test_every_published_number_is_one_of_its_figures():
    content = claims.parse_recipe((claims.HERE / "claims.yaml").read_bytes())
    for one, entry in zip(FOUND, content["claims"], strict=True):
        item = one.figure if one.figure.startswith("Table") else f"Figure {one.figure}"
        quantity = re.split(r"\s*\|\s*", entry["at"])[2]
        if quantity in QUANTITIES:
            known = [row.exponent for row in exponents(item=item, quantity=QUANTITIES[quantity])]
        else:
            kind = re.sub(r"(alignment)( after step \d+)? of .*|(effective|propagating) update of .*",
                          lambda text: f"{text[1]}_effective{text[2] or ''}" if text[1] else text[3], quantity)  # fmt: skip
            known = [float(row["exponent"]) for row in checks(item) if row["quantity"] == kind]
        assert one.published in known, one


def test_verdicts():
    def said(low, high, published, of_updates=False):
        return claims.Claim("", "", published, "", "", (low + high) / 2, low, high, "", "", of_updates).verdict

    assert [said(-0.7, -0.3, -0.5), said(-1.2, 0.2, -0.5), said(-0.4, 0.0, -0.5)] == ["agrees", "compatible", "no"]
    assert [said(-0.42, 0.0, -0.5, True), said(-0.38, 0.0, -0.5, True)] == ["near", "no"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("published: 0\n    at: linear_model | ntp", "published: -1\n    at: linear_model | ntp", "measured otherwise, and no why"),
        ("linear_model | sp | max_stable_exponent", "linear_model | sp | optimal", "not one exponent in results/linear_model.csv"),
    ],
)  # fmt: skip
def test_what_the_file_says_wrong_is_one_line(before, after, said, tmp_path, monkeypatch):
    shutil.copytree(claims.HERE / "results", tmp_path / "results")
    text = (claims.HERE / "claims.yaml").read_text()
    assert before in text
    (tmp_path / "claims.yaml").write_text(text.replace(before, after))
    monkeypatch.setattr(claims, "HERE", tmp_path)
    with pytest.raises(RequestError, match=said) as error:
        claims.claims()
    assert "\n" not in str(error.value)


def test_what_coordinate_checks_recorded_is_measured(tmp_path, capsys):
    write_coordinates(tmp_path / "a", MLP, {("effective", ""): 0.5, ("propagating", ""): -1.0}, widths=(64, 128, 256))
    assert measured.main([str(tmp_path / "a"), "--inside", "--out", str(tmp_path / "x.csv")]) == 0
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0].startswith("# python analysis/measured.py ")
    rows = list(csv.DictReader(lines[2:]))
    slopes = {row["quantity"]: float(row["exponent"]) for row in rows}
    assert slopes["effective update of readout"] == pytest.approx(0.5, abs=0.05)
    assert slopes["propagating update of readout"] == pytest.approx(-1, abs=0.05)
    assert {row["widths"] for row in rows} == {"3"}
    assert {float(row["ci_low"]) <= float(row["exponent"]) <= float(row["ci_high"]) for row in rows} == {True}
