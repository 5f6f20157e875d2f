"""The loop of a run in one process: what Lightning's does for it, without the hooks that nobody here listens to.

A small model's step is shorter than those (a third to a half of an MLP's). Order and arithmetic are Lightning's.
"""

import itertools
from collections.abc import Callable, Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.optim import Optimizer

from pipeline.data.batches import Batch
from pipeline.training.descent import Descent
from pipeline.training.module import TrainingModule
from pipeline.training.recorder import Recorder
from pipeline.training.resume import set_learning_rates

NOTHING = itertools.repeat(0)
"""What Lightning is to hand over where this loop reads the batches itself: its way of asking for one is long, too."""


def shorten(trainer: pl.Trainer, recorder: Recorder) -> None:
    """Give a trainer of one process this loop, and `fit` nothing to load."""
    trainer.fit_loop.epoch_loop = ShortLoop(trainer, recorder)


class ShortLoop(_TrainingEpochLoop):
    """Only the recorder hears of its steps, before the optimizer's (`on_before_optimizer_step`) and after them
    (`on_train_batch_end`)."""

    def __init__(self, trainer: pl.Trainer, recorder: Recorder) -> None:
        super().__init__(trainer, max_steps=trainer.max_steps)
        self.recorder = recorder

    def run(self, data_fetcher: object) -> None:
        trainer, module, recorder = self.trainer, self.trainer.lightning_module, self.recorder
        assert isinstance(module, TrainingModule)
        optimizer = trainer.optimizers[0]
        step = Descent(module, optimizer) if Descent.suits(module) else by_autograd
        ready, away = module.train_dataloader(), module.device.type != "cpu"
        taken = self.automatic_optimization.optim_progress.optimizer.step.total
        while taken.completed < self.max_steps and not trainer.should_stop:
            batches = [next(ready) for _ in range(module.accumulation)]
            if away:
                batches = [trainer.strategy.batch_to_device(batch) for batch in batches]
            before = lambda: recorder.on_before_optimizer_step(trainer, module, optimizer)  # noqa: E731
            step(module, optimizer, batches, before if recorder.wants_gradients(trainer) else None)
            taken.completed += 1
            set_learning_rates(trainer, taken.completed)
            recorder.on_train_batch_end(trainer, module)


def by_autograd(
    module: TrainingModule, optimizer: Optimizer, batches: Sequence[Batch], before: Callable[[], None] | None
) -> None:
    """An optimizer step. `before` it the parameters have the gradient, summed up over micro-batches, not clipped
    yet."""
    optimizer.zero_grad()
    for batch in batches:
        torch.autograd.backward(module.training_step(batch, 0) / len(batches))
    if before is not None:
        before()
    module.clip_gradients()
    optimizer.step()
