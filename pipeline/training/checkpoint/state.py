"""The state of a run that is to survive it: weights and the optimizer's, under every strategy, to checkpoints and back.

Names in a checkpoint: ``model.NAME`` for weights, ``optimizer.KEY.NAME`` for the optimizer's state of the same
parameter; ``beside.NAME`` for whole tensors of diagnostics.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipeline.training.checkpoint import files
from pipeline.training.checkpoint.files import Checkpoint, Damaged, Piece
from pipeline.training.parallel import zero
from pipeline.training.parallel.ranks import gather, world
from pipeline.training.parallel.share import Share, flat
from pipeline.training.parallel.weights import shares, torch_optimizer


def _part(value: Tensor, share: Share) -> Tensor:
    """The share's range of a state of its owner."""
    local = value.to_local() if isinstance(value, DTensor) else value
    return flat(local)[share.offset : share.offset + share.weights.numel()]


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def save(
    trainer: pl.Trainer,
    model: nn.Module,
    folder: Path,
    state: Mapping[str, Any],
    keep: int,
    beside: Mapping[str, Tensor],
) -> None:
    """Write the checkpoint of this step to `folder` and keep the newest `keep`; to be called by all processes.

    `state`: what is no tensor, as JSON holds it, and `beside`: further tensors, both the same on all processes. Raises
    `OSError`, on all processes, where the disk fails; the checkpoints that were there stay.
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
        if rank == 0:
            pieces |= {f"beside.{name}": Piece(tuple(t.shape), 0, t.flatten()) for name, t in beside.items()}
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
    optimizer = torch_optimizer(trainer)
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
def restore(trainer: pl.Trainer, model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Put the weights and the optimizer's state of a checkpoint where this process keeps its share of them; what it
    holds beside them.

    Raises `Damaged` where the checkpoint is of another model.
    """
    optimizer = torch_optimizer(trainer)
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
    if zero.is_zero(trainer):
        zero.refresh_(model, lambda name, *place: checkpoint.read(f"model.{name}", *place))
    beside = [name for name in checkpoint.shapes if name.startswith("beside.")]
    return {name.removeprefix("beside."): checkpoint.tensor(name) for name in beside}


def _check_shapes(model: nn.Module, checkpoint: Checkpoint) -> None:
    saved = {name.removeprefix("model."): s for name, s in checkpoint.shapes.items() if name.startswith("model.")}
    ours = {name: zero.shape(p) for name, p in model.named_parameters()}
    for name in sorted(saved.keys() | ours.keys()):
        if saved.get(name) != ours.get(name):
            raise Damaged(f"it is of another model: {name} differs")
