"""The callback of a run: at the end of every optimizer step it measures, validates, records, saves and stops."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from pipeline.config import config_hash
from pipeline.run.directory import MetricsWriter, RunDir
from pipeline.run.result import Record
from pipeline.training.branches import Branches
from pipeline.training.calendar import Calendar, Clock
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.checkpoint.state import save
from pipeline.training.ending import Departure, Ending
from pipeline.training.health import StopSignals, Watchdog
from pipeline.training.log import Log, read_losses
from pipeline.training.module import TrainingModule
from pipeline.training.monitor import RunMonitor
from pipeline.training.parallel.ranks import agreement, gather
from pipeline.training.resume import resume


class Recorder(Callback):
    """At step boundaries, in this order: what the monitor measures, validation, one record to every sink, checkpoint;
    stops a diverged, an aborted or an interrupted run.

    The order makes a resumed run repeat exactly what an uninterrupted one does. Losses stay on the device between
    records, so that an accelerator is not made to wait at every step.
    """

    def __init__(
        self,
        run: RunDir,
        module: TrainingModule,
        metrics: MetricsWriter | None = None,
        sinks: Sequence[Callable[[Record], None]] = (),
        resumed: Checkpoint | None = None,
    ) -> None:
        """The first process alone has `metrics`, other `sinks` of the records, and, where there is one to go on from, a
        checkpoint."""
        config = module.config
        self.config, self.run, self.resumed, self.metrics = config, run, resumed, metrics
        self.watchdog = Watchdog(
            config.stall_minutes, run.stacks(metrics is not None), run.record_failure if metrics else lambda _: None
        )
        measures = config.diagnostics.on or config.diagnostics.sharpness_interval
        self.monitor = RunMonitor(config, module) if measures else None
        self.calendar, self.clock, self.stop, self.ending = Calendar(config), Clock(), StopSignals(), Ending()
        self.departure = Departure(config, self.calendar)
        self.branches = Branches(config, run)
        self.records = Log(config, self.clock, [metrics.append, *sinks] if metrics else [])

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        path = gather(self.resumed.path if self.resumed else None)[0]
        if path is not None:
            checkpoint = self.resumed or Checkpoint(path)
            resume(trainer, module, checkpoint)
            self.clock.before = checkpoint.state["seconds"]
            self.records.count = checkpoint.state.get("records")
            self.resumed = None  # it holds files open, and one of them may be deleted before long

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.monitor is not None:
            self.monitor.on_train_start(trainer, module)
        self.stop.listen()  # now, since Lightning has just set handlers of its own
        self._agree = agreement()
        self._step = trainer.global_step
        for record in self.run.records() if self.metrics else []:
            self.departure.see(record)
        self.clock.start()
        self.calendar.saved()
        self.records.begin(trainer.global_step)

    def wants_gradients(self, trainer: pl.Trainer) -> bool:
        """Whether the next optimizer step's are looked at."""
        return self.monitor is not None and self.monitor.due(trainer, trainer.global_step + 1)

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        if self.monitor is not None:
            self.monitor.on_before_optimizer_step(trainer, module, optimizer)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *arguments: Any) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients are still accumulating
            return
        self._step = step
        if self.monitor is not None:
            self.monitor.on_train_batch_end(trainer, module, *arguments)
        self.watchdog.beat()
        measured = self.monitor.values if self.monitor is not None and self.monitor.step == step else None
        record = measured is not None or self.calendar.records(step)
        stop, overdue, abort = self._agree(self.stop.asked, self.calendar.minutes_are_up(), self.departure.certain)
        checkpoint = stop or overdue or abort or self.calendar.saves(step)
        assert isinstance(module, TrainingModule)
        # asked first: a divergence is to be seen when it would be without branches
        branches = bool(self.branches.after(step)) and not self._agree(not module.finite_so_far())[0]
        if not (record or checkpoint or branches):
            return
        outputs = read_losses(trainer, module)
        bad = [i for i, output in enumerate(outputs) if not math.isfinite(output.loss)]
        if bad:
            self.ending.diverged_at = step - len(outputs) + 1 + bad[0]
        if record or bad:
            validate = self.calendar.validates(step) and not bad
            self.departure.see(
                self.records.add(trainer, module, step, outputs[-1], validate=validate, measured=measured or {})
            )
        if branches:  # before the run's own checkpoint: going on from that, it would not come by again
            self.branches.leave(trainer, module, self._state(module))
            self.watchdog.beat()
        if checkpoint and not bad:
            self._save(trainer, module)
            self.ending.aborted = abort and step < self.config.last_step
            self.ending.interrupted = stop and not abort and step < self.config.last_step
        if self.ending.early:
            trainer.should_stop = True

    def _save(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        if self.metrics:
            self.metrics.sync()
        save(trainer, module.model, self.run.checkpoints, self._state(module), self.config.keep_last, module.beside)
        self.calendar.saved()
        self.watchdog.beat()

    def _state(self, module: TrainingModule) -> dict[str, Any]:
        """What a checkpoint holds beside tensors; to be called by all ranks."""
        return {
            "config": config_hash(self.config),
            "seconds": self.clock.seconds,
            "records": self.records.count,
            "data": module.data_state(),
        }
