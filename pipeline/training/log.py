"""The log of a run: records of steps, read off the device, put together, handed to everybody who keeps them.

Shapes: S steps, A passes per step, F fields of a `LossOutput`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import lightning.pytorch as pl
import torch

from pipeline.config import RunConfig
from pipeline.entries.losses import LOSSES
from pipeline.losses import LossOutput
from pipeline.run.result import Record
from pipeline.training.calendar import Clock
from pipeline.training.module import TrainingModule

OF_THE_LOGITS = ("max_probability", "entropy", "calibration_error")


class Means(NamedTuple):
    """A `LossOutput` as numbers."""

    loss: float
    cross_entropy: float
    logit_rms: float
    accuracy: float

    @classmethod
    def of(cls, vector: Sequence[float]) -> Self:
        """From the values of `LossOutput.to_vector`."""
        loss, cross_entropy, logit_mean_square, accuracy = vector
        return cls(loss, cross_entropy, math.sqrt(logit_mean_square), accuracy)


def read_losses(trainer: pl.Trainer, module: TrainingModule) -> list[Means]:
    """What every step since the last reading gave, means over its passes and over all ranks."""
    if len(module.passes) == trainer.world_size == 1:
        return [Means.of(module.passes.pop().tolist())]
    passes_SAF = torch.stack(module.passes).view(-1, module.accumulation, len(LossOutput._fields))
    module.passes.clear()
    means_SF = trainer.strategy.reduce(passes_SAF.mean(1), reduce_op="mean")
    assert isinstance(means_SF, torch.Tensor)
    return [Means.of(row) for row in means_SF.tolist()]


class Log:
    """Makes the records of a run and gives each to every sink."""

    def __init__(self, config: RunConfig, clock: Clock, sinks: list[Callable[[Record], None]]) -> None:
        self.config, self.clock, self.sinks = config, clock, sinks
        self.count: int | None = 0
        """Records of the run so far; None: not known, since it was begun by a version that did not count."""

    def begin(self, step: int) -> None:
        """Rates are those since this step."""
        self._last_tokens, self._last_seconds = self.config.tokens_after(step), self.clock.seconds

    def add(
        self,
        trainer: pl.Trainer,
        module: TrainingModule,
        step: int,
        output: Means,
        *,
        validate: bool,
        measured: dict[str, float],
    ) -> Record:
        """The record of this step, which has just ended, with what was `measured` of it inside the model; to be called
        by all ranks."""
        c, tokens, seconds = self.config, self.config.tokens_after(step), self.clock.seconds
        rate = (tokens - self._last_tokens) / max(1e-9, seconds - self._last_seconds)
        values: dict[str, Any] = {
            "step": step,
            "loss": output.loss,
            "lr": c.lr * trainer.lr_scheduler_configs[0].scheduler.lr_lambdas[0](step - 1),
            "grad_norm": module.gradient_norm,
            "tokens": tokens,
            "tokens_per_second": round(rate, 1),
            "logit_rms": output.logit_rms,
            **self._beside_the_loss(output),
        }
        if validate:
            vector, logits = module.validate()
            validation = Means.of(vector.tolist())
            beside = self._beside_the_loss(validation) | {key: logits[key] for key in OF_THE_LOGITS if key in logits}
            values |= {"val_loss": validation.loss, **{f"val_{key}": value for key, value in beside.items()}}
        record = Record(values | measured)
        self.begin(step)
        self.count = None if self.count is None else self.count + 1
        for sink in self.sinks:
            sink(record)
        return record

    def _beside_the_loss(self, output: Means) -> dict[str, float]:
        """Cross-entropy where the loss is another, accuracy where there are classes."""
        beside = {}
        if LOSSES[self.config.loss].beside or self.config.z_loss:
            beside["cross_entropy"] = output.cross_entropy
        if self.config.n_classes is not None:
            beside["accuracy"] = output.accuracy
        return beside
