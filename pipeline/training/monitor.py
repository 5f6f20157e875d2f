"""The monitor, a callback that looks inside a model while it trains: coordinate checks, gradients, sharpness.

In any Lightning project: ``Trainer(callbacks=[Monitor((inputs, targets), every=100)])``.

Shapes: P sequences or examples of the probe, O rows of a weight (fan-out).
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pipeline.config import RunConfig
from pipeline.diagnostics.coordinate_check import CoordinateCheck
from pipeline.diagnostics.layers import inner, layers
from pipeline.diagnostics.sums import Sums
from pipeline.entries.losses import LOSSES
from pipeline.models.init import initial_values
from pipeline.training.curvature import Curvature
from pipeline.training.module import TrainingModule, first_samples, inputs_and_targets
from pipeline.training.parallel import zero
from pipeline.training.parallel.fsdp import reshard_
from pipeline.training.parallel.ranks import summed, world
from pipeline.training.parallel.weights import gradient_rows, whole


class Monitor(Callback):
    """Coordinate checks of a LightningModule on a fixed probe, and the gradients of the same steps.

    `values` are the flat numbers of step `step`, the last one checked; they go to the trainer's loggers too. Training
    itself is left as it is, bit for bit.
    """

    def __init__(
        self,
        probe: Tensor | tuple[Tensor, Tensor],
        *,
        every: int = 100,
        first: int = 0,
        when: Callable[[int], bool] | None = None,
        reference: Literal["init", "previous"] = "init",
        initial: Callable[[str], Tensor] | None = None,
        spectra: bool = False,
        model: Callable[[pl.LightningModule], nn.Module] = inner,
        log: bool = True,
    ) -> None:
        """`probe`: inputs (P, ...) of the model, or inputs and targets (P, ...), class indices that the logits are
        judged by.

        A check follows every `every`-th step, the last of the trainer's `max_steps`, and each of the first `first`; or
        the steps 1, 2, ... that `when` says. `initial(name)`: the initial weight of that name, which a resumed run
        needs; without it, a copy of the weights is kept from when training starts. `model`: what to look into, the
        whole module by default; it is called with the probe. `log`: whether the trainer's loggers get the numbers.
        """
        self.inputs = probe[0] if isinstance(probe, tuple) else probe
        self.targets = probe[1] if isinstance(probe, tuple) else None
        self.every, self.first, self._when = every, first, when
        self.reference, self.initial, self.spectra = reference, initial, spectra
        self.model, self._logs = model, log  # `log` is a name that Lightning gives to callbacks
        self.step = -1
        self.values: dict[str, float] = {}

    def due(self, trainer: pl.Trainer, step: int) -> bool:
        """Whether a check follows this step."""
        if self._when is not None:
            return self._when(step)
        regular = self.every > 0 and (step % self.every == 0 or step == trainer.max_steps)
        return 1 <= step <= self.first or regular

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        rank, size = world()
        model = self.model(module)
        initial = self.initial or (_copies(model) if self.reference == "init" else None)
        self._check = CoordinateCheck(
            model,
            self.inputs,
            self.targets,
            initial=initial if self.reference == "init" else None,
            spectra=self.spectra,
            forward=lambda inputs: _forward(trainer, module, model, inputs),
            rank=rank,
            world=size,
            reduce=summed,
            shape=zero.shape,
        )
        self._seen = trainer.global_step
        self._gradients: Sums | None = None
        self._referred = False  # to the initial weights: at the first check, whenever that is
        if self.reference == "previous" and self.due(trainer, self._seen + 1):
            self._check.refer()
            reshard_(model)

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        """The gradient is whole now, summed up over micro-batches and ranks, and not clipped yet."""
        if zero.is_zero(trainer) and zero.accumulates(trainer):
            return
        if self.due(trainer, trainer.global_step + 1):
            self._gradients = gradients(self._check, module.device, of_zero=zero.is_zero(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self._seen:  # gradients are still accumulating
            return
        self._seen = step
        next_refers = self.reference == "previous" and self.due(trainer, step + 1)
        if self.due(trainer, step):
            if self.reference == "init" and not self._referred:
                self._check.refer()
                self._referred = True
            self.values = self._check.check(refer=next_refers)
            if self._gradients is not None:
                rank, size = world()
                squares, _vectors = self._gradients.reduced(summed, rank, size)
                self.values |= {key: math.sqrt(value) for key, value in squares.items()}
                self._gradients = None
            self.step = step
            for logger in trainer.loggers if self._logs else []:
                logger.log_metrics(self.values, step)
        elif next_refers:
            self._check.refer()
        else:
            return
        reshard_(self.model(module))


class RunMonitor(Monitor):
    """The monitor that a run's settings ask for; its numbers go into the record of the step (`Recorder`)."""

    def __init__(self, config: RunConfig, module: TrainingModule) -> None:
        d = config.diagnostics
        draw = initial_values(module.model, module.specs, module.scaling, config.seed)
        if d.initial == "keep" and d.on and d.reference == "init":
            draw = {name: draw(name) for name in module.specs}.__getitem__
        inputs, targets = inputs_and_targets(first_samples(module.data, config, d.probe))
        super().__init__(
            inputs if LOSSES[config.loss].scalar else (inputs, targets),
            when=lambda step: d.checks(step, config.last_step),
            reference=d.reference,
            initial=draw,
            spectra=d.spectra,
            model=_inner_model,
            log=False,
        )
        self.config = config
        self.curvature = Curvature(config, module) if d.sharpness_interval else None

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *arguments: Any) -> None:
        before, step = self._seen, trainer.global_step
        super().on_train_batch_end(trainer, module, *arguments)
        if (
            self.curvature
            and step != before
            and self.config.diagnostics.measures_sharpness(step, self.config.last_step)
        ):
            assert isinstance(module, TrainingModule)
            sharpness = self.curvature.measure(trainer, module)
            self.values = {**self.values, **sharpness} if self.step == step else sharpness
            self.step = step


