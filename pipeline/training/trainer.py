"""One run from config to result: data, model, Lightning trainer, resume, outcome."""

import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from pipeline.config import RequestError, RunConfig
from pipeline.data.open import open_data
from pipeline.files import atomic
from pipeline.models.build import parameter_count
from pipeline.training.callbacks import Progress, Recorder
from pipeline.training.module import TrainingModule
from pipeline.training.rundir import MetricsWriter, Record, RunDir, final_values, outcome
from pipeline.training.wandb_mirror import WandbMirror


class CheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole and durably, and that can hold nothing but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with atomic(Path(path)) as stream:
                torch.save(checkpoint, stream)
        except RuntimeError as error:  # torch's writer hides what the disk said
            if isinstance(error.__context__, OSError):
                raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from None
            raise

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        if not zipfile.is_zipfile(path):  # what torch.save writes; nothing else is looked into
            raise RequestError(f"checkpoint {path} is damaged: delete it to start the run over")
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            reason = str(error).splitlines()[0]
            raise RequestError(f"checkpoint {path} is damaged ({reason}): delete it to start the run over") from None
        return checkpoint


def train(config: RunConfig, *, show_progress: bool = True) -> Record:
    """Train the run `config` describes, or continue it, and return its result; a finished run returns at once.

    Raises `RequestError` for what the user must change, `OSError` where the disk fails; what was written stays good.
    """
    run = RunDir(config.run_dir)
    if (done := run.result()) is not None:
        return done
    data = open_data(config)
    module = TrainingModule(config, data)
    if not _first_process():
        return _fit(config, run, module, None, [])
    run.create(config, data.fingerprint)
    with run.lock():
        run.cut_back(_checkpoint_step(run.checkpoint) if run.checkpoint.exists() else 0)
        mirror, progress = WandbMirror(config), Progress(config)
        with run.appending() as metrics:
            result = _fit(config, run, module, metrics, [mirror.log, *([progress] if show_progress else [])])
        progress.close()
        mirror.finish(result)
        if not config.keep_checkpoint:
            run.checkpoint.unlink(missing_ok=True)
    return result


def _first_process() -> bool:
    """Whether this process writes: the first of a run's, as Lightning's launcher, torchrun and SLURM number them."""
    return all(os.environ.get(rank, "0") == "0" for rank in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def _fit(
    config: RunConfig,
    run: RunDir,
    module: TrainingModule,
    metrics: MetricsWriter | None,
    sinks: list[Callable[[Record], None]],
) -> Record:
    recorder = Recorder(config, run, metrics, sinks)
    trainer = _trainer(config, recorder)
    with warnings.catch_warnings():
        # Lightning advises worker processes for every loader; reading a memory map needs none.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            trainer.fit(module, ckpt_path=run.checkpoint if run.checkpoint.exists() else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
            raise KeyboardInterrupt from None
        finally:
            module.close()
    trainer.strategy.barrier()
    if metrics:
        module.data.train.finish(trainer.global_step)
        run.write_result(_result(config, run, recorder, trainer.global_step, parameter_count(module.model)))
    trainer.strategy.barrier()
    result = run.result()
    assert result is not None
    return result


def _trainer(config: RunConfig, recorder: Recorder) -> pl.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return pl.Trainer(
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        precision=config.precision,
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulation,
        callbacks=[recorder],
        plugins=[CheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _checkpoint_step(path: Path) -> int:
    return int(CheckpointIO().load_checkpoint(path)["global_step"])


def _result(config: RunConfig, run: RunDir, recorder: Recorder, steps: int, parameters: int) -> Record:
    diverged = recorder.diverged_at is not None
    tokens = steps * config.tokens_per_step
    final = final_values(run.records(), config.steps)
    return {
        "status": "diverged" if diverged else "completed",
        **(dict.fromkeys(final) if diverged else final),
        "steps": steps,
        "tokens": tokens,
        "seconds": round(recorder.seconds, 3),
        "tokens_per_second": round(tokens / recorder.seconds, 1),
        "parameters": parameters,
        "diverged_at": recorder.diverged_at,
    }


def train_verbosely(config: RunConfig) -> int:
    """`pipeline train`: say what starts, resumes or is done already, train, and say how it ended."""
    run = RunDir(config.run_dir)
    say = print if _first_process() else lambda *_, **__: None
    if (result := run.result()) is not None:
        say(f"already {result['status']}: {config.run_dir} (delete it to run it again)")
    else:
        say(f"{'resuming' if run.checkpoint.exists() else 'training'} {config.run_dir}", flush=True)
        result = train(config)
    say(f"{outcome(result)} ({result['steps']} steps, {result['tokens']:,} tokens, {result['seconds']:.0f} s)")
    return 0
