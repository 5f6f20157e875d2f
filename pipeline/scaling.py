"""A parameterization at one width, with a study's own multipliers, depth, batch and horizon: the factors of one run. No
torch here."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from pipeline.config import MultConfig, RunConfig
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization import rules
from pipeline.parameterization.axes import Axes, axes_of
from pipeline.parameterization.depth import DEPTH_RULES, DepthRule, Place
from pipeline.parameterization.rules import EmbeddingInit, Family, Parameterization, Role, Width

WeightDecayScaling: TypeAlias = Literal["inverse_lr", "constant", "independent", "timescale"]


@dataclass(frozen=True)
class Scaling:
    """Factors on a tensor's initial std, learning rate, weight decay and epsilon, by its role and place.

    `depth` is L / L_base, by which `depth_rule` scales residual branches (`parameterization.depth`).
    """

    parameterization: Parameterization
    family: Family
    width: Width
    mult: MultConfig = MultConfig()
    embedding_init: EmbeddingInit = "constant"
    readout_init: Literal["standard", "zero"] = "standard"
    depth: float = 1.0
    depth_rule: DepthRule = DEPTH_RULES["sqrt"]
    hidden: Family | None = None
    """Of hidden matrices, where that is another: Muon's."""
    eps_scaling: Literal["none", "width"] = "none"
    axes: Axes = Axes()

    def family_of(self, role: Role) -> Family:
        return self.hidden if role == "hidden" and self.hidden else self.family

    def init(self, role: Role, place: Place = "trunk") -> float:
        """Initial std over the spec's std at the base width."""
        if role == "output" and self.readout_init == "zero":
            return 0.0
        factor = self.parameterization.init_factor(role, self.width, self.embedding_init)
        return factor * self.mult.init(role) * self._deep(self.depth_rule.init(place))

    def lr(self, role: Role, place: Place = "trunk") -> float:
        """Learning rate over the base learning rate."""
        return self._lr_of_size(role, place) * self.axes.lr

    def _lr_of_size(self, role: Role, place: Place) -> float:
        """The part of it that follows from the model's width and depth."""
        family = self.family_of(role)
        factor = self.parameterization.lr_factor(role, family, self.width)
        return factor * self.mult.lr(role) * self._deep(self.depth_rule.lr(place, family))

    def decay(self, decay: float, role: Role, place: Place, how: WeightDecayScaling, lr: float) -> float:
        """Weight decay where `decay` is asked for, under a base learning rate `lr`.

        inverse_lr: over the learning rate's factor of width and depth. independent: over all of the learning rate, so
        that what is asked for is what a step takes off a weight. timescale: so that the product with learning rate and
        number of steps stays, tau = B / (lr wd D) (Wang and Aitchison 2024).
        """
        match how:
            case "constant":
                return decay * self.axes.decay
            case "inverse_lr":
                return decay * self.axes.decay / self._lr_of_size(role, place)
            case "independent":
                return decay / (lr * self.lr(role, place))
            case "timescale":
                return decay / (self.axes.steps * self.lr(role, place))

    def eps(self, role: Role, place: Place = "trunk") -> float:
        """Adam's epsilon over that of the base model: under ``width`` it follows the gradient.

        Gradients go like the readout's initial entries, which the signal comes through, but for its own and its bias's,
        that of the embedding over its initial scale too, by which the first norm divides. Tensors that all heads share
        (qk-norm's) sum the signals of m heads, uncorrelated at first.
        """
        deep = self._deep(self.depth_rule.eps(place)) * self.axes.eps
        if self.eps_scaling == "none" or role == "output" or (role == "finite" and place == "trunk"):
            return deep
        readout = self.parameterization.init_factor("output", self.width)
        start = self.parameterization.init_factor("input", self.width, self.embedding_init) if role == "input" else 1.0
        heads = math.sqrt(self.width.m) if role == "finite" else 1.0
        return deep * readout / start * heads

    def _deep(self, exponent: Fraction) -> float:
        return math.pow(self.depth, exponent)


def scaling_of(config: RunConfig) -> Scaling:
    """The scaling that a run's settings ask for."""
    optimizer, ruled = OPTIMIZERS[config.optimizer], config.depth_scaling != "none"
    return Scaling(
        rules.get(config.param),
        optimizer.family,
        config.width_point,
        config.mult,
        config.embedding_init,
        config.readout_init,
        depth=config.model.n_layer / config.base_depth if ruled else 1.0,
        depth_rule=DEPTH_RULES[config.depth_scaling if ruled else "sqrt"],
        hidden=optimizer.matrices.get(config.muon_scale),
        eps_scaling=config.eps_scaling,
        axes=axes_of(config),
    )
