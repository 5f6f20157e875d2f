"""From a run's settings to its model: the one place that knows all kinds."""

from typing import TypeAlias

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.models import gpt, mlp
from pipeline.models.gpt import GPT
from pipeline.models.mlp import MLP
from pipeline.models.roles import TensorSpec

Model: TypeAlias = GPT | MLP
"""Maps inputs to hidden states; `readout` is the layer whose weight the loss applies to them."""


def build(config: RunConfig) -> tuple[Model, dict[str, TensorSpec]]:
    """The model with unset weights, on torch's current default device, and the spec of each of its tensors.

    Raises `RequestError` for an architecture that has no width rule.
    """
    if config.data.dimensions:
        perceptron = mlp.build(config.model, config.width, *config.data.dimensions)
        return perceptron, mlp.tensor_specs(perceptron, config.base_width)
    transformer = gpt.build(config.model, config.width, config.seq_len)
    if config.depth_scaling == "none":
        return transformer, gpt.tensor_specs(transformer, config.base_width)
    if gpt.ends_branches_with_norms(transformer):
        raise RequestError(f"--depth_scaling: {config.model.name} normalizes its residual branches, which undoes it")
    return transformer, gpt.tensor_specs(transformer, config.base_width, config.base_depth)


def flops_per_token(model: Model, config: RunConfig) -> int:
    """Forward and backward, per predicted token or example."""
    return gpt.flops_per_token(model, config.seq_len) if isinstance(model, GPT) else mlp.flops_per_example(model)


def parameter_count(model: Model) -> int:
    return sum(p.numel() for p in model.parameters())
