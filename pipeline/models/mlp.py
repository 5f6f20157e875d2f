"""The multilayer perceptron of the paper's MLP experiments (D.1): equal hidden widths, He initialization; by default
without biases, norms and residual branches.

Shapes: B examples, D = n width.
"""

import itertools
import math
from collections.abc import Iterator

from torch import Tensor, nn

from pipeline.config import ModelConfig, RunConfig
from pipeline.models.roles import Claim, Readout, TensorSpec, by_name, freeze_, linear, matrix_flops, norm
from pipeline.parameterization.depth import Place
from pipeline.products import quicken_

NORMS = {"own": nn.Identity, "rmsnorm": nn.RMSNorm, "layernorm": nn.LayerNorm}
EPS = 1e-5
"""Of the norms: LayerNorm's default."""


class MLP(nn.Module):
    """Maps x (B, d_in) to the hidden states (B, D) that the readout weight (d_out, D) is applied to.

    `layers` are all but the readout: the input layer (n, d_in), then hidden ones (n, n). Each is followed by its norm,
    if there are any, and the activation; the paper's "RMSNorm after every layer" (E.3) does not say on which side of
    the activation, and here zeros stay as rare as without norms. `residual`: a hidden layer adds to what came before
    the norm and activation that it reads (He et al. 2016b).
    """

    def __init__(self, d_in: int, width: int, d_out: int, model: ModelConfig) -> None:
        super().__init__()
        sizes = [d_in, *[width] * (model.n_layer - 1)]
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=model.bias) for i, o in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(NORMS[model.norm](width, eps=EPS) for _ in self.layers)
        self.activation = nn.ReLU() if model.activation == "relu" else nn.Identity()
        self.readout = Readout(width, d_out, bias=model.bias)
        self.readout.normalize = model.logit_norm == "layernorm"
        self.residual = model.residual

    def forward(self, x: Tensor) -> Tensor:
        first, *hidden = self.layers
        h = first(x)
        for layer, normalize in zip(hidden, self.norms, strict=False):
            update = layer(self.activation(normalize(h)))
            h = h + update if self.residual else update
        handed_on: Tensor = self.readout(self.activation(self.norms[-1](h)))  # hooks see what the readout is applied to
        return handed_on

    def in_order(self) -> list[nn.Module]:
        """The modules that own weights, as the forward pass calls them."""
        return [*itertools.chain.from_iterable(zip(self.layers, self.norms, strict=True)), self.readout]


def of_run(config: RunConfig) -> tuple[MLP, dict[str, TensorSpec]]:
    """The model of a run, and the spec of each of its tensors."""
    vectors = config.data.vectors
    assert vectors is not None, "checked with the settings"
    mlp = build(config.model, config.width, vectors.d_in, config.d_out)
    return mlp, tensor_specs(mlp, config.base_width)


def about(config: RunConfig) -> list[str]:
    """Nothing: MLPs have no names."""
    return []


def build(model: ModelConfig, width: int, d_in: int, d_out: int) -> MLP:
    """The model with unset weights (see `pipeline.models.init`), on torch's current default device."""
    mlp = MLP(d_in, width, d_out, model)
    quicken_(mlp)
    if not model.train_norms:
        freeze_(mlp.norms.parameters())
    if model.train == "no_input":
        freeze_(mlp.layers[0].parameters())
    if model.train == "readout":
        freeze_([*mlp.layers.parameters(), *mlp.norms.parameters()])
    return mlp


def tensor_specs(mlp: MLP, base_width: int) -> dict[str, TensorSpec]:
    """Role and base initialization of every tensor: He, std sqrt(c / fan_in) with c = 2 for ReLU and 1 for linear
    nets."""
    return by_name(mlp, _claims(mlp, base_width))


def _claims(mlp: MLP, base_width: int) -> Iterator[Claim]:
    c = 2.0 if isinstance(mlp.activation, nn.ReLU) else 1.0
    inside, end = _BRANCH if mlp.residual else _TRUNK
    first, *hidden = (layer for layer in mlp.layers if isinstance(layer, nn.Linear))
    yield from linear(first, "input", math.sqrt(c / first.in_features))
    for layer, normalize in zip(hidden, mlp.norms, strict=False):
        yield from norm(normalize, "vector", place=inside)
        yield from linear(layer, "hidden", math.sqrt(c / base_width), place=end)
    yield from norm(mlp.norms[-1], "vector")
    yield from linear(mlp.readout, "output", math.sqrt(c / base_width))


_TRUNK: tuple[Place, Place] = ("trunk", "trunk")
_BRANCH: tuple[Place, Place] = ("branch", "branch_end")


def flops(mlp: MLP, config: RunConfig) -> int:
    """Floating-point operations of a forward and backward pass per example; the input needs no gradient."""
    return matrix_flops(mlp.in_order())
