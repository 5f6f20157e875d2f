"""The table of `rules` in words: the factors in m and r, and the whole table in Markdown for the README."""

from fractions import Fraction
from typing import get_args

from pipeline.parameterization.rules import TABLE, Factor, Family, Parameterization, Role

INIT_ROLES: tuple[Role, ...] = ("input", "hidden", "output")
LR_ROLES: tuple[Role, ...] = ("input", "vector", "hidden", "output")


def rules_markdown() -> str:
    """The table of `rules`: initial std and learning rate over their values at the base width, per role, in
    Markdown."""
    families: tuple[Family, ...] = get_args(Family)
    header = [
        "parameterization",
        *(f"init {role}" for role in INIT_ROLES),
        *(f"{'SGD' if family == 'sgd' else 'Adam'} lr {role}" for family in families for role in LR_ROLES),
    ]
    rows = [header, ["---"] * len(header)]
    for p in TABLE.values():
        lrs = (p.lr[family][role] for family in families for role in LR_ROLES)
        rows.append([f"`{p.name}`", *init_cells(p), *map(factor_text, lrs)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *LEGEND]) + "\n"


def init_cells(p: Parameterization) -> list[str]:
    cells = [factor_text(p.init[role]) for role in INIT_ROLES]
    if p.neox_embedding != p.init["input"]:
        cells[0] += f" (neox: {factor_text(p.neox_embedding)})"
    return cells


LEGEND = (
    "m = n / n_base. r = s(n_base) / s(n) with s(n) = 1 / (n / sqrt(d_out) + sqrt(n)). neox: under `embedding_init: "
    "neox`.",
    "Norm gains start at 1 and biases at 0. Tensors of which no dimension grows with n have factor 1 throughout.",
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
