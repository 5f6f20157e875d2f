"""The training of one run, from config to result: data, model, Lightning trainer, resume, outcome."""

import logging
import signal
import sys
import warnings
from collections.abc import Callable

import lightning.pytorch as pl

from pipeline.config import RunConfig
from pipeline.data.open import open_data
from pipeline.errors import RequestError, in_a_line
from pipeline.mirrors.mirrors import Mirrors, require_packages
from pipeline.models.build import parameter_count
from pipeline.processes import first_process
from pipeline.run.directory import RunDir
from pipeline.run.result import Record, RunResult, final_values
from pipeline.training.checkpoint.files import newest_first, prune
from pipeline.training.describe import named
from pipeline.training.health import handle_stop_signals
from pipeline.training.loop import NOTHING, ShortLoop, shorten
from pipeline.training.machine import arithmetic, check_devices, keep_freed_memory
from pipeline.training.micro_batch import MicroBatch, out_of_memory
from pipeline.training.module import TrainingModule
from pipeline.training.parallel.strategies import environment, strategy_of
from pipeline.training.progress import RunProgress
from pipeline.training.recorder import Recorder
from pipeline.training.resume import checkpoint_of, other_arithmetic
from pipeline.training.weights import describe_weights


def train(config: RunConfig, *, show_progress: bool = True) -> RunResult:
    """Train the run `config` describes, or continue it, and return its result; a finished run returns at once.

    Raises `RequestError` for what the user must change, `OSError` where the disk fails, `KeyboardInterrupt` where a
    signal asked it to stop; what was written stays good, and the same call continues.
    """
    run = RunDir(config.run_dir)
    if (done := run.result()) is not None:
        return done
    if not any(plugin.creates_processes_externally for plugin in environment()):
        check_devices(config.devices)
    require_packages(config)
    keep_freed_memory()
    data = open_data(config)
    module = TrainingModule(config, data)
    try:
        return _train(config, run, module, data.fingerprint, show_progress)
    finally:
        handle_stop_signals(signal.SIG_DFL)


def _train(config: RunConfig, run: RunDir, module: TrainingModule, fingerprint: str, show_progress: bool) -> RunResult:
    if not first_process():
        try:
            return _fit(run, module, Recorder(run, module))
        except KeyboardInterrupt:  # of which the first process speaks
            raise SystemExit(1) from None
    here = arithmetic()
    run.create(config, fingerprint, arithmetic=here)
    with run.lock():
        try:
            run.record_weights(describe_weights(module.model, module.specs, config))
            resumed = checkpoint_of(config, run)
            if resumed and (note := other_arithmetic(run, here)):
                print(note, file=sys.stderr, flush=True)
            run.cut_back(resumed.step if resumed else 0, resumed.state.get("records") if resumed else 0)
            run.record_start(config, resumed.step if resumed else 0, arithmetic=here)
            progress = RunProgress(config)
            with Mirrors(config, run.records()) as mirrors, run.appending() as metrics:
                sinks: list[Callable[[Record], None]] = [mirrors.log, *([progress] if show_progress else [])]
                result = _fit(run, module, Recorder(run, module, metrics, sinks, resumed))
                mirrors.finish(result)
            progress.close()
            prune(run.checkpoints, keep=int(config.keep_checkpoint))
        except Exception as error:
            run.record_failure(in_a_line(error))
            raise
    return result


def _fit(run: RunDir, module: TrainingModule, recorder: Recorder) -> RunResult:
    with recorder.watchdog, warnings.catch_warnings():
        # Lightning advises worker processes for every loader; reading a memory map needs none.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")  # the Recorder validates
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")  # a login node will do
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = _trainer(module.config, run, recorder)
        recorder.stop.listen()
        try:
            trainer.fit(module, NOTHING if isinstance(trainer.fit_loop.epoch_loop, ShortLoop) else None)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        except RuntimeError as error:
            if (advice := out_of_memory(error, module.micro_batch)) is not None:
                raise RequestError(advice) from None
            raise
        finally:
            recorder.stop.listen()  # again, since Lightning puts back what was there before
            module.close()
        trainer.strategy.barrier()
        if recorder.ending.interrupted:
            raise KeyboardInterrupt
        if recorder.metrics:
            module.data.train.finish(trainer.global_step)
            recorder.metrics.sync()
            run.write_result(_result(run, module, recorder, trainer.global_step))
        trainer.strategy.barrier()
    result = run.result()
    assert result is not None
    return result


def _trainer(config: RunConfig, run: RunDir, recorder: Recorder) -> pl.Trainer:
    for name, level in {"lightning.pytorch": "WARNING", "lightning.fabric": "WARNING", "DeepSpeed": "ERROR"}.items():
        logging.getLogger(name).setLevel(level)
    sized: list[pl.Callback] = [MicroBatch(config, run)] if config.micro_batch == "auto" else []
    trainer = pl.Trainer(
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy_of(config).lightning(config),
        max_steps=config.last_step,
        accumulate_grad_batches=1 if sized else config.accumulation,
        callbacks=[*sized, recorder],
        plugins=environment(),
        default_root_dir=run.path,  # where Lightning would look for checkpoints of its own
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    if config.world_size == 1 and config.strategy == "auto":
        shorten(trainer, recorder)
    return trainer


def _result(run: RunDir, module: TrainingModule, recorder: Recorder, steps: int) -> RunResult:
    status, seconds = recorder.ending.status, recorder.clock.seconds
    tokens = module.config.tokens_after(steps)
    final = final_values(run.records(), module.config.last_step)
    return RunResult(
        status=status,
        final=final if status == "completed" else dict.fromkeys(final),
        steps=steps,
        tokens=tokens,
        seconds=round(seconds, 3),
        tokens_per_second=round(tokens / seconds, 1),
        parameters=parameter_count(module.model),
        diverged_at=recorder.ending.diverged_at,
    )


def train_aloud(config: RunConfig, say: Callable[[str], None], *, show_progress: bool = True) -> RunResult:
    """`train`, which says by `say` what starts or resumes; for a process that ends with it."""
    resumes = newest_first(RunDir(config.run_dir).checkpoints)
    say("\n".join([f"{'resuming' if resumes else 'training'} {config.run_dir}", *named(config)]))
    try:
        return train(config, show_progress=show_progress)
    finally:
        handle_stop_signals(signal.SIG_IGN)  # all is written; one that comes late must not spoil the exit code
