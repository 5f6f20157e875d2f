"""Resuming: the checkpoint that a run goes on from, and a trainer made to stand where that was written."""

import sys
from collections.abc import Mapping

import lightning.pytorch as pl

from pipeline.config import RunConfig, config_hash, older_hash
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint, newest
from pipeline.training.checkpoint.state import restore
from pipeline.training.module import TrainingModule


def checkpoint_of(config: RunConfig, run: RunDir) -> Checkpoint | None:
    """The newest good checkpoint to continue from; says so where a newer one is damaged. Raises `RequestError`."""
    checkpoint, complaints = newest(run.checkpoints)
    if complaints and checkpoint is None:
        raise RequestError(f"{complaints[0]}: delete {run.checkpoints} to start the run over")
    if checkpoint and checkpoint.state.get("config") not in (config_hash(config), older_hash(config)):
        raise RequestError(
            f"checkpoint {checkpoint.path} is of another config ({checkpoint.state.get('config')}, not "
            f"{config_hash(config)}): delete it to start the run over"
        )
    if checkpoint and not run.records():  # that of its first step at least
        raise RequestError(f"{run.metrics_file} is gone, so the run cannot go on: delete {run.path} to run it again")
    for complaint in complaints:
        assert checkpoint is not None
        print(f"{complaint}; going on from step {checkpoint.step}", file=sys.stderr)
    return checkpoint


def other_arithmetic(run: RunDir, here: Mapping[str, str]) -> str | None:
    """What to say where a run goes on with other arithmetic (`machine.arithmetic`) than it began with; None where it is
    the same, or was not recorded yet."""
    began = run.recorded().get("arithmetic", here)
    changed = [name for name in began | here if began.get(name) != here.get(name)]
    if not changed:
        return None
    words = ", ".join(f"{name} {here.get(name, '-')} after {began.get(name, '-')}" for name in changed)
    return f"{run.path} goes on with other arithmetic ({words}): the same to rounding, no longer bit for bit"


def resume(trainer: pl.Trainer, module: TrainingModule, checkpoint: Checkpoint) -> None:
    """Weights, optimizer, data, step and learning rates as they were; to be called by all processes.

    Raises `RequestError` where the run reads other data now, `Damaged` where the checkpoint is of another model.
    """
    module.beside = restore(trainer, module.model, checkpoint)
    module.restore_data(checkpoint.state["data"], checkpoint.step)
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = checkpoint.step
    loop._batches_that_stepped = checkpoint.step
    set_learning_rates(trainer, checkpoint.step)


def set_learning_rates(trainer: pl.Trainer, step: int) -> None:
    """Those of the update that follows step `step`."""
    for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
        scheduler.last_epoch = step
        for group, base, factor in zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(step)
