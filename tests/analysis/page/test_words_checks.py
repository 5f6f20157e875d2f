"""Exponents of what runs recorded, beside predicted and published ones."""

import dataclasses
import re
from fractions import Fraction

import pytest

from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.page.words_checks import checked
from pipeline.analysis.study.load import load_study
from tests.support.synthetic_coordinates import MLP, WIDTHS, write_coordinates


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """An SGD ladder at a constant learning rate whose input layer's effective updates go like n^-1/2."""
    folder = tmp_path_factory.mktemp("checks") / "study"
    exponents = {("effective", "layers.0.weight"): -0.5, ("effective", ""): 0.5, ("propagating", ""): 0.0}
    write_coordinates(folder, MLP, exponents, widths=WIDTHS, seeds=(0, 1), ask=False)
    study = load_study([folder])
    (found,) = ladders(study, recorded(study))
    return found


def rows(lines, layer):
    return [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip().startswith(layer)]


def test_measured_predicted_and_published_stand_in_one_row(ladder):
    lines = checked(ladder, ("effective", "propagating"), "Figure E.2")
    ((_, title, measured, between, predicted, said), *_) = rows(lines, "input")
    assert (title, measured, predicted) == ("effective updates", "-0.51", "-1/2")
    low, high = map(float, between.split(" to "))
    assert low <= -0.5 <= high
    assert said == "0.00 (predicted); -0.50 (measured)"
    assert rows(lines, "readout")[0][-1] == "1"  # predicted; nothing published
    assert all("1.00 (predicted); 0.50 (measured)" in row for row in rows(lines, "hidden")[:1])


@pytest.mark.parametrize(
    "other", [{"item": ""}, {"item": "Figure E.1"}, {"item": "Figure E.3"}, {"item": "Figure 2"}, {"param": "mup"}]
)
def test_published_is_only_what_was_measured_so(ladder, other):
    """Under another learning-rate rule, from a zero readout, of a GPT, or in another parameterization."""
    asked = dataclasses.replace(ladder, param=other.get("param", "sp"))
    lines = checked(asked, ("effective",), other.get("item", "Figure E.2"))
    assert lines
    assert "(" not in "".join(lines[1:])


def test_the_rule_counts(ladder):
    half = dataclasses.replace(ladder, lr_exponent=Fraction(-1, 2))
    assert rows(checked(half, ("effective",), "Figure E.1"), "input")[0][-1] == "-1.00 (predicted)"


def test_what_nobody_recorded_has_no_table(ladder):
    assert checked(ladder, ("sharpness",), "Figure E.2") == []
