"""DeepSpeed's ZeRO: its strategy, also on a CPU, and all of its private names.

Stages 1 and 2 keep a flat fp32 copy of each parameter group, cut into equal ranges, one per rank; stage 3 cuts every
parameter into equal ranges, the last one padded.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.training.parallel.ranks import world
from pipeline.training.parallel.share import Share, flat, replica


def zero_strategy(config: RunConfig, stage: int) -> "ZeroStrategy":
    """Raises `RequestError` where DeepSpeed is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise RequestError(f"--strategy {config.strategy} needs the package deepspeed: pip install deepspeed")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when it is imported
    return ZeroStrategy(
        config={
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": config.grad_clip or 0.0,
            "train_micro_batch_size_per_gpu": 1,  # only for throughput that DeepSpeed would print
            "steps_per_print": math.inf,
        },
        process_group_backend=None if torch.cuda.is_available() else "gloo",
    )


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy without what this project does itself (autocast, checkpoints), also on a CPU."""

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


def is_zero(trainer: pl.Trainer) -> bool:
    """Whether DeepSpeed holds the gradients and the optimizer, clips, and accumulates."""
    return isinstance(trainer.strategy, ZeroStrategy)


# ---------------------------------------------------------------------------------------------------------------------
# Gradients


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether more passes follow before the step."""
    return not trainer.model.is_gradient_accumulation_boundary()


def gradient_norm(trainer: pl.Trainer) -> float:
    """Global norm of the last step's gradient before clipping."""
    return float(trainer.model.get_global_grad_norm())


def gathered_gradient(parameter: nn.Parameter) -> Tensor | None:
    from deepspeed.utils import safe_get_full_grad

    gradient: Tensor | None = safe_get_full_grad(parameter)
    return gradient


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether it is stage 3's, which partitions every parameter."""
    return hasattr(parameter, "ds_tensor")


def shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Of the whole parameter; of any, DeepSpeed's or not."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def gathered(parameter: nn.Parameter) -> Tensor:
    """The whole value of a partitioned parameter, on the CPU."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().to("cpu", copy=True)


def torch_optimizer(trainer: pl.Trainer) -> Optimizer:
    optimizer: Any = trainer.optimizers[0]
    inner: Optimizer = optimizer.optimizer
    return inner


def zero_share(trainer: pl.Trainer, name: str, parameter: Any) -> Share | None:
    """None where this process has no element."""
    zero: Any = trainer.optimizers[0]
    if is_partitioned(parameter):
        start, count = _range(parameter)
        if count <= 0:
            return None
        if not parameter.requires_grad:
            return Share(name, shape(parameter), start, parameter.ds_tensor[:count], parameter)
        group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
        fp32 = zero.fp32_partitioned_groups_flat[group]
        return Share(name, shape(parameter), start, fp32[offset : offset + count], fp32, offset)
    if not parameter.requires_grad:
        return replica(name, parameter)
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    fp32 = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    start, offset = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
    return Share(name, shape(parameter), start, mapping.hp_fragment, fp32, offset)


def _range(parameter: Any) -> tuple[int, int]:
    """Where this rank's range of a partitioned parameter starts, and how many elements of it are no padding."""
    start = world()[0] * parameter.ds_tensor.numel()
    return start, min(parameter.ds_tensor.numel(), parameter.ds_numel - start)


def refresh_(model: nn.Module, read: Callable[..., Tensor]) -> None:
    """Fill the copies of the weights that forward passes use, beside the ones that the optimizer updates, with
    `read(name)`, or `read(name, start, end)`: elements, 1-D."""
    named: Iterator[tuple[str, Any]] = model.named_parameters()
    for name, parameter in named:
        if is_partitioned(parameter):
            start, count = _range(parameter)
            if count > 0:
                flat(parameter.ds_tensor)[:count].copy_(read(name, start, start + count))
        else:
            parameter.copy_(read(name).view(parameter.shape))
