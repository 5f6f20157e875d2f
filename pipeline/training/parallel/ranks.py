"""Ranks: the processes of a run, and what they tell one another."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
