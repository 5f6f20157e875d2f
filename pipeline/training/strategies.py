"""How a run is spread over processes: Lightning's strategies, set up for this project, DeepSpeed's on a CPU included."""

import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pipeline.config import RunConfig
from pipeline.errors import RequestError


def strategy_of(config: RunConfig) -> Strategy | str:
    """The Lightning strategy that `config.strategy` names; ``auto`` is one process, or DDP."""
    if config.strategy == "fsdp":
        return ModelParallelStrategy(data_parallel_size=config.world_size, tensor_parallel_size=1)
    if config.strategy.startswith("deepspeed"):
        return _deepspeed(config)
    if config.strategy == "ddp" or config.world_size > 1:
        # no buffer ever changes; gradients that live in the buckets are not copied
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return "auto"


def environment() -> list[ClusterEnvironment]:
    """Plugins for the cluster's environment. Under SLURM the job script requeues, not Lightning."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def shard_(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every parameter of a model over the mesh, by its rows, block by block where it has blocks (FSDP2)."""
    for block in getattr(getattr(model, "transformer", None), "h", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def reshard_(model: nn.Module) -> None:
    """Give up the gathered parameters that a forward pass without a backward pass leaves behind."""
    if isinstance(model, FSDPModule):
        model.reshard()


# ---------------------------------------------------------------------------------------------------------------------
# DeepSpeed


def _deepspeed(config: RunConfig) -> "ZeroStrategy":
    if importlib.util.find_spec("deepspeed") is None:
        raise RequestError(f"--strategy {config.strategy} needs the package deepspeed: pip install deepspeed")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when it is imported
    return ZeroStrategy(
        config={
            "zero_optimization": {"stage": int(config.strategy[-1])},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": config.grad_clip or 0.0,
            "train_micro_batch_size_per_gpu": 1,  # only for throughput that DeepSpeed would print
            "steps_per_print": math.inf,
        },
        process_group_backend=None if torch.cuda.is_available() else "gloo",
    )


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy without what this project does itself (autocast, checkpoints), and also on a CPU."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._on_cpu = not torch.cuda.is_available()

    def setup_environment(self) -> None:
        if self._on_cpu:
            # DeepSpeed's own shared-memory collectives need a compiler and a minute; gloo does
            import deepspeed

            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            super(DeepSpeedStrategy, self).setup_environment()  # its own refuses CPUs
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        if self._on_cpu:
            self.set_world_ranks()
            self._init_deepspeed_distributed()
        else:
            super().setup_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0) if self._on_cpu else super().root_device  # DeepSpeed wants an index

    def init_deepspeed(self) -> None:
        """Without Lightning's warning that gradients are clipped by DeepSpeed: they are meant to be."""
        self._initialize_deepspeed_train(self.model)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """With the loss divided by the number of passes once: Lightning has done it, DeepSpeed would do it again."""
        loss: Tensor = super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)
        return loss


def world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks."""
    _, size = world()
    values = [value] * size
    if size > 1:
        dist.all_gather_object(values, value)
    return values


def summed(total: Tensor) -> Tensor:
    """The tensor added up over all processes, in place. To be called by all of them."""
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


def whole(parameter: Any) -> Tensor:
    """A parameter's value, put together from all processes, which all have to call this; on the CPU."""
    if hasattr(parameter, "ds_shape"):  # DeepSpeed's stage 3
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            gathered: Tensor = parameter.detach().to("cpu", copy=True)
        return gathered
    value: Tensor = parameter.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).to("cpu", copy=True)


def agreement() -> Callable[..., tuple[bool, ...]]:
    """A function by which all processes come to know what any of them says yes to, flag by flag; over gloo, so that no
    accelerator has to wait for the answer. To be called by all processes."""
    _, size = world()
    if size == 1:
        return lambda *flags: flags
    group = dist.new_group(backend="gloo")

    def any_of(*flags: bool) -> tuple[bool, ...]:
        said = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(said, op=dist.ReduceOp.MAX, group=group)
        return tuple(map(bool, said.tolist()))

    return any_of


def is_zero(trainer: pl.Trainer) -> bool:
    """Whether DeepSpeed holds the gradients and the optimizer."""
    return isinstance(trainer.strategy, ZeroStrategy)
