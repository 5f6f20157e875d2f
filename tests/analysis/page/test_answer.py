"""The first screen against `predict`, and what it says where nothing is known."""

import math

import pytest

from pipeline.analysis.fit.predict import predict
from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import words
from pipeline.analysis.page.answer import answer, short_names
from pipeline.analysis.page.verdicts import limits, verdicts
from tests.support.synthetic_study import valley, write_study


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answer") / "s"
    return fit([write_study(folder, valley(-0.5), params=("sp", "mup"), seeds=(0, 1))])


def test_every_row_is_predicts(fitted):
    for group in fitted.groups:
        found = answer(fitted, group)
        assert [(row.width, row.times) for row in found.rows] == [
            (64, 1), (128, 1), (256, 1), (512, 2), (1024, 4), (2048, 8),
        ]  # fmt: skip
        for row in found.rows:
            one = predict(group, row.width, 0.95)
            assert one.recommended.lr is not None
            assert float(row.lr) == pytest.approx(one.recommended.lr, rel=0.06)
            assert [float(end) for end in row.best.split(" to ")] == pytest.approx(
                [one.optimal.low, one.optimal.high], rel=0.06
            )
            assert row.cost == words.cost(one.recommended.price.at_most)
            assert float(row.stable) == pytest.approx(one.safe, rel=0.06)
        # 7 learning rates, 2 seeds; at none of these widths, but the base one (256), others' runs count as well
        assert [row.runs for row in found.rows] == [14, 14, 14, 0, 0, 0]


def test_the_sentence_says_the_rule_and_the_widest_width(fitted):
    found = answer(fitted, fitted.groups[0])
    assert found.headline == "Under SP with AdamW, divide the rate by 1.4 with every doubling of the width"
    at = {row.width: row for row in found.rows}
    one = predict(fitted.groups[0], 1024, 0.95)
    factor = math.sqrt(one.optimal.high / one.optimal.low)
    assert found.detail == (
        f"{at[256].lr} at 256 and a predicted {at[1024].lr} at 1024, give or take a factor of {factor:.2g}"
    )
    assert found.theory.startswith("It agrees with theory, whose exponent is \u22121/2")
    assert any("8 times the widest" in doubt for doubt in found.doubts)


@pytest.mark.parametrize(
    ("exponent", "rule"),
    [(0.0, "keep almost the same rate at every width"), (0.5, "multiply the rate by 1.4")],
)
def test_rules_for_other_exponents(tmp_path, exponent, rule):
    fitted = fit([write_study(tmp_path, valley(exponent), widths=(64, 256))])
    assert rule in answer(fitted, fitted.groups[0]).headline


def test_without_a_valley_nothing_is_made_up(tmp_path):
    fitted = fit([write_study(tmp_path, lambda config: 5.0 + 0.01 * config.seed, seeds=(0, 1))])
    found = answer(fitted, fitted.groups[0])
    assert "no best rate" in found.headline
    assert found.detail == "tried were 1e-3 to 6.4e-2"
    assert {row.cost for row in found.rows} == {"unknown"}
    assert {row.lr for row in found.beyond} == {"unknown"}
    assert [row.stable for row in found.trained] == ["at least 6.4e-2"] * 3
    assert {row.stable for row in found.beyond} == {"unknown"}


def test_where_nothing_trains_only_bounds_are_left(tmp_path):
    fitted = fit([write_study(tmp_path, lambda config: math.nan, lrs=(4e-3, 8e-3))])
    found = answer(fitted, fitted.groups[0])
    assert "no learning rate trained stably at any width" in found.headline
    assert [row.lr for row in found.trained] == [row.stable for row in found.trained] == ["below 4e-3"] * 3


def test_the_published_practice_has_rates_and_no_price(fitted):
    again = fit(list(fitted.study.dirs), estimator="paper")
    found = answer(again, again.groups[0])
    assert [row.lr for row in found.rows] == [
        words.rate(predict(again.groups[0], row.width, 0.95).optimal.value) for row in found.rows
    ]
    assert {row.cost for row in found.rows} == {"unknown"}
    assert {row.best for row in found.rows} == {"no interval"}


def test_an_exponent_stands_beside_theory_with_what_limits_it(fitted, tmp_path):
    optimal, edge = verdicts(fitted, fitted.groups[0])
    law = fitted.groups[0].optimal
    assert (optimal.low, optimal.value, optimal.high) == (law.ci_low, law.exponent, law.ci_high)
    assert optimal.theory == "\u22121/2 (observed)"
    assert optimal.says.startswith("agrees")
    assert edge.name == "max-stable rate"
    # 60 steps of 8 x 64 tokens at 12 * 256^2 parameters
    assert limits(fitted, fitted.groups[0]) == ["3 widths", "60 steps", "0.039 tokens per parameter"]
    alone = fit([write_study(tmp_path, valley(-0.5), widths=(64, 128))])
    assert limits(alone, alone.groups[0])[:2] == ["one seed", "2 widths"]


def test_names_are_as_short_as_they_can_be(fitted):
    assert short_names(fitted) == ["SP", "\u03bcP"]


def test_rates_are_written_as_one_types_them():
    values = {
        8.64e-4: "8.6e-4",
        1e-3: "1e-3",
        0.4949: "0.49",
        0.0949: "9.5e-2",
        16.4: "16",
        3.0: "3",
        320: "320",
        1e4: "1e4",
        math.nan: "\u2013",
    }
    assert {value: words.rate(value) for value in values} == values
    assert all(float(words.rate(v)) == pytest.approx(v, rel=0.06) for v in values if not math.isnan(v))
