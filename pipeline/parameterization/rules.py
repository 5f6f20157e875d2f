"""The one table of width parameterizations.

Multiplier-free form (Haas et al. 2025, Table C.1 right): with n the width, n_base the base width and m = n / n_base, a
tensor of a given role is initialized with ``base std * factor`` and trained with ``base lr * factor``, where every
factor is 1 at the base width, so that all parameterizations coincide there. A new parameterization is one entry in
`TABLE`.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

Role = Literal["input", "vector", "hidden", "output", "finite"]
Family = Literal["sgd", "adam", "muon", "muon_rms"]
"""Optimizers by how their updates scale. muon, muon_rms: of hidden matrices alone, orthogonalized updates whose size is
that of the matrix's own shape, or that of AdamW's (`pipeline.muon`)."""
EmbeddingInit = Literal["neox", "constant", "neox_always"]

ROLES: tuple[Role, ...] = get_args(Role)
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Width:
    """Where a model stands on the width axis: its width, the base width, and the readout's output dimension d_out."""

    n: int
    n_base: int
    d_out: int

    @property
    def m(self) -> float:
        return self.n / self.n_base

    @property
    def r(self) -> float:
        """s(n_base) / s(n), where s(n) = 1 / (n / sqrt(d_out) + sqrt(n)) is `sp_transition`'s readout std."""

        def inverse_s(n: int) -> float:
            return n / math.sqrt(self.d_out) + math.sqrt(n)

        return inverse_s(self.n) / inverse_s(self.n_base)


@dataclass(frozen=True)
class Factor:
    """The factor m^-exponent * r^r_exponent; ``Factor(HALF)`` shrinks like n^-1/2."""

    exponent: Fraction
    r_exponent: int = 0

    def at(self, width: Width) -> float:
        return math.pow(width.m, -self.exponent) * math.pow(width.r, self.r_exponent)


Factors = Mapping[Role, Factor]


def _by_role(
    input: int | Fraction | Factor,
    vector: int | Fraction | Factor,
    hidden: int | Fraction | Factor | None,
    output: int | Fraction | Factor,
) -> Factors:
    """None: there is no rule."""
    given: dict[Role, int | Fraction | Factor | None] = {
        "input": input,
        "vector": vector,
        "hidden": hidden,
        "output": output,
        "finite": 0,  # no dimension grows with n: nothing scales
    }
    return {role: f if isinstance(f, Factor) else Factor(Fraction(f)) for role, f in given.items() if f is not None}


@dataclass(frozen=True)
class Parameterization:
    """Width factors per role: `init` (exponent b) for the initial std, `lr` (exponent c) per optimizer family, without
    families and roles that it has no rule for.

    `neox_embedding` replaces the input role's init factor under ``embedding_init: neox``, the published GPT runs'
    initialization: there SP draws the embedding like every other matrix, with std sqrt(2 / (5 n)). ``neox_always`` does
    so whatever the parameterization (F.6).
    """

    name: str
    init: Factors
    lr: Mapping[Family, Factors]
    neox_embedding: Factor = Factor(Fraction(0))

    def init_factor(self, role: Role, width: Width, embedding_init: EmbeddingInit = "constant") -> float:
        """Initial std of a `role` tensor relative to its std at the base width."""
        return self.starts(role, embedding_init).at(width)

    def starts(self, role: Role, embedding_init: EmbeddingInit = "constant") -> Factor:
        """The factor on the initial std of a `role` tensor."""
        if role != "input":
            return self.init[role]
        return {"constant": self.init[role], "neox": self.neox_embedding, "neox_always": Factor(HALF)}[embedding_init]

    def knows(self, families: Mapping[Role, Family]) -> bool:
        """Whether it has a learning rate for every role under its family."""
        return all(role in self.lr.get(family, {}) for role, family in families.items())

    def ties(self, embedding_init: EmbeddingInit, family: Family) -> bool:
        """Whether embedding and readout start and learn by one rule, so that one tensor can be both."""
        lr = self.lr.get(family)
        same = self.starts("input", embedding_init) == self.init["output"]
        return lr is not None and same and lr["input"] == lr["output"]

    def lr_factor(self, role: Role, family: Family, width: Width) -> float:
        """Learning rate of a `role` tensor relative to the base learning rate (the one reported and asked for)."""
        return self.lr[family][role].at(width)


