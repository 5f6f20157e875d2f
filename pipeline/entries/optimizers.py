"""Optimizers: one entry each. An optimizer that takes parameter groups as torch's do needs nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.parameterization.rules import ROLES, Family, Role


@dataclass(frozen=True)
class Optimizer:
    """An optimizer, by its `--optimizer` name. Its functions take a `RunConfig`."""

    name: str
    label: str
    """As people write it."""
    family: Family
    """Whose learning-rate factors of the parameterizations hold for it; of `matrices`, for all others."""
    build: str
    """``module:class``, called with the parameter groups, `settings` and `options`. Groups carry their role as
    ``name``, so that a class may treat roles differently."""
    settings: frozenset[str]
    """The names of the settings that it is called with; others of `OWN` are refused where they are not at their
    default."""
    moments: Callable[[Any], int]
    """Tensors of a weight's size that it keeps."""
    weight_decay: float = 0.0
    """Where none is given."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else it is called with."""
    decouples: Callable[[Any], bool] = lambda c: False
    """Whether its weight decay is decoupled; where not, there must be none."""
    matrices: Mapping[str, Family] = field(default_factory=dict)
    """The family of hidden matrices by `--muon_scale`, where that is another."""

    def families(self, muon_scale: str) -> dict[Role, Family]:
        """The family of every role."""
        return dict.fromkeys(ROLES, self.family) | ({"hidden": self.matrices[muon_scale]} if self.matrices else {})


_FUSED = {"fused": True}  # one pass over a weight and its moments, on CPUs too
_MUON = frozenset({"muon_scale", "muon_momentum"})

MUON_SCALES: dict[str, Family] = {"spectral": "muon", "original": "muon", "match_rms": "muon_rms"}
"""Families of hidden matrices under Muon, by the `--muon_scale` of its updates (`pipeline.muon`)."""

OPTIMIZERS: dict[str, Optimizer] = {
    entry.name: entry
    for entry in (
        Optimizer(
            "adamw",
            "AdamW",
            "adam",
            "torch.optim:AdamW",
            frozenset({"betas", "eps"}),
            moments=lambda c: 2,
            weight_decay=0.1,
            options=_FUSED,
            decouples=lambda c: True,
        ),
        Optimizer(
            "adam",
            "Adam",
            "adam",
            "torch.optim:Adam",
            frozenset({"betas", "eps"}),
            moments=lambda c: 2,
            options=_FUSED,
        ),
        Optimizer(
            "sgd",
            "SGD",
            "sgd",
            "torch.optim:SGD",
            frozenset({"momentum"}),
            moments=lambda c: int(bool(c.momentum)),
            decouples=lambda c: c.momentum == 0,  # then torch's coupled decay is the decoupled one
        ),
        Optimizer(
            "muon",
            "Muon",
            "adam",
            "pipeline.muon:MuonBeside",
            _MUON | {"betas", "eps"},
            moments=lambda c: 2,  # at most: those of hidden matrices are one
            weight_decay=0.1,
            options={"beside": "torch.optim:AdamW", **_FUSED},
            decouples=lambda c: True,
            matrices=MUON_SCALES,
        ),
        Optimizer(
            "muon_sgd",
            "Muon and SGD",
            "sgd",
            "pipeline.muon:MuonBeside",
            _MUON | {"momentum"},
            moments=lambda c: 1,  # at most
            options={"beside": "torch.optim:SGD"},
            decouples=lambda c: c.momentum == 0,
            matrices=MUON_SCALES,
        ),
    )
}
