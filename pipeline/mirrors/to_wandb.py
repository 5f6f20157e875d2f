"""A run in W&B: one run of its own, however often it was started, and wherever from."""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.config import RunConfig, run_settings
from pipeline.mirrors.service import CONNECT, FINISH
from pipeline.run.result import FAILED, Record, RunResult

PROJECT = "width-scaling"
_FAILED = 1
_LONGEST = 128  # names of W&B


@dataclass(frozen=True)
class Place:
    """Where a run is in W&B, and what it is called there."""

    project: str
    entity: str | None
    group: str
    id: str

    @classmethod
    def of(cls, config: RunConfig, name: str = "") -> "Place":
        """Settings before WANDB_PROJECT and WANDB_ENTITY. The id follows from study and run, by default `run_name`, so
        that whoever sends the run meets the same one."""
        return cls(
            config.wandb.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            config.wandb.entity or os.environ.get("WANDB_ENTITY") or None,
            _short(config.study),
            _short(f"{config.study}-{name or config.run_name}"),
        )


def scaled(config: RunConfig) -> dict[str, float]:
    """The learning rate on the axes on which optima of all widths align, where it goes with width like n^-1/2 or n^-1:
    times m^1/2 and m, with m = n / n_base. W&B's panels compute nothing."""
    m = config.width / config.base_width
    return {"lr_sqrt_m": config.lr * math.sqrt(m), "lr_m": config.lr * m}


def outcome(result: RunResult) -> dict[str, Any]:
    """What a run's summary says of its end: result.json, and whether it diverged as a number, which panels can draw."""
    return {**result.to_json(), "diverged": int(result.status == "diverged")}


class WandbMirror:
    """Group = study, config and summary filled, the state as it ended; a run that diverged or was aborted is finished
    and has that as a tag."""

    label = "W&B"

    def __init__(
        self, config: RunConfig, mode: str, name: str = "", folder: Path | None = None, **settings: Any
    ) -> None:
        """`name` and `folder`: where they are not the config's; `settings`: further ones of W&B's client."""
        self._config, self._mode, self._settings = config, mode, settings
        self._name, self._folder = name or config.run_name, folder or config.run_dir
        self.remote = mode != "offline"
        self._run: Any = None
        self._from = 0

    def open(self, before: Sequence[Record]) -> None:
        """What the run already has there is not sent again; what it lacks of `before` is sent."""
        os.environ.setdefault("WANDB_SILENT", "true")  # before it says whose key it has found
        import wandb

        config, place = self._config, Place.of(self._config, self._name)
        if not self.remote:  # an earlier start's, which can be written whole: or there would be two
            for folder in (self._folder / "wandb").glob(f"offline-run-*-{place.id}"):
                shutil.rmtree(folder)
        self._run = wandb.init(
            project=place.project,
            entity=place.entity,
            group=place.group,
            name=self._name,
            id=place.id,
            tags=config.wandb.tags or None,  # WANDB_TAGS
            resume="allow" if self.remote else None,
            dir=str(self._folder),
            mode=cast(Any, self._mode),  # WANDB_MODE has more names, of which the client judges
            config={key: value for key, value in run_settings(config).items() if key != "wandb"},
            reinit="create_new",  # a worker trains many runs
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=CONNECT, finish_timeout=FINISH, **self._settings
            ),
        )
        self._from = int(self._run.starting_step)
        self._run.summary.update(scaled(config))
        for record in before:
            self.log(record)

    def log(self, record: Record) -> None:
        if record.step >= self._from:
            values = {key: math.nan if value is None else value for key, value in record.items() if key != "step"}
            self._run.log(values, step=record.step, commit=True)  # or it would overwrite the summary at the end

    def finish(self, result: RunResult) -> None:
        if result.status != "completed":
            self._run.tags = tuple(dict.fromkeys([*(self._run.tags or ()), result.status]))
        self._close(outcome(result), 0)

    def fail(self) -> None:
        self._close({"status": FAILED}, _FAILED)

    def _close(self, summary: Mapping[str, Any], code: int) -> None:
        self._run.summary.update(summary)
        self._run.finish(exit_code=code)


def _short(name: str) -> str:
    """As it is, or of a long one the beginning and a hash."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
