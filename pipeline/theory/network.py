"""A setting whose width exponents are predicted, and its network as exponents (design, section 4; paper, Table C.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pipeline.entries.losses import LOSSES, TheoryLoss
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization.rules import HALF, EmbeddingInit, Factor, Family, Parameterization, Role
from pipeline.theory.orders import ONE, ROOT_N, ZERO, N, Theta, power
from pipeline.theory.propagation import Network, Weight


@dataclass(frozen=True)
class Architecture:
    """A kind of network that theory follows."""

    normalized: bool
    """A residual network whose blocks begin with a norm, and with a norm before the readout."""
    least_depth: int
    large_output: bool
    """d_out >> n, where nothing else is said."""
    neox: bool
    """The embedding's initialization, where nothing else is said."""
    meaningless: Mapping[str, tuple[str, str]]
    """Values of settings that mean nothing for it, and why."""
    names: Mapping[str, str]
    """What its kinds of weights are called, where that is not the name of the layer."""


ARCHITECTURES = {
    "mlp": Architecture(
        normalized=False,
        least_depth=2,
        large_output=False,
        neox=False,
        meaningless={
            "embedding_init": ("neox", "is for the gpt: an mlp has no embedding"),
            "kv_heads": ("fixed", "is for the gpt: an mlp has no attention"),
        },
        names={},
    ),
    "gpt": Architecture(
        normalized=True,
        least_depth=3,
        large_output=True,
        neox=True,
        meaningless={"activation": ("linear", "is for the mlp: a gpt without nonlinearities is not predicted")},
        names={
            "input": "embedding",
            "vector": "gains, biases",
            "output": "readout",
            "finite": "qk-norm",
            "key_value": "keys, values",
        },
    ),
}
"""By their `--model` names: mlp is section 2's, without biases and norms; gpt has trainable or fixed norms."""


DEEPEST = 1000


@dataclass(frozen=True)
class Setting:
    """What is trained, and how. Raises `ValueError` with one line where the combination means nothing."""

    parameterization: Parameterization
    optimizer: str = "adamw"
    loss: str = "cross_entropy"
    model: str = "gpt"
    """One of `ARCHITECTURES`."""
    depth: int = 8
    """Weight matrices in a row, embedding and readout included; 2: no hidden layer."""
    activation: Literal["relu", "linear"] = "relu"
    """linear: an MLP without nonlinearity."""
    d_out: Literal["finite", "large"] | None = None
    """finite: n >> d_out; large: d_out >> n, as for a vocabulary. None: the model's."""
    embedding_init: EmbeddingInit | None = None
    """None: the model's."""
    readout_init: Literal["standard", "zero"] = "standard"
    train_norms: bool = True
    """Gains and biases of the gpt's norms are trained; linear biases, input-like too, are in any case."""
    qk_norm: bool = True
    kv_heads: Literal["all", "fixed"] = "all"
    """fixed: a number of key/value heads that does not grow with n."""
    clipping: bool = False
    """The gradient's norm is clipped in every step. Without meaning under Adam, which normalizes anyway."""

    def __post_init__(self) -> None:
        for name, table in ((self.optimizer, OPTIMIZERS), (self.loss, LOSSES), (self.model, ARCHITECTURES)):
            if name not in table:
                raise ValueError(f"{name} is none of {', '.join(table)}")
        if LOSSES[self.loss].theory is None:
            raise ValueError(f"loss {self.loss} is not predicted")
        if self.depth < 2:
            raise ValueError(f"depth {self.depth}: a network has at least 2 weight matrices, input and readout")
        if self.depth > DEEPEST:
            raise ValueError(f"depth {self.depth}: exponents are followed through at most {DEEPEST} weight matrices")
        for name, (value, why) in self.architecture.meaningless.items():
            if getattr(self, name) == value:
                raise ValueError(f"{name} {value} {why}")
        if self.depth < self.architecture.least_depth:
            raise ValueError("depth 2 is for the mlp: a gpt has hidden layers")

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.model]

    @property
    def family(self) -> Family:
        return OPTIMIZERS[self.optimizer].family

    @property
    def derivative(self) -> TheoryLoss:
        """The loss whose derivative scales like that of `loss`."""
        loss = LOSSES[self.loss].theory
        assert loss is not None, "checked when it was made"
        return loss

    @property
    def large_output(self) -> bool:
        return self.architecture.large_output if self.d_out is None else self.d_out == "large"

    @property
    def neox(self) -> bool:
        return self.architecture.neox if self.embedding_init is None else self.embedding_init == "neox"

    def init_exponent(self, role: Role) -> Fraction:
        """b: the initial std goes like n^-b."""
        rules = self.parameterization
        return self._exponent(rules.neox_embedding if role == "input" and self.neox else rules.init[role])

    def lr_exponent(self, role: Role) -> Fraction:
        """c: the learning rate goes like n^-alpha n^-c."""
        return self._exponent(self.parameterization.lr[self.family][role])

    def _exponent(self, factor: Factor) -> Fraction:
        """A factor that is no power of n, through r = s(n_base) / s(n) (5.2), by its limit: r goes like n^1/2 where
        d_out >> n and like n where n >> d_out."""
        r = HALF if self.large_output else Fraction(1)
        return factor.exponent - factor.r_exponent * r

    def has(self, role: Role) -> bool:
        """Whether the network has trainable tensors of a role."""
        if role == "vector":
            return self.architecture.normalized
        if role == "finite":
            return self.architecture.normalized and self.qk_norm and self.train_norms
        return role != "hidden" or self.depth > 2

    @property
    def global_lr(self) -> bool:
        """One learning rate for all weights, as in the paper's SP, whatever the parameterization's name."""
        roles: tuple[Role, ...] = ("input", "vector", "hidden", "output")
        return len({self.lr_exponent(role) for role in roles}) == 1


def network(setting: Setting, small_steps: bool = False) -> Network:
    """The network as its exponents. No depth rule: depth is fixed as n grows."""

    def weight(
        name: str, role: Role, fan_in: Theta, fan_out: Theta, init_sum: Theta = ONE, acts_as: Role | None = None
    ) -> Weight:
        b, c = setting.init_exponent(role), setting.lr_exponent(role)
        return Weight(name, role, acts_as or role, power(-b), c, fan_in, fan_out, init_sum)

    output = weight("output", "output", N, ONE, ROOT_N if setting.large_output else N)
    if setting.readout_init == "zero":
        output = Weight("output", "output", "output", ZERO, output.c, N, ONE, output.init_sum)
    bystanders: tuple[Weight, ...] = (weight("finite", "finite", ONE, ONE),)
    if setting.kv_heads == "fixed":
        bystanders += (weight("key_value", "hidden", N, ONE, N, acts_as="output"),)
    return Network(
        input=weight("input", "input", ONE, N),
        hidden=tuple(weight(f"hidden{i + 1}", "hidden", N, N, ROOT_N) for i in range(setting.depth - 2)),
        output=output,
        vector=weight("vector", "vector", ONE, N),
        bystanders=bystanders,
        normalized=setting.architecture.normalized,
        large_output=setting.large_output,
        small_steps=small_steps,
    )
