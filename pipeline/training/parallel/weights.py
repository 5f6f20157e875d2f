"""Weights and gradients as the processes of a run hold them, whoever shards them: their shares, and the whole."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pipeline.training.parallel import zero
from pipeline.training.parallel.fsdp import fsdp_share, local_rows
from pipeline.training.parallel.share import Share, replica


def shares(trainer: pl.Trainer, model: nn.Module) -> Iterator[Share]:
    """The shares of this process, at most one of every parameter of `model`, with its name."""
    for name, parameter in model.named_parameters():
        if zero.is_zero(trainer):
            share = zero.zero_share(trainer, name, parameter)
        elif isinstance(parameter, DTensor):
            share = fsdp_share(name, parameter)
        else:
            share = replica(name, parameter)
        if share is not None:
            yield share


def torch_optimizer(trainer: pl.Trainer) -> Optimizer:
    """The optimizer that holds the state of the shares."""
    return zero.torch_optimizer(trainer) if zero.is_zero(trainer) else trainer.optimizers[0]


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether no process has all of its value."""
    return isinstance(parameter, DTensor) or zero.is_partitioned(parameter)


def whole(parameter: Any) -> Tensor:
    """A parameter's value, put together from all processes, which all have to call this; on the CPU."""
    if zero.is_partitioned(parameter):
        return zero.gathered(parameter)
    value: Tensor = parameter.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).to("cpu", copy=True)


def gradient_rows(parameter: nn.Parameter, *, of_zero: bool) -> tuple[Tensor | None, int]:
    """The rows of the gradient that this process has, and the first of them."""
    gradient = zero.gathered_gradient(parameter) if of_zero else parameter.grad
    if gradient is not None and gradient.is_sparse:
        gradient = gradient.to_dense()
    return local_rows(gradient) if isinstance(gradient, DTensor) else (gradient, 0)
