"""Runs that something happens to: at a step, from behind, from outside."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig, run_settings
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import newest_first
from pipeline.training.recorder import Recorder

INTERRUPTED = "pipeline: error: interrupted; the same command continues"


def steps(config: RunConfig) -> list[str]:
    return [path.name for path in newest_first(RunDir(config.run_dir).checkpoints)]


def at_step(step: int, then: Callable[[Recorder, Any], None], patched: pytest.MonkeyPatch) -> None:
    """Let something happen when a step of training is over."""
    original = Recorder.on_train_batch_end

    def end(self: Recorder, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == step:
            then(self, trainer)

    patched.setattr(Recorder, "on_train_batch_end", end)


def start_driver(
    config: RunConfig, folder: Path, code: str, *arguments: str, prefix: tuple[str, ...] = (), **environment: str
) -> "subprocess.Popen[str]":
    """`pipeline train` of this config behind some code."""
    (folder / "run.yaml").write_text(yaml.safe_dump(run_settings(config)))
    (folder / "driver.py").write_text(textwrap.dedent(code))
    command = [
        *prefix,
        sys.executable,
        str(folder / "driver.py"),
        *arguments,
        "train",
        "--config",
        str(folder / "run.yaml"),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
