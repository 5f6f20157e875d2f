"""A run in TensorBoard: event files in the run's folder, so that `tensorboard --logdir runs/STUDY` shows the study."""

import math
import shutil
from collections.abc import Sequence
from typing import Any

from pipeline.config import RunConfig, run_settings
from pipeline.run.result import Record, RunResult
from pipeline.strict_yaml import dump_yaml


class TensorBoardMirror:
    """Scalars by the names of metrics.jsonl, the settings as text, and how the run ended."""

    label, remote = "TensorBoard", False

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._writer: Any = None

    def open(self, before: Sequence[Record]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._config.run_dir / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)  # an earlier start's, which is written whole: or curves would fork
        self._writer = SummaryWriter(str(folder))
        settings = dump_yaml(run_settings(self._config))
        self._writer.add_text("config", "    " + settings.replace("\n", "\n    "), 0)  # as code in Markdown
        for record in before:
            self.log(record)

    def log(self, record: Record) -> None:
        for key, value in record.items():
            if key != "step":
                self._writer.add_scalar(key, math.nan if value is None else value, record.step)

    def finish(self, result: RunResult) -> None:
        self._writer.add_text("status", result.status, result.steps)
        for key, value in result.final.items():
            if value is not None:
                self._writer.add_scalar(key, value, result.steps)
        self._writer.close()

    def fail(self) -> None:
        self._writer.add_text("status", "failed", 0)
        self._writer.close()
