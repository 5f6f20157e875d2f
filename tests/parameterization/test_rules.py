"""The table of parameterizations against design.md's table, written out again by hand."""

import math
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.parameterization import rules
from pipeline.parameterization.rules import ROLES, TABLE, Width
from pipeline.parameterization.table_text import rules_markdown

H = Fraction(1, 2)
# name: (b of input, hidden, output), (c under SGD), (c under Adam) of input, vector, hidden, output
DESIGN = {
    "sp": ((0, H, H), (0, 0, 0, 0), (0, 0, 0, 0)),
    "ntp": ((0, H, H), (0, 0, 1, 1), (0, 0, H, H)),
    "mup": ((0, H, 1), (-1, -1, 0, 1), (0, 0, 1, 1)),
    "sp_full_align": ((0, H, H), (-H, -H, H, 1), (0, 0, 1, 1)),
    "musoli": ((0, H, H), (-H, -H, H, H), (0, 0, 1, H)),
}


@pytest.mark.parametrize("name", DESIGN)
@pytest.mark.parametrize("m", [1, 4, 64])
def test_factors_are_powers_of_the_width_ratio(name: str, m: int) -> None:
    init, sgd, adam = DESIGN[name]
    p, width = rules.get(name), Width(256 * m, 256, 50304)
    for role, b in zip(("input", "hidden", "output"), init, strict=True):
        assert p.init_factor(role, width) == pytest.approx(m ** -float(b))
    for family, exponents in (("sgd", sgd), ("adam", adam)):
        for role, c in zip(("input", "vector", "hidden", "output"), exponents, strict=True):
            assert p.lr_factor(role, family, width) == pytest.approx(m ** -float(c))
        assert p.lr_factor("finite", family, width) == 1


def test_sp_transition_follows_its_readout_std() -> None:
    def s(n: int) -> float:
        return 1 / (n / math.sqrt(100) + math.sqrt(n))

    p, width, m = rules.get("sp_transition"), Width(1024, 256, 100), 4
    r = s(256) / s(1024)
    assert p.init_factor("output", width) == pytest.approx(s(1024) / s(256))
    assert p.lr_factor("input", "sgd", width) == pytest.approx(r)
    assert p.lr_factor("vector", "sgd", width) == pytest.approx(r)
    assert p.lr_factor("hidden", "sgd", width) == pytest.approx(r / m)
    assert p.lr_factor("output", "sgd", width) == pytest.approx(1 / m)


@pytest.mark.parametrize("name", TABLE)
def test_all_coincide_at_the_base_width(name: str) -> None:
    p, width = TABLE[name], Width(128, 128, 2048)
    for role in ROLES:
        assert p.init_factor(role, width, "neox") == p.init_factor(role, width, "constant") == 1
        for family, rates in p.lr.items():
            assert role not in rates or p.lr_factor(role, family, width) == 1


def test_neox_embedding_shrinks_under_sp_only() -> None:
    width = Width(1024, 256, 50304)
    shrinking = {name for name, p in TABLE.items() if p.init_factor("input", width, "neox") != 1}
    assert shrinking == {"sp", "sp_embedding"}
    assert TABLE["sp"].init_factor("input", width, "neox") == 0.5
    assert TABLE["sp"].init_factor("input", width, "constant") == 1


def test_the_documented_table_is_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "parameterizations.md").read_text()
    assert page.split("<!-- rules -->\n")[1].split("<!-- /rules -->")[0] == rules_markdown()


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'musoli'"):
        rules.get("musolli")
