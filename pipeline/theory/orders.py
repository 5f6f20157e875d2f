"""Orders of magnitude in width n, with the arithmetic of sums and products. Exact: exponents are fractions."""

from dataclasses import dataclass
from fractions import Fraction

from pipeline.parameterization.rules import HALF


@dataclass(frozen=True, slots=True)
class Theta:
    """A quantity of order n^exponent; exponent None: it is exactly zero."""

    exponent: Fraction | None

    def __mul__(self, other: "Theta") -> "Theta":
        if self.exponent is None or other.exponent is None:
            return ZERO
        return Theta(self.exponent + other.exponent)

    def __truediv__(self, other: "Theta") -> "Theta":
        assert other.exponent is not None, "division by an exact zero"
        return self * Theta(-other.exponent)

    def __add__(self, other: "Theta") -> "Theta":
        if self.exponent is None:
            return other
        return self if other.exponent is None or self.exponent >= other.exponent else other

    @property
    def diverges(self) -> bool:
        """It grows with width."""
        return self.exponent is not None and self.exponent > 0

    @property
    def vanishes(self) -> bool:
        """It shrinks with width, or is zero at every width."""
        return self.exponent is None or self.exponent < 0


def power(exponent: int | Fraction) -> Theta:
    """Θ(n^exponent)."""
    return Theta(Fraction(exponent))


ZERO, ONE, ROOT_N, N = Theta(None), power(0), power(HALF), power(1)


@dataclass(frozen=True, slots=True)
class Change:
    """A change since initialization, `total`, and the part of it, `along`, that descends from the initial readout W_0.

    A gradient step moves the last activations along the readout's weight as it is then. Only what moved along W_0 meets
    W_0 again as a sum of n correlated terms (q = 1); once ΔW outgrows W_0 in the readout, further changes go along ΔW.
    """

    total: Theta
    along: Theta

    def __mul__(self, scale: Theta) -> "Change":
        return Change(self.total * scale, self.along * scale)

    def __truediv__(self, scale: Theta) -> "Change":
        return Change(self.total / scale, self.along / scale)

    def __add__(self, other: "Change") -> "Change":
        return Change(self.total + other.total, self.along + other.along)


NONE = Change(ZERO, ZERO)
