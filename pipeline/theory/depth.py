"""What a depth rule predicts: exponents of L, the number of residual blocks, at fixed width.

A block adds W_end f(W x) to the stream, where x is normalized and W_end starts like L^-a. At first the blocks' terms
are independent of each other, and their sum counts L^1/2; their changes go all along the gradient, and their sum counts
L. Under the rules each is then of order 1 (Yang et al. 2023b; Dey et al. 2025 for a = 1, where the updates inside
branches are of order 1 too, and not L^-1/2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization.depth import DEPTH_RULES
from pipeline.parameterization.rules import HALF
from pipeline.theory.predict import Status


@dataclass(frozen=True)
class DepthExponents:
    """Each like L^e, with base rates and widths fixed."""

    stream: Fraction
    """|h_L|_RMS at initialization."""
    inside: Fraction
    """|dW x|_RMS of what stands inside branches."""
    end: Fraction
    """|dW x|_RMS of the matrices that end them."""
    change: Fraction
    """|dh_L|_RMS, the change of the stream after the last block."""
    trunk: Fraction
    """|dW x|_RMS outside of branches."""
    lr: Fraction
    """The largest stable and the best learning rate."""
    status: Mapping[str, Status]
    """Of every one of these."""


def depth_exponents(optimizer: str, rule: str) -> DepthExponents:
    """Under a rule (`--depth_scaling`), none included. Raises `ValueError` where nothing is predicted."""
    entry, zero = OPTIMIZERS[optimizer], Fraction(0)
    if rule not in DEPTH_RULES:
        if "sgd" in entry.families("spectral").values():
            raise ValueError(
                f"depth is not predicted for {optimizer} without a rule: its gradients depend on the stream"
            )
        return _claimed(HALF, zero, zero, Fraction(1), -HALF, "conjectured")
    a = DEPTH_RULES[rule].a
    families = set(entry.families("spectral").values())
    # SGD's gradient inside a branch comes through its end: L^-a
    insides = {DEPTH_RULES[rule].lr("branch", family) - (a if family == "sgd" else 0) for family in families}
    (inside,) = insides
    return _claimed(max(zero, HALF - a), inside, Fraction(-1), zero, zero, "derived")


def _claimed(
    stream: Fraction, inside: Fraction, end: Fraction, change: Fraction, lr: Fraction, of_lr: Status
) -> DepthExponents:
    derived: dict[str, Status] = dict.fromkeys(("stream", "inside", "end", "change", "trunk"), "derived")
    return DepthExponents(stream, inside, end, change, Fraction(0), lr, derived | {"lr": of_lr})


WORDS = {
    "stream": "residual stream at first",
    "inside": "effective updates inside branches",
    "end": "effective updates of branches' ends",
    "change": "change of the stream",
    "trunk": "effective updates elsewhere",
    "lr": "best and max-stable lr",
}


def depth_rows(optimizer: str, rule: str) -> list[tuple[str, str, str]]:
    """What, its power of L, and its status: cells of a table. Raises `ValueError` as `depth_exponents`."""
    found = depth_exponents(optimizer, rule)
    return [(words, f"L^{getattr(found, name)}", f"[{found.status[name]}]") for name, words in WORDS.items()]
