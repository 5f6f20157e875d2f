"""A setting whose width exponents are predicted, and its network as exponents (design, section 4; paper, Table C.1)."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pipeline.entries.losses import LOSSES, TheoryLoss
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.parameterization.rules import HALF, EmbeddingInit, Factor, Family, Parameterization, Role
from pipeline.theory.orders import ONE, ROOT_N, ZERO, N, Theta, power
from pipeline.theory.propagation import Network, Weight

Model = Literal["mlp", "gpt"]


@dataclass(frozen=True)
class Setting:
    """What is trained, and how. Raises `ValueError` with one line where the combination means nothing."""

    parameterization: Parameterization
    optimizer: str = "adamw"
    loss: str = "cross_entropy"
    model: Model = "gpt"
    """mlp: section 2's, without biases and norms. gpt: pre-norm residual network with trainable or fixed norms."""
    depth: int = 8
    """Weight matrices in a row, embedding and readout included; 2: no hidden layer."""
    activation: Literal["relu", "linear"] = "relu"
    """linear: an MLP without nonlinearity."""
    d_out: Literal["finite", "large"] | None = None
    """finite: n >> d_out; large: d_out >> n, as for a vocabulary. None: large for gpt, finite for mlp."""
    embedding_init: EmbeddingInit | None = None
    """None: neox for gpt, constant for mlp."""
    readout_init: Literal["standard", "zero"] = "standard"
    train_norms: bool = True
    """Gains and biases of the gpt's norms are trained; linear biases, input-like too, are in any case."""
    qk_norm: bool = True
    kv_heads: Literal["all", "fixed"] = "all"
    """fixed: a number of key/value heads that does not grow with n."""
    clipping: bool = False
    """The gradient's norm is clipped in every step. Without meaning under Adam, which normalizes anyway."""

    def __post_init__(self) -> None:
        for name, table in ((self.optimizer, OPTIMIZERS), (self.loss, LOSSES)):
            if name not in table:
                raise ValueError(f"{name} is none of {', '.join(table)}")
        if LOSSES[self.loss].theory is None:
            raise ValueError(f"loss {self.loss} is not predicted")
        if self.depth < 2:
            raise ValueError(f"depth {self.depth}: a network has at least 2 weight matrices, input and readout")
        if self.model == "gpt" and self.activation == "linear":
            raise ValueError("activation linear is for the mlp: a gpt without nonlinearities is not predicted")
        if self.model == "gpt" and self.depth < 3:
            raise ValueError("depth 2 is for the mlp: a gpt has hidden layers")
        if self.model == "mlp" and self.embedding_init == "neox":
            raise ValueError("embedding_init neox is for the gpt: an mlp has no embedding")
        if self.model == "mlp" and self.kv_heads == "fixed":
            raise ValueError("kv_heads fixed is for the gpt: an mlp has no attention")

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
        return self.model == "gpt" if self.d_out is None else self.d_out == "large"

    @property
    def neox(self) -> bool:
        return self.model == "gpt" if self.embedding_init is None else self.embedding_init == "neox"

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
            return self.model == "gpt"
        if role == "finite":
            return self.model == "gpt" and self.qk_norm and self.train_norms
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
        normalized=setting.model == "gpt",
        large_output=setting.large_output,
        small_steps=small_steps,
    )
