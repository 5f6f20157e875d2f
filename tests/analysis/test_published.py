"""The published numbers: every table parses, every row has its source, none stands twice; and how they are asked for."""

import csv
import math
from fractions import Fraction

import numpy as np
import pytest

from pipeline.analysis import published
from pipeline.entries.losses import LOSSES
from pipeline.errors import RequestError
from pipeline.parameterization.rules import TABLE
from pipeline.recipes import shipped_folder

TABLES = sorted(path.stem for path in shipped_folder(published.FOLDER).iterdir())


def test_every_table_is_known():
    assert TABLES == ["constants", "coordinate_checks", "figures", "gpt3", "learning_rates", "table_c1", "table_f1"]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_whole_has_a_source_and_stands_once(name):
    rows = published.read(name)
    for row in rows:
        assert None not in row, row
        assert None not in row.values(), row
        assert row["source"].startswith(
            ("Haas et al. 2025, ", "plotting scripts of Haas", "code of Haas", "Brown et al. 2020, ")
        ), row
        assert all(value == value.strip() for value in row.values())
    apart = [
        tuple(value for key, value in row.items() if key not in ("exponent", "lr", "value", "stated")) for row in rows
    ]
    assert len(set(apart)) == len(apart)
    text = (shipped_folder(published.FOLDER) / f"{name}.csv").read_text()
    assert text.isascii()
    assert len(list(csv.reader(text.splitlines()))) == len(rows) + 1


def test_exponents_are_typed_and_of_known_names():
    found = published.exponents()
    assert len(found) > 120
    values = {
        "model": {"gpt", "mlp"}, "param": set(TABLE), "optimizer": {"sgd", "adam"}, "activation": {"relu", "linear"},
        "loss": {*LOSSES, "mse of normalized logits"}, "train": {"all", "readout", "no_input"},
        "norms": {"trained", "fixed", "no qk-norm"},
    }  # fmt: skip
    for one in found:
        assert -2 <= one.exponent <= 0.25
        assert one.quantity in ("optimal", "max_stable")
        for name, allowed in values.items():
            assert set(one.facts.get(name, ())) <= allowed, one


def test_table_f1_as_printed():
    found = published.exponents(item="Table F.1")
    assert len(found) == 28  # two cells are empty
    asked = published.exponents(item="Table F.1", quantity="max_stable", dataset="dclm")
    assert [one.exponent for one in asked] == [-0.38, -0.5, 0.09]
    assert [one.exponent for one in asked if "softmax_mse" in one.facts["loss"]] == [-0.5]


@pytest.mark.parametrize(
    ("asked", "exponents"),
    [
        ({"setting": "2-layer mlp", "item": "Figure F.15"}, [0, -1]),
        ({"setting": "random features", "quantity": "optimal", "dataset": "mnist"}, [-0.5]),
        ({"item": "Figure C.2"}, [-1, 0, 0]),
        ({"item": "Figure F.9"}, [-0.648]),
        ({"dataset": "no such data"}, []),
    ],
)
def test_exponents_are_asked_for_by_setting_quantity_data_and_item(asked, exponents):
    assert [one.exponent for one in published.exponents(**asked)] == exponents


def test_a_setting_holds_for_what_it_covers():
    (one,) = published.exponents(item="Figure F.30", setting="fixed input layer")
    facts = {"model": "mlp", "depth": "3", "activation": "relu", "param": "sp", "optimizer": "adam",
             "loss": "cross_entropy", "train": "no_input", "norms": "trained", "data": "cifar10"}  # fmt: skip
    assert one.holds_for(facts)
    for name in one.facts:
        assert not one.holds_for(facts | {name: "another"})
        assert one.holds_for(facts | {name: "another"}, but=[name])
    assert not one.holds_for({})


@pytest.mark.parametrize(
    ("text", "item"),
    [("Fig 5", "Figure 5"), ("5", "Figure 5"), ("figure F.14", "Figure F.14"), ("fig. f14", "Figure F.14"),
     ("Table F.1", "Table F.1"), ("Figure F.1", "Figure F.1"), ("section F.6", "section F.6")],
)  # fmt: skip
def test_items_are_found_as_people_write_them(text, item):
    assert published.item_of(text) == item
    assert published.exponents(item=item)


@pytest.mark.parametrize("text", ["Fig 99", "Table 5", "nonsense", ""])
def test_other_items_are_refused_with_the_known_ones(text):
    with pytest.raises(RequestError, match=r"no exponents were published under .*Figure 5"):
        published.item_of(text)


def test_no_such_table():
    with pytest.raises(RequestError, match="no such table"):
        published.read("table_z9")


def test_learning_rates_of_the_gpts_have_the_exponents_that_the_paper_states():
    found = published.learning_rates()
    slopes = {}
    for key in {(one.optimizer, one.grad_clip, one.quantity) for one in found}:
        points = [(one.width, one.lr) for one in found if (one.optimizer, one.grad_clip, one.quantity) == key]
        assert [width for width, _ in points] == [256, 1024, 4096]
        n, lr = np.log(np.array(points)).T
        slopes[key] = np.polyfit(n, lr, 1)[0]
    assert slopes["sgd", 1.0, "optimal"] == pytest.approx(-0.38, abs=0.005)  # Table F.1
    assert slopes["sgd", 10_000, "optimal"] == pytest.approx(-0.5, abs=0.01)
    assert all(-0.65 < slope < -0.35 for slope in slopes.values())
    stable = {(one.optimizer, one.grad_clip, one.width): one.lr for one in found if one.quantity == "min_unstable"}
    assert all(one.lr < stable[one.optimizer, one.grad_clip, one.width] for one in found if one.quantity == "optimal")


def test_table_c1_without_multipliers_is_the_tables():
    for row in published.read("table_c1"):
        if row["version"] != "multiplier_free" or row["quantity"] == "multiplier":
            continue
        factors = TABLE[row["param"]].init if row["quantity"] == "init" else TABLE[row["param"]].lr["sgd"]
        for role in ("input", "hidden", "output"):
            assert -factors[role].exponent == (0 if row[role] == "-c" else Fraction(row[role]))


def test_constants_are_asked_for_by_topic():
    gpt = published.constants("gpt training")
    assert (gpt["steps"], gpt["warmup_steps"], gpt["batch"]) == ("10681", "700", "256")
    assert math.isclose(float(gpt["steps"]) * float(gpt["batch"]) * float(gpt["seq_len"]), 1.4e9, rel_tol=1e-3)
    assert published.constants("no such topic") == {}
