"""Strategies: how a run is spread over processes, one entry for each name that `--strategy` takes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies import Strategy as LightningStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.training.parallel.fsdp import fsdp_strategy, shard_
from pipeline.training.parallel.zero import zero_strategy


@dataclass(frozen=True)
class Strategy:
    """One way to spread a run over processes."""

    lightning: Callable[[RunConfig], LightningStrategy | str]
    """What Lightning's trainer takes."""
    standing: Callable[[int, int], float]
    """Bytes that stay in a process between passes per byte of the whole weights, beside the weights that are there
    already: gradients and the optimizer's state; of the optimizer's moments and the number of processes."""
    shard_: Callable[[nn.Module, DeviceMesh], None] | None = None
    """Shards a model over the processes where Lightning's strategy leaves that to the module."""


def _ddp(config: RunConfig) -> DDPStrategy:
    # no buffer ever changes; gradients that live in the buckets are not copied
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def _replicated(moments: int, processes: int) -> float:
    return 1 + moments


def _sharded(moments: int, processes: int) -> float:
    # where weights are gathered anew for every block, the whole of them is a safe upper bound
    return (2 + moments) / processes


STRATEGIES = {
    "auto": Strategy(lambda config: _ddp(config) if config.world_size > 1 else "auto", _replicated),
    "ddp": Strategy(_ddp, _replicated),
    "fsdp": Strategy(fsdp_strategy, _sharded, shard_),
    "deepspeed_zero1": Strategy(
        partial(zero_strategy, stage=1), lambda moments, processes: 1 + (1 + moments) / processes
    ),
    "deepspeed_zero2": Strategy(partial(zero_strategy, stage=2), _sharded),
    "deepspeed_zero3": Strategy(partial(zero_strategy, stage=3), _sharded),
}


def strategy_of(config: RunConfig) -> Strategy:
    """Raises `RequestError` for a name that the table does not have."""
    if config.strategy not in STRATEGIES:
        raise RequestError(f"--strategy {config.strategy} is none of {', '.join(STRATEGIES)}")
    return STRATEGIES[config.strategy]


def environment() -> list[ClusterEnvironment]:
    """The plugin that says who starts a run's processes: SLURM where srun started several, else who Lightning finds.

    Lightning would take SLURM's variables, which all that runs within an allocation has, for a start by srun. The job
    script requeues, not Lightning.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    others = (TorchElasticEnvironment, LSFEnvironment, MPIEnvironment, LightningEnvironment)
    return [next(other() for other in others if other.detect())]
