"""A parameterization at one width, with a study's own multipliers and depth: the factors of one run. No torch here."""

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.config import MultConfig, RunConfig
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization import rules
from pipeline.parameterization.rules import EmbeddingInit, Family, Parameterization, Role, Width

Place = Literal["trunk", "branch", "branch_end"]
"""Where a tensor stands with respect to residual branches: outside, inside, or in the matrix that ends one."""


@dataclass(frozen=True)
class Scaling:
    """Factors on a tensor's initial std and learning rate, by its role and place.

    `depth` is L / L_base: residual branches shrink by ``depth^-1/2`` (Yang et al. 2023b, Noci et al. 2024). Without
    multipliers in the forward pass that is a factor a = depth^-1/2 on the initial std of the matrix W that ends a
    branch. Its updates must shrink by a^2: by a as W itself, and once more because the branch's contributions add up
    over L blocks, under SGD through the gradient, which is a times smaller; under Adam, which normalizes it away, the
    learning rate of everything else inside the branch shrinks by a for the same reason.
    """

    parameterization: Parameterization
    family: Family
    width: Width
    mult: MultConfig = MultConfig()
    embedding_init: EmbeddingInit = "constant"
    readout_init: Literal["standard", "zero"] = "standard"
    depth: float = 1.0

    def init(self, role: Role, place: Place = "trunk") -> float:
        """Initial std over the spec's std at the base width."""
        if role == "output" and self.readout_init == "zero":
            return 0.0
        branch = 1 / math.sqrt(self.depth) if place == "branch_end" else 1.0
        factor = self.parameterization.init_factor(role, self.width, self.embedding_init)
        return factor * self.mult.init(role) * branch

    def lr(self, role: Role, place: Place = "trunk") -> float:
        """Learning rate over the base learning rate."""
        branch = {
            "trunk": 1.0,
            "branch": 1 / math.sqrt(self.depth) if self.family == "adam" else 1.0,
            "branch_end": 1 / self.depth,
        }[place]
        return self.parameterization.lr_factor(role, self.family, self.width) * self.mult.lr(role) * branch


def scaling_of(config: RunConfig) -> Scaling:
    """The scaling that a run's settings ask for."""
    return Scaling(
        rules.get(config.param),
        OPTIMIZERS[config.optimizer].family,
        config.width_point,
        config.mult,
        config.embedding_init,
        config.readout_init,
        depth=1.0 if config.depth_scaling == "none" else config.model.n_layer / config.base_depth,
    )
