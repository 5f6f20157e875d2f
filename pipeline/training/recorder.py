"""What happens at the end of an optimizer step: validate, record, checkpoint, stop."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from pipeline.config import RunConfig, config_hash
from pipeline.losses import LossOutput
from pipeline.run.directory import MetricsWriter, RunDir
from pipeline.run.result import Record
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.checkpoint.state import restore, save
from pipeline.training.health import StopSignals, Watchdog
from pipeline.training.module import TrainingModule
from pipeline.training.monitor import Monitor
from pipeline.training.parallel.ranks import agreement, gather

ABOVE = 1.1  # times the first loss, or that of guessing: above lies what left the stable region

OF_THE_LOGITS = ("max_probability", "entropy", "calibration_error")


class Recorder(Callback):
    """At step boundaries, in this order: validation, one record to every sink, checkpoint; stops a diverged or an
    interrupted run.

    The order makes a resumed run repeat exactly what an uninterrupted one does. Losses stay on the device between
    records, so that an accelerator is not made to wait at every step.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDir,
        resumed: Checkpoint | None,
        metrics: MetricsWriter | None,
        sinks: list[Callable[[Record], None]],
        watchdog: Watchdog,
        monitor: Monitor | None = None,
    ) -> None:
        """`resumed`: the checkpoint to go on from, in the first process; `metrics` is None in every other one. `monitor`
        comes before this one in the trainer's callbacks; what it measured of a step is part of that step's record."""
        self.monitor = monitor
        self.config, self.run, self.resumed, self.metrics, self.watchdog = config, run, resumed, metrics, watchdog
        self.sinks = [metrics.append, *sinks] if metrics else []
        self.diverged_at: int | None = None
        self.aborted = self.interrupted = False
        self.stop = StopSignals()
        self._seconds = 0.0  # trained before this process, from the checkpoint
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Training time of the run so far, over all its processes in turn."""
        return self._seconds + (time.monotonic() - self._start if self._start is not None else 0.0)

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        path = gather(self.resumed.path if self.resumed else None)[0]
        if path is not None:
            checkpoint = self.resumed or Checkpoint(path)
            restore(trainer, module.model, checkpoint)
            module.restore_data(checkpoint.state["data"], checkpoint.step)
            _continue_at(trainer, checkpoint.step)
            self._seconds = checkpoint.state["seconds"]
            self.resumed = None  # it holds files open, and one of them may be deleted before long

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop.listen()  # now, since Lightning has just set handlers of its own
        self._agree = agreement()
        self._start = self._saved_at = time.monotonic()
        self._step = trainer.global_step
        self._bound: float | None = None
        self._above = 0  # records in a row, after warm-up, with a loss above the bound
        for record in self.run.records() if self.metrics else []:
            self._count_above(record)
        self._last_record = (trainer.global_step, self.seconds)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step, c = trainer.global_step, self.config
        if step == self._step:  # gradients are still accumulating
            return
        self._step = step
        self.watchdog.beat()
        last = step == c.steps
        validate = last or step % c.val_interval == 0
        monitored = self.monitor is not None and self.monitor.step == step
        record = monitored or self._regular(step)
        abort = c.abort_after is not None and self._above >= c.abort_after
        stop, due, abort = self._agree(self.stop.asked, self._checkpoint_due(), abort)
        checkpoint = last or stop or due or abort or step % c.checkpoint_interval == 0
        if not (record or checkpoint):
            return
        assert isinstance(module, TrainingModule)
        outputs = self._read(trainer, module)
        bad = [i for i, output in enumerate(outputs) if not output.loss.isfinite()]
        if bad:
            self.diverged_at = step - len(outputs) + 1 + bad[0]
            trainer.should_stop = True
        if record or bad:
            self._record(trainer, module, outputs[-1], validate and not bad)
        if checkpoint and not bad:
            self._save(trainer, module)
            if abort and not last:
                self.aborted = trainer.should_stop = True
            elif stop and not last:
                self.interrupted = trainer.should_stop = True

    def _regular(self, step: int) -> bool:
        """Whether there is a record of this step whatever is measured inside the model."""
        c = self.config
        return step in (1, c.steps) or step % c.val_interval == 0 or step % c.log_interval == 0

    def _count_above(self, record: Record) -> None:
        """What learns too slowly hovers about its first loss, or about that of guessing; what has left lies well above."""
        if not self._regular(record.step):
            return
        loss, c = record.loss, self.config
        if self._bound is None:
            guessing = math.log(c.d_out) if c.loss == "cross_entropy" else 0.0
            self._bound = ABOVE * max(loss if loss is not None else math.inf, guessing)
        above = record.step > c.warmup_steps and not (loss is not None and loss <= self._bound)
        self._above = self._above + 1 if above else 0

    def _checkpoint_due(self) -> bool:
        minutes = self.config.checkpoint_minutes
        return minutes is not None and time.monotonic() - self._saved_at > 60 * minutes

    def _save(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if self.metrics:
            self.metrics.sync()
        state = {"config": config_hash(self.config), "seconds": self.seconds, "data": module.data_state()}
        save(trainer, module.model, self.run.checkpoints, state, self.config.keep_last)
        self._saved_at = time.monotonic()
        self.watchdog.beat()

    def _read(self, trainer: pl.Trainer, module: TrainingModule) -> list[LossOutput]:
        """What every step since the last reading gave, means over its passes and over all ranks."""
        passes = torch.stack(module.passes).view(-1, module.accumulation, len(LossOutput._fields))
        module.passes.clear()
        means = trainer.strategy.reduce(passes.mean(1), reduce_op="mean")
        assert isinstance(means, torch.Tensor)
        return [LossOutput.from_vector(row) for row in means.cpu()]

    def _record(self, trainer: pl.Trainer, module: TrainingModule, output: LossOutput, validate: bool) -> None:
        c, step = self.config, self._step
        last_step, last_seconds = self._last_record
        values: dict[str, Any] = {
            "step": step,
            "loss": output.loss.item(),
            "lr": c.lr * trainer.lr_scheduler_configs[0].scheduler.lr_lambdas[0](step - 1),
            "grad_norm": module.gradient_norm,
            "tokens": step * c.tokens_per_step,
            "tokens_per_second": round(
                (step - last_step) * c.tokens_per_step / max(1e-9, self.seconds - last_seconds), 1
            ),
            "logit_rms": output.logit_rms.item(),
            **self._beside_the_loss(output),
        }
        if validate:
            validation, logits = module.validate()
            beside = self._beside_the_loss(validation) | {key: logits[key] for key in OF_THE_LOGITS if key in logits}
            values |= {"val_loss": validation.loss.item(), **{f"val_{key}": value for key, value in beside.items()}}
        if self.monitor is not None and self.monitor.step == step:
            values |= self.monitor.values
        record = Record(values)
        self._last_record = (step, self.seconds)
        self._count_above(record)
        for sink in self.sinks:
            sink(record)

    def _beside_the_loss(self, output: LossOutput) -> dict[str, float]:
        """Cross-entropy where the loss is another, accuracy where there are classes."""
        beside = {}
        if self.config.loss != "cross_entropy" or self.config.z_loss:
            beside["cross_entropy"] = output.cross_entropy.item()
        if self.config.is_classification:
            beside["accuracy"] = output.accuracy.item()
        return beside


def _continue_at(trainer: pl.Trainer, step: int) -> None:
    """Make Lightning's counters and learning rates those after so many steps."""
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop._batches_that_stepped = step
    for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
        scheduler.last_epoch = step
        for group, base, factor in zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(step)


class Progress:
    """A sink that shows how far a run is: a bar on a terminal, about ten plain lines elsewhere."""

    def __init__(self, config: RunConfig) -> None:
        self.steps, self.every = config.steps, max(1, config.steps // 10)
        self._bar: tqdm[Any] | None = None
        self._next = 1

    def __call__(self, record: Record) -> None:
        step = record.step
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=self.steps, initial=step, unit="step", dynamic_ncols=True)
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(f"loss {record['loss']:.3f}", refresh=False)
        elif step >= self._next or step == self.steps:
            self._next = (step // self.every + 1) * self.every
            val = f"  val {record['val_loss']:.4f}" if "val_loss" in record else ""
            print(
                f"step {step}/{self.steps}  loss {record['loss']:.4f}{val}  {record['tokens_per_second']:,.0f} tokens/s",
                flush=True,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
