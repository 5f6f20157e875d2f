"""FSDP2: every parameter sharded by its rows, with torch's `fully_shard`."""

import math
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from pipeline.config import RunConfig
from pipeline.training.parallel.share import Share, flat


def fsdp_strategy(config: RunConfig) -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=config.world_size, tensor_parallel_size=1)


def shard_(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every parameter of a model over the mesh, block by block where it has blocks."""
    for block in getattr(getattr(model, "transformer", None), "h", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.register_forward_hook(_ask_for_gradient, prepend=True)


def _ask_for_gradient(model: nn.Module, inputs: Any, h: Tensor) -> Tensor:
    """Gradients are reduced once one has come back to the model's output, which needs none where only the readout is
    trained."""
    return h.requires_grad_() if torch.is_grad_enabled() and not h.requires_grad else h


def reshard_(model: nn.Module) -> None:
    """Give up the gathered parameters that a forward pass without a backward pass leaves behind."""
    if isinstance(model, FSDPModule):
        model.reshard()


def local_rows(tensor: DTensor) -> tuple[Tensor, int]:
    """The rows of a sharded tensor that this process has, and the first of them."""
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tensor.to_local(), offset[0]


def fsdp_share(name: str, parameter: Any) -> Share | None:
    """None where this process has no row."""
    rows, first = local_rows(parameter)
    if not rows.numel():
        return None
    return Share(name, tuple(parameter.shape), first * math.prod(parameter.shape[1:]), flat(rows), parameter)
