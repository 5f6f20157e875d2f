"""Initialization, tensor by tensor, from seeds that depend on nothing but the run's seed and the tensor's name."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.models.roles import TensorSpec
from pipeline.scaling import Scaling


def tensor_seed(seed: int, name: str) -> int:
    """A 63-bit seed for one tensor, so that its values depend on no order, device, rank or world size."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1


def initial_value(name: str, shape: torch.Size, seed: int, mean: float, std: float) -> Tensor:
    """The fp32 CPU tensor that `name` starts from: N(mean, std^2)."""
    if std == 0:
        return torch.full(shape, mean)
    generator = torch.Generator().manual_seed(tensor_seed(seed, name))
    return torch.randn(shape, generator=generator).mul_(std).add_(mean)


def initial_values(
    model: nn.Module, specs: Mapping[str, TensorSpec], scaling: Scaling, seed: int
) -> Callable[[str], Tensor]:
    """What draws the initial value of any parameter by its name: std of its spec times the scaling's factor."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def draw(name: str) -> Tensor:
        spec = specs[name]
        std = spec.init_std * scaling.init(spec.role, spec.place)
        return initial_value(name, shapes[name], seed, spec.init_mean, std)

    return draw


@torch.no_grad()
def initialize_(model: nn.Module, specs: Mapping[str, TensorSpec], scaling: Scaling, seed: int) -> None:
    """Set every parameter in place to its initial value."""
    draw = initial_values(model, specs, scaling, seed)
    for name, parameter in model.named_parameters():
        parameter.copy_(draw(name))