def _parameterization(
    name: str,
    init: Factors,
    sgd: Factors | None,
    adam: Factors,
    muon: tuple[int | Fraction, int | Fraction] | None,
    neox_embedding: Factor = Factor(Fraction(0)),
) -> Parameterization:
    """`muon`: c of hidden matrices, of updates by the matrix's shape and of those of AdamW's size."""
    lr: dict[Family, Factors] = {} if sgd is None else {"sgd": sgd}
    lr["adam"] = adam
    if muon is not None:
        lr |= {"muon": {"hidden": Factor(Fraction(muon[0]))}, "muon_rms": {"hidden": Factor(Fraction(muon[1]))}}
    return Parameterization(name, init, lr, neox_embedding)


TABLE: Mapping[str, Parameterization] = {
    p.name: p
    for p in (
        _parameterization(
            "sp",
            #              input vector hidden output
            init=_by_role(0, 0, HALF, HALF),
            sgd=_by_role(0, 0, 0, 0),
            adam=_by_role(0, 0, 0, 0),
            muon=(0, 0),  # Dion's AdamW side; match_rms at a constant rate is Moonshot's
            neox_embedding=Factor(HALF),
        ),
        _parameterization(
            "mup",
            init=_by_role(0, 0, HALF, 1),
            sgd=_by_role(-1, -1, 0, 1),
            adam=_by_role(0, 0, 1, 1),
            muon=(0, HALF),
        ),
        _parameterization(
            "ntp",  # Adam and Muon: a global learning rate on the multiplier form
            init=_by_role(0, 0, HALF, HALF),
            sgd=_by_role(0, 0, 1, 1),
            adam=_by_role(0, 0, HALF, HALF),
            muon=(HALF, HALF),
        ),
        _parameterization(
            "sp_full_align",
            init=_by_role(0, 0, HALF, HALF),
            sgd=_by_role(-HALF, -HALF, HALF, 1),
            adam=_by_role(0, 0, 1, 1),
            muon=(0, HALF),
        ),
        _parameterization(
            "musoli",
            init=_by_role(0, 0, HALF, HALF),
            sgd=_by_role(-HALF, -HALF, HALF, HALF),
            adam=_by_role(0, 0, 1, HALF),
            muon=(0, HALF),
        ),
        _parameterization(
            "sp_transition",  # readout std s(n), normalized at the base width
            init=_by_role(0, 0, HALF, Factor(Fraction(0), -1)),
            sgd=_by_role(Factor(Fraction(0), 1), Factor(Fraction(0), 1), Factor(Fraction(1), 1), 1),
            adam=_by_role(0, 0, 1, 1),
            muon=(0, HALF),
        ),
        _parameterization(
            # Blake et al. 2024, unit scale folded in; its embedding's rate is measured, not derived. Its rescaled
            # backward passes are no learning rates of SGD
            "umup",
            init=_by_role(0, 0, HALF, 1),
            sgd=None,
            adam=_by_role(HALF, 0, 1, 1),
            muon=None,
        ),
        _parameterization(
            "sp_embedding",  # SP but for the embedding's rate, which grows like n; width-free at lr ~ 1/n
            init=_by_role(0, 0, HALF, HALF),
            sgd=None,
            adam=_by_role(-1, 0, 0, 0),
            muon=None,
            neox_embedding=Factor(HALF),
        ),
        _parameterization(
            "nanochat",  # AdamW beside Muon: embedding and readout at n^-1/2 alike, the readout's std constant
            init=_by_role(0, 0, HALF, 0),
            sgd=None,
            adam=_by_role(HALF, 0, None, HALF),
            muon=(0, HALF),
        ),
    )
}


def get(name: str) -> Parameterization:
    """The parameterization called `name`. Raises `ValueError` naming the nearest known one."""
    if name not in TABLE:
        near = difflib.get_close_matches(name.lower(), TABLE, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(TABLE)}"
        raise ValueError(f"unknown parameterization {name!r}: {hint}")
    return TABLE[name]
