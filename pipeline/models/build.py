"""The model of a run, from its settings, whatever its kind (`pipeline.entries.kinds`)."""

from importlib import import_module
from typing import Any

from torch import nn

from pipeline.config import RunConfig
from pipeline.models.roles import TensorSpec

Model = Any
"""A torch module that maps inputs to hidden states; its `readout` is the layer whose weight the loss applies to
them."""


def build(config: RunConfig) -> tuple[Model, dict[str, TensorSpec]]:
    """The model with unset weights, on torch's current default device, and the spec of each of its tensors.

    Raises `RequestError` for an architecture that has no width rule.
    """
    built: tuple[Model, dict[str, TensorSpec]] = import_module(config.kind.module).of_run(config)
    return built


def flops_per_token(model: Model, config: RunConfig) -> int:
    """Forward and backward, per predicted token or example."""
    flops: int = import_module(config.kind.module).flops(model, config)
    return flops


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def about(config: RunConfig) -> list[str]:
    """What the name of the run's architecture stands for here, a line each; none for kinds that have no names."""
    lines: list[str] = import_module(config.kind.module).about(config)
    return lines