def _inner_model(module: pl.LightningModule) -> nn.Module:
    assert isinstance(module, TrainingModule)
    model: nn.Module = module.model
    return model


def gradients(check: CoordinateCheck, device: torch.device, *, of_zero: bool) -> Sums:
    """Sums of squares of the gradient's entries, under the names of the check's weights; of this rank's rows, where
    gradients are sharded. `of_zero`: whether DeepSpeed holds them."""
    sums = Sums(device)
    for layer in check.layers:
        for attribute in layer.tensors:
            parameter = getattr(layer.module, attribute)
            if not parameter.requires_grad:
                continue
            gradient, first = gradient_rows(parameter, of_zero=of_zero)
            if gradient is None:
                continue
            squares_O = (
                gradient.double().square()
                if gradient.ndim == 1
                else gradient.square().sum(tuple(range(1, gradient.ndim)), dtype=torch.float64)
            )
            row = gradient[0].numel() if len(gradient) else 0
            for name, start, end in layer.rows(2**62):
                mine = squares_O[max(0, start - first) : max(0, end - first)]
                sums.add(f"gradient/{name}.{attribute}", mine.sum(), mine.numel() * row)
    return sums


def _copies(model: nn.Module) -> Callable[[str], Tensor]:
    """The weights as they are, on the CPU."""
    kept: dict[str, Tensor] = {}
    for layer in layers(model, zero.shape)[0]:
        for attribute, name in layer.tensors.items():
            if name not in kept:
                kept[name] = whole(getattr(layer.module, attribute))
    return kept.__getitem__


def _forward(trainer: pl.Trainer, module: pl.LightningModule, model: nn.Module, inputs: Tensor) -> Any:
    """Run the model through the strategy, whose wrappers may have to gather weights for it: as a validation step, in
    which no precision plugin has a say."""

    def precisely(inputs: Tensor) -> Any:
        with torch.autocast(module.device.type, enabled=False):
            return model(inputs)

    module.__dict__["validation_step"] = precisely
    try:
        return trainer.strategy.validation_step(inputs)
    finally:
        del module.__dict__["validation_step"]
