"""A setting whose width exponents are predicted, and its network as exponents (design, section 4; paper, Table C.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from pipeline.entries.losses import LOSSES, TheoryLoss
from pipeline.entries.optimizers import MUON_SCALES, OPTIMIZERS
from pipeline.parameterization.rules import HALF, EmbeddingInit, Factor, Family, Parameterization, Role
from pipeline.theory.orders import ONE, ROOT_N, ZERO, N, Theta, power
from pipeline.theory.propagation import Network, Weight


@dataclass(frozen=True)
class Architecture:
    """A kind of network that theory follows."""

    normalized: bool
    """Attention and MLPs in residual branches that begin with a norm, and a norm before the readout."""
    least_depth: int
    large_output: bool
    """d_out >> n, where nothing else is said."""
    neox: bool
    """The embedding's initialization, where nothing else is said."""
    meaningless: Mapping[str, tuple[tuple[str | bool, ...], str]]
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
            "embedding_init": (("neox", "neox_always"), "is for the gpt: an mlp has no embedding"),
            "tied": ((True,), "is for the gpt: an mlp has no embedding"),
            "kv_heads": (("fixed",), "is for the gpt: an mlp has no attention"),
            "qk_norm_role": (("vector",), "is for the gpt: an mlp has no attention"),
        },
        names={"vector": "gains, biases", "finite": "readout bias"},
    ),
    "gpt": Architecture(
        normalized=True,
        least_depth=3,
        large_output=True,
        neox=True,
        meaningless={
            "activation": (("linear",), "is for the mlp: a gpt without nonlinearities is not predicted"),
            "norms": ((True,), "is for the mlp: a gpt has norms"),
            "biases": ((True,), "is for the mlp: a gpt has biases"),
            "residual": ((True,), "is for the mlp: a gpt has residual branches"),
            "logit_norm": ((True,), "is for the mlp"),
        },
        names={
            "input": "embedding",
            "vector": "gains, biases",
            "output": "readout",
            "finite": "qk-norm",
            "key_value": "keys, values",
        },
    ),
}
"""By their `--model` names: mlp is section 2's, by default without biases and norms; gpt has trainable or fixed
norms."""

