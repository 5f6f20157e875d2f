"""The table of `rules` in words: the factors in m and r, and the whole table in Markdown for the README."""

from fractions import Fraction

from pipeline.parameterization.rules import TABLE, Factor, Family, Parameterization, Role

INIT_ROLES: tuple[Role, ...] = ("input", "hidden", "output")
LR_ROLES: tuple[Role, ...] = ("input", "vector", "hidden", "output")
FAMILIES: dict[Family, str] = {"sgd": "SGD", "adam": "Adam"}
"""Families that train every role, as they are called."""
NO_RULE = "-"


def rules_markdown() -> str:
    """The table of `rules`: initial std and learning rate over their values at the base width, per role, in
    Markdown."""
    header = [
        "parameterization",
        *(f"init {role}" for role in INIT_ROLES),
        *(f"{name} lr {role}" for name in FAMILIES.values() for role in LR_ROLES),
        "Muon lr hidden",
    ]
    rows = [header, ["---"] * len(header)]
    for p in TABLE.values():
        lrs = (cell for family in FAMILIES for cell in lr_cells(p, family))
        rows.append([f"`{p.name}`", *init_cells(p), *lrs, muon_cell(p)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *LEGEND]) + "\n"


def init_cells(p: Parameterization) -> list[str]:
    cells = [factor_text(p.init[role]) for role in INIT_ROLES]
    if p.neox_embedding != p.init["input"]:
        cells[0] += f" (neox: {factor_text(p.neox_embedding)})"
    return cells


def lr_cells(p: Parameterization, family: Family) -> list[str]:
    """The factors of `LR_ROLES`."""
    factors = p.lr.get(family, {})
    return [factor_text(factors[role]) if role in factors else NO_RULE for role in LR_ROLES]


def muon_cell(p: Parameterization) -> str:
    """The factor of hidden matrices under Muon, and under its match_rms where that is another."""
    if "muon" not in p.lr:
        return NO_RULE
    by_shape, by_size = (factor_text(p.lr[family]["hidden"]) for family in ("muon", "muon_rms"))
    return by_shape if by_shape == by_size else f"{by_shape} (match_rms: {by_size})"


LEGEND = (
    "m = n / n_base. r = s(n_base) / s(n) with s(n) = 1 / (n / sqrt(d_out) + sqrt(n)). neox: under `embedding_init: "
    "neox`.",
    "Norm gains start at 1 and biases at 0. Tensors of which no dimension grows with n have factor 1 throughout. -: no "
    "rule.",
    "Beside Muon, the other roles have the factors of AdamW or SGD.",
)


def factor_text(factor: Factor) -> str:
    """The factor in m and r: `m^-1/2`, `1/m`, `r/m`, `1`."""
    above: list[str] = []
    below: list[str] = []
    for name, power in (("r", Fraction(factor.r_exponent)), ("m", -factor.exponent)):
        if power.denominator != 1:
            above.append(f"{name}^{power}")
        elif power:
            (above if power > 0 else below).append(name if abs(power) == 1 else f"{name}^{abs(power)}")
    numerator = " ".join(above) or "1"
    if not below:
        return numerator
    return f"{numerator}/{below[0]}" if len(below) == 1 else f"{numerator}/({' '.join(below)})"
