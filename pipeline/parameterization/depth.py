"""The table of depth rules: how residual branches scale with l = L / L_base, the number of blocks over the base depth.

Branches shrink like l^-a. Without multipliers in the forward pass that is a factor l^-a on the initial std of the
matrix that ends a branch. The contributions of all branches to the residual stream add up, so that each of their
updates must shrink like l^-1, whatever a: that of the end's own matrix at once, those inside through the end, which is
l^-a already. SGD's gradient inside a branch is l^-a, too, which Adam and Muon normalize away. Adam's epsilon follows
its gradient: inside a branch l^-a, at its end 1, where the multiplier that was folded in has divided it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pipeline.parameterization.rules import HALF, Family

Place = Literal["trunk", "branch", "branch_end"]
"""Where a tensor stands with respect to residual branches: outside, inside, or in the matrix that ends one."""


@dataclass(frozen=True)
class DepthRule:
    """A depth rule by its `--depth_scaling` name. Exponents are those of l."""

    name: str
    a: Fraction
    """Branches go like l^-a."""
    scales_eps: bool

    def init(self, place: Place) -> Fraction:
        """Of the initial std."""
        return -self.a if place == "branch_end" else Fraction(0)

    def lr(self, place: Place, family: Family) -> Fraction:
        """Of the learning rate."""
        inside = 2 * self.a - 1 if family == "sgd" else self.a - 1
        return {"trunk": Fraction(0), "branch": inside, "branch_end": Fraction(-1)}[place]

    def eps(self, place: Place) -> Fraction:
        """Of Adam's epsilon."""
        return -self.a if self.scales_eps and place == "branch" else Fraction(0)


DEPTH_RULES: Mapping[str, DepthRule] = {
    rule.name: rule
    for rule in (
        DepthRule("sqrt", HALF, scales_eps=False),  # Yang et al. 2023b, Noci et al. 2024
        DepthRule("completep", Fraction(1), scales_eps=True),  # Dey et al. 2025, Table 1
    )
}