Trained = Literal["all", "readout", "no_input"]


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
    train: Trained = "all"
    """readout: the others are random features (C.1). no_input: the embedding or first layer stays as it starts."""
    norms: bool = False
    """Of the mlp: a norm between each layer and its activation."""
    train_norms: bool = True
    """Gains and biases of norms are trained; a gpt's linear biases, input-like too, are in any case."""
    biases: bool = False
    """Of the mlp: layers and readout have trainable biases."""
    residual: bool = False
    """Of the mlp: hidden layers add to their input."""
    logit_norm: bool = False
    """Of the mlp: LayerNorm, without parameters, on the logits (F.17)."""
    tied: bool = False
    """Of the gpt: embedding and readout are one tensor."""
    qk_norm: bool = True
    qk_norm_role: Literal["finite", "vector"] = "finite"
    """vector: gains and biases of the norms of queries and keys have the learning rate of all other norms'."""
    kv_heads: Literal["all", "fixed"] = "all"
    """fixed: a number of key/value heads that does not grow with n."""
    muon_scale: str = "spectral"
    """How Muon's updates scale with the shape of a matrix, where hidden matrices are trained by it."""
    clipping: bool = False
    """The gradient's norm is clipped in every step. Without meaning under Adam, which normalizes anyway."""

    def __post_init__(self) -> None:
        tables: tuple[Mapping[str, object], ...] = (OPTIMIZERS, LOSSES, ARCHITECTURES, MUON_SCALES)
        for name, table in zip((self.optimizer, self.loss, self.model, self.muon_scale), tables, strict=True):
            if name not in table:
                raise ValueError(f"{name} is none of {', '.join(table)}")
        if not self.parameterization.knows(self.families):
            raise ValueError(f"{self.parameterization.name} has no rule for {self.optimizer}")
        if LOSSES[self.loss].theory is None:
            raise ValueError(f"loss {self.loss} is not predicted")
        if self.depth < 2:
            raise ValueError(f"depth {self.depth}: a network has at least 2 weight matrices, input and readout")
        if self.depth > DEEPEST:
            raise ValueError(f"depth {self.depth}: exponents are followed through at most {DEEPEST} weight matrices")
        for name, (values, why) in self.architecture.meaningless.items():
            if (value := getattr(self, name)) in values:
                raise ValueError(f"{name}{'' if value is True else f' {value}'} {why}")
        if self.tied and not self.parameterization.ties(self.embedding, self.family):
            raise ValueError(f"tied: under {self.parameterization.name} embedding and readout have no one rule")
        if self.tied and self.train != "all":
            raise ValueError(f"tied: train {self.train} would split the one tensor of embedding and readout")
        if self.residual and self.depth == 2:
            raise ValueError("residual: a network of depth 2 has no hidden layers")
        if self.depth < self.architecture.least_depth:
            raise ValueError("depth 2 is for the mlp: a gpt has hidden layers")

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.model]

    @property
    def family(self) -> Family:
        """Of all weights but, beside Muon, hidden matrices."""
        return OPTIMIZERS[self.optimizer].family

    @property
    def families(self) -> dict[Role, Family]:
        return OPTIMIZERS[self.optimizer].families(self.muon_scale)

    @property
    def orthogonalizes(self) -> bool:
        """Hidden matrices are trained by Muon."""
        return self.families["hidden"] != self.family

    def step(self, role: Role, fan_in: Theta, fan_out: Theta) -> Theta | None:
        """Entries of an update over its learning rate; None: they are the gradient's."""
        family = self.families[role]
        if family in ("sgd", "adam"):
            return None if family == "sgd" else ONE
        assert fan_in.exponent is not None
        assert fan_out.exponent is not None
        i, o = fan_in.exponent, fan_out.exponent
        shape = {"spectral": o - i, "original": max(Fraction(0), o - i), "match_rms": max(o, i)}[self.muon_scale]
        return power((shape - o - i) / 2)

    @property
    def derivative(self) -> TheoryLoss:
        """The loss whose derivative scales like that of `loss`."""
        loss = LOSSES[self.loss].theory
        assert loss is not None, "checked when it was made"
        return loss

    @property
    def normalized(self) -> bool:
        """A norm stands before every layer but the first."""
        return self.architecture.normalized or self.norms

    @property
    def stream(self) -> bool:
        """Hidden layers add to their input."""
        return self.architecture.normalized or self.residual

    @property
    def feeds_back(self) -> bool:
        """Diverging logits make the gradient diverge (Proposition 2, MSE)."""
        return self.derivative == "mse" and self.family == "sgd" and not self.logit_norm

    @property
    def saturates(self) -> bool:
        """Diverging logits end training: their gradient vanishes (F.4)."""
        return self.derivative == "softmax_mse" and self.family == "sgd" and not self.logit_norm

    @property
    def large_output(self) -> bool:
        return self.architecture.large_output if self.d_out is None else self.d_out == "large"

    @property
    def embedding(self) -> EmbeddingInit:
        if self.embedding_init is None:
            return "neox" if self.architecture.neox else "constant"
        return self.embedding_init

    def init_exponent(self, role: Role) -> Fraction:
        """b: the initial std goes like n^-b."""
        return self._exponent(self.parameterization.starts(role, self.embedding))

    def lr_exponent(self, role: Role) -> Fraction:
        """c: the learning rate goes like n^-alpha n^-c."""
        return self._exponent(self.parameterization.lr[self.families[role]][role])

    def _exponent(self, factor: Factor) -> Fraction:
        """A factor that is no power of n, through r = s(n_base) / s(n) (5.2), by its limit: r goes like n^1/2 where
        d_out >> n and like n where n >> d_out."""
        r = HALF if self.large_output else Fraction(1)
        return factor.exponent - factor.r_exponent * r

    def has(self, role: Role) -> bool:
        """Whether the network has trainable tensors of a role."""
        gpt = self.architecture.normalized
        match role:
            case "input":
                return self.train == "all"
            case "vector":
                return self.train != "readout" and (gpt or self.biases or (self.norms and self.train_norms))
            case "hidden":
                return self.train != "readout" and self.depth > 2
            case "finite":  # of an mlp, the readout's bias
                return self.train != "readout" and self.qk_norm and self.train_norms if gpt else self.biases
        return True

    @property
    def global_lr(self) -> bool:
        """One learning rate for all weights, as in the paper's SP, whatever the parameterization's name."""
        roles: tuple[Role, ...] = ("input", "vector", "hidden", "output")
        return not self.orthogonalizes and len({self.lr_exponent(role) for role in roles}) == 1


def network(setting: Setting, small_steps: bool = False) -> Network:
    """The network as its exponents. No depth rule: depth is fixed as n grows."""

    def weight(
        name: str, role: Role, fan_in: Theta, fan_out: Theta, init_sum: Theta = ONE, acts_as: Role | None = None
    ) -> Weight:
        b, c = setting.init_exponent(role), setting.lr_exponent(role)
        step = setting.step(role, fan_in, fan_out)
        return Weight(name, role, acts_as or role, power(-b), c, fan_in, fan_out, init_sum, step)

    output = weight("output", "output", N, ONE, ROOT_N if setting.large_output else N)
    if setting.readout_init == "zero":
        output = replace(output, init=ZERO)
    bystanders: tuple[Weight, ...] = (weight("finite", setting.qk_norm_role, ONE, ONE, acts_as="finite"),)
    if setting.kv_heads == "fixed":
        bystanders += (weight("key_value", "hidden", N, ONE, N, acts_as="output"),)
    gpt = setting.architecture.normalized
    net = Network(
        input=weight("input", "input", ONE, N),
        hidden=tuple(weight(f"hidden{i + 1}", "hidden", N, N, ROOT_N) for i in range(setting.depth - 2)),
        output=output,
        vector=weight("vector", "vector", ONE, N),
        bystanders=bystanders,
        normalized=setting.normalized,
        stream=setting.stream,
        heads=gpt,
        gains=gpt or (setting.norms and setting.has("vector")),
        biases=setting.biases,
        tied=setting.tied,
        logit_norm=setting.logit_norm,
        large_output=setting.large_output,
        small_steps=small_steps,
    )
    kept = {"all": net.weights, "no_input": net.weights[1:], "readout": (output, *(() if gpt else net.bystanders))}
    return replace(net, frozen=frozenset(w.name for w in net.weights if w not in kept[setting.train]))
