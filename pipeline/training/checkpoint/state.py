"""What of a run is to survive it: found in memory under every strategy, written to checkpoints and put back.

Names in a checkpoint: ``model.NAME`` for weights, ``optimizer.KEY.NAME`` for the optimizer's state of the same parameter.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from pipeline.training.checkpoint import files as files
from pipeline.training.checkpoint.files import Checkpoint, Piece
from pipeline.training.strategies import gather, is_zero, world


@dataclass(frozen=True)
class Share:
    """The contiguous range of a parameter's elements that this process holds in fp32, and the optimizer's state of it."""

    name: str
    shape: tuple[int, ...]
    start: int
    weights: Tensor
    """1-D, a view: what is copied into it is what trains on."""
    owner: nn.Parameter
    """The tensor under which the torch optimizer keeps its state: the parameter, or a flat one that holds many."""
    offset: int
    """Where the range starts in `owner`, flattened."""
    replicated: bool
    """Whether every process holds the same."""


def shares(trainer: pl.Trainer, model: nn.Module) -> Iterator[Share]:
    """The shares of this process, at most one of every parameter of `model`, with its name."""
    for name, parameter in model.named_parameters():
        if is_zero(trainer):
            share = _zero_share(trainer.optimizers[0], name, parameter)
            if share is not None:
                yield share
        elif isinstance(parameter, DTensor):
            _, first = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            local, row = parameter.to_local(), math.prod(parameter.shape[1:])
            if local.numel():
                start = first[0] * row
                yield Share(name, tuple(parameter.shape), start, _flat(local), parameter, 0, replicated=False)
        else:
            yield Share(name, tuple(parameter.shape), 0, _flat(parameter), parameter, 0, replicated=True)


def _zero_share(zero: Any, name: str, parameter: Any) -> Share | None:
    if hasattr(parameter, "ds_tensor"):  # stage 3: every parameter is cut into equal ranges, the last one padded
        rank, _ = world()
        shape, size = tuple(parameter.ds_shape), parameter.ds_tensor.numel()
        start = rank * size
        count = min(size, parameter.ds_numel - start)
        if count <= 0:
            return None
        if not parameter.requires_grad:
            return Share(name, shape, start, parameter.ds_tensor[:count], parameter, 0, replicated=False)
        group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
        flat = zero.fp32_partitioned_groups_flat[group]
        return Share(name, shape, start, flat[offset : offset + count], flat, offset, replicated=False)
    if not parameter.requires_grad:
        return Share(name, tuple(parameter.shape), 0, _flat(parameter), parameter, 0, replicated=True)
    mapping = parameter._hp_mapping  # stages 1 and 2: all parameters of a group in a row, cut into equal ranges
    if mapping is None:
        return None
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    start, offset = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
    return Share(name, tuple(parameter.shape), start, mapping.hp_fragment, flat, offset, replicated=False)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1)


def _torch_optimizer(trainer: pl.Trainer) -> torch.optim.Optimizer:
    optimizer: Any = trainer.optimizers[0]
    inner: torch.optim.Optimizer = optimizer.optimizer if is_zero(trainer) else optimizer
    return inner


def _part(value: Tensor, share: Share) -> Tensor:
    """The share's range of a state of its owner."""
    local = value.to_local() if isinstance(value, DTensor) else value
    return _flat(local)[share.offset : share.offset + share.weights.numel()]


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def save(trainer: pl.Trainer, model: nn.Module, folder: Path, state: Mapping[str, Any], keep: int) -> None:
    """Write the checkpoint of this step to `folder` and keep the newest `keep`; to be called by all processes.

    `state`: what is no tensor, as JSON holds it, the same on all processes. Raises `OSError`, on all processes, where the
    disk fails; the checkpoints that were there stay.
    """
    rank, _ = world()
    failure: OSError | None = None
    scratch, shard = None, None
    try:
        scratch = files.begin(folder, trainer.global_step) if rank == 0 else None
    except OSError as error:
        failure = error
    _agree(failure)
    scratch = gather(scratch)[0]
    try:
        pieces = _pieces(trainer, model, first=rank == 0)
        shard = files.write_shard(scratch, rank, pieces) if pieces else None
    except OSError as error:
        failure = error
    shards = gather(shard)
    try:
        _agree(failure)
        if rank == 0:
            files.publish(scratch, trainer.global_step, state, [shard for shard in shards if shard])
    except OSError as error:
        failure = error
    try:
        if rank == 0:
            files.prune(folder, keep)
    except OSError as error:
        failure = failure or error
    _agree(failure)


