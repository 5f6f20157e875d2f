"""A run in trackio, Hugging Face's local tracker: `trackio show --project STUDY` shows the study."""

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any

from pipeline.config import RunConfig, run_settings
from pipeline.run.result import Record, RunResult


class TrackioMirror:
    """Project = study, a run per run; what it already has is not logged again. TRACKIO_DIR says where, and
    TRACKIO_SPACE_ID a Space instead."""

    label, remote = "trackio", True

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._run: Any = None
        self._has = 0

    def open(self, before: Sequence[Record]) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        study, name = self._config.study, self._config.run_name
        with contextlib.redirect_stdout(io.StringIO()):  # it says a lot
            self._run = trackio.init(
                project=study, name=name, config=run_settings(self._config), resume="allow", embed=False
            )
        self._has = SQLiteStorage.get_last_step(study, name) or 0
        for record in before:
            self.log(record)

    def log(self, record: Record) -> None:
        if record.step > self._has:
            values = {key: math.nan if value is None else value for key, value in record.items() if key != "step"}
            self._run.log(values, step=record.step)

    def finish(self, result: RunResult) -> None:
        final = {key: value for key, value in result.to_json().items() if value is not None}
        if result.steps > self._has:
            self._run.log(final, step=result.steps)
        self._close()

    def fail(self) -> None:
        self._close()

    def _close(self) -> None:
        from trackio.context_vars import current_run

        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
        current_run.set(None)  # or it is finished once more, aloud, when the process ends
