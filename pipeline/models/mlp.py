"""The multilayer perceptron of the paper's MLP experiments (D.1): equal hidden widths, no biases, He initialization.

Shapes: B examples, D = n width.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.config import ModelConfig, RunConfig
from pipeline.models.roles import Claim, Readout, TensorSpec, by_name


class MLP(nn.Module):
    """Maps x (B, d_in) to the hidden states h_BD that the readout weight (d_out, D) is applied to.

    `layers` holds all weight matrices but the readout: the input layer (n, d_in), then hidden layers (n, n).
    """

    def __init__(self, d_in: int, width: int, d_out: int, n_layer: int, activation: str) -> None:
        super().__init__()
        sizes = [d_in, *[width] * (n_layer - 1)]
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(sizes))
        self.activation = nn.ReLU() if activation == "relu" else nn.Identity()
        self.readout = Readout(width, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.layers:
            h = self.activation(layer(h))
        handed_on: Tensor = self.readout(h)  # h itself: hooks see what the readout is applied to, as in a GPT
        return handed_on


def of_run(config: RunConfig) -> tuple[MLP, dict[str, TensorSpec]]:
    """The model of a run, and the spec of each of its tensors."""
    vectors = config.data.vectors
    assert vectors is not None, "checked with the settings"
    mlp = build(config.model, config.width, vectors.d_in, config.d_out)
    return mlp, tensor_specs(mlp, config.base_width)


def build(model: ModelConfig, width: int, d_in: int, d_out: int) -> MLP:
    """The model with unset weights (see `pipeline.models.init`), on torch's current default device."""
    return MLP(d_in, width, d_out, model.n_layer, model.activation)


def tensor_specs(mlp: MLP, base_width: int) -> dict[str, TensorSpec]:
    """Role and base initialization of every tensor: He, std sqrt(c / fan_in) with c = 2 for ReLU and 1 for linear
    nets."""
    return by_name(mlp, _claims(mlp, base_width))


def _claims(mlp: MLP, base_width: int) -> Iterator[Claim]:
    c = 2.0 if isinstance(mlp.activation, nn.ReLU) else 1.0
    first, *hidden = (layer.weight for layer in mlp.layers if isinstance(layer, nn.Linear))
    yield first, TensorSpec("input", math.sqrt(c / first.shape[1]))
    for weight in hidden:
        yield weight, TensorSpec("hidden", math.sqrt(c / base_width))
    yield mlp.readout.weight, TensorSpec("output", math.sqrt(c / base_width))


def flops(mlp: MLP, config: RunConfig) -> int:
    """Floating-point operations of a forward and backward pass per example; the input needs no gradient."""
    first = mlp.layers[0].weight
    assert isinstance(first, torch.Tensor)
    return 6 * sum(p.numel() for p in mlp.parameters()) - 2 * first.numel()