def _agree(failure: OSError | None) -> None:
    """Raise the failure of any process on all of them: none waits for one that gave up."""
    message = (failure.errno, failure.strerror or str(failure), failure.filename) if failure else None
    first = next((other for other in gather(message) if other), None)
    if first is not None:
        raise OSError(*first)


def _pieces(trainer: pl.Trainer, model: nn.Module, first: bool) -> dict[str, Piece]:
    """What this process writes: all that it alone holds and, in the `first` process, what all hold."""
    optimizer = _torch_optimizer(trainer)
    pieces = {}
    for share in shares(trainer, model):
        if share.replicated and not first:
            continue
        pieces[f"model.{share.name}"] = Piece(share.shape, share.start, share.weights)
        for key, value in optimizer.state.get(share.owner, {}).items():
            if not isinstance(value, Tensor):
                continue  # SGD's momentum buffer before there is one
            if value.ndim == 0:
                if share.start == 0:
                    pieces[f"optimizer.{key}.{share.name}"] = Piece((), 0, value.clone().view(1))  # one for many
            else:
                pieces[f"optimizer.{key}.{share.name}"] = Piece(share.shape, share.start, _part(value, share))
    return pieces


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@torch.no_grad()
def restore(trainer: pl.Trainer, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights and the optimizer's state of a checkpoint where this process keeps its share of them.

    Raises `Damaged` where the checkpoint is of another model.
    """
    optimizer = _torch_optimizer(trainer)
    _check_shapes(model, checkpoint)
    keys = {name.split(".", 2)[1] for name in checkpoint.shapes if name.startswith("optimizer.")}
    for share in shares(trainer, model):
        end = share.start + share.weights.numel()
        share.weights.copy_(checkpoint.read(f"model.{share.name}", share.start, end))
        for key in keys:
            saved = f"optimizer.{key}.{share.name}"
            if saved not in checkpoint.shapes:
                continue
            state = optimizer.state[share.owner]
            if checkpoint.shapes[saved] == () and share.shape != ():
                state[key] = checkpoint.tensor(saved)
                continue
            if not isinstance(state.get(key), Tensor):
                state[key] = torch.zeros_like(share.owner)
            _part(state[key], share).copy_(checkpoint.read(saved, share.start, end))
    if is_zero(trainer):
        _refresh_zero(model, checkpoint)


def _check_shapes(model: nn.Module, checkpoint: Checkpoint) -> None:
    saved = {name.removeprefix("model."): s for name, s in checkpoint.shapes.items() if name.startswith("model.")}
    ours = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in model.named_parameters()}
    for name in sorted(saved.keys() | ours.keys()):
        if saved.get(name) != ours.get(name):
            raise files.Damaged(f"it is of another model: {name} differs")


def _refresh_zero(model: nn.Module, checkpoint: Checkpoint) -> None:
    """The copies of the weights that forward passes use, beside the ones that the optimizer updates."""
    named: Iterator[tuple[str, Any]] = model.named_parameters()
    for name, parameter in named:
        if hasattr(parameter, "ds_tensor"):
            rank, _ = world()
            target = parameter.ds_tensor.view(-1)
            start = rank * target.numel()
            end = min(start + target.numel(), parameter.ds_numel)
            if start < end:
                target[: end - start].copy_(checkpoint.read(f"model.{name}", start, end))
        else:
            parameter.copy_(checkpoint.tensor(f"model.{name}"))
