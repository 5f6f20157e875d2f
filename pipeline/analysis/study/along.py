"""A study along another axis than width: depth, steps, tokens, batch, warm-up, or any setting that is a number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.analysis.study.axis import AXES, WIDTH, Axis, of_column
from pipeline.analysis.study.cells import WIDTH_OF_MODEL, Settings, telling, text, value
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.runs import whole
from pipeline.analysis.study.stability import Rule
from pipeline.analysis.study.table import GROUP
from pipeline.config import RunConfig, default_settings
from pipeline.errors import RequestError
from pipeline.recipes import named_setting

_SETTING = {"depth": "model.n_layer", "batch": "global_batch"}
"""Axes that are settings under another name."""

_OWN = {name: (key,) for name, key in _SETTING.items()} | {"tokens": ("steps", "stop_after")}
"""Settings that an axis consists in."""


@dataclass(frozen=True)
class Along:
    """The runs of a study of ours along other axes than width (`studies.AnyStudy`). Widths, as all settings that differ
    at one level, keep families apart. Theory is not compared: it is about width."""

    study: Study
    runs: pd.DataFrame
    axis: Axis
    second: Axis | None
    group: tuple[str, ...]
    notes: tuple[str, ...]

    config: RunConfig | None = None
    level_step: int = 1

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def folder(self) -> Path:
        return self.study.folder

    @property
    def n_unfinished(self) -> int:
        return self.study.n_unfinished

    @property
    def n_failed(self) -> int:
        return self.study.n_failed

    @property
    def left_out(self) -> tuple[str, ...]:
        return self.study.left_out

    @property
    def base_level(self) -> float:
        """The smallest."""
        return float(self.runs["width"].min())

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.study.recipe

    @property
    def about(self) -> str:
        return self.study.about

    def rule(self, loss: str, rows: pd.DataFrame) -> Rule:
        return self.study.rule(loss, rows)


def along(study: Study, names: Sequence[str]) -> Study | Along:
    """The study along one axis or two, by their `--axis` names. Raises `RequestError` for what is no axis of it."""
    if tuple(names) in ((), (WIDTH.name,)):
        return study
    axes = [_axis(name) for name in names]
    runs = study.runs.rename(columns={"width": WIDTH_OF_MODEL})
    settings = [
        {**study.settings_of(run), "width": width}
        for run, width in zip(runs["run"], runs[WIDTH_OF_MODEL].tolist(), strict=True)
    ]
    configs: dict[int, RunConfig] = {}
    rows = runs.to_dict("records")
    levels = [[_level(study, axis, *run, configs) for run in zip(rows, settings, strict=True)] for axis in axes]
    for axis, of_axis in zip(axes, levels, strict=True):
        if len(set(of_axis)) == 1:
            raise RequestError(f"--axis {axis.name}: it is {of_axis[0]:g} in all runs of {study.name}")
    known = [tuple(point) for point in zip(*(runs[name] for name in GROUP), *levels, strict=True)]
    cells, tied = telling(known, settings)
    own = {key for axis in axes for key in _OWN.get(axis.name, (axis.name,))}
    for key in cells:
        if key != "width":
            runs[key] = [text(value(one, key)) for one in settings]
    group = (*GROUP, *(WIDTH_OF_MODEL if key == "width" else key for key in cells))
    if "width" in cells:
        runs[WIDTH_OF_MODEL] = runs[WIDTH_OF_MODEL].astype(str)
    runs = runs.drop(columns=[key for key in study.cells if key not in cells])
    for column, of_axis in zip(("width", "second"), levels, strict=False):
        runs[column] = of_axis
    runs = runs.sort_values([*group, *("width", "second")[: len(axes)], "lr", "seed"], ignore_index=True)
    notes = [note for note in study.notes if not note.startswith("Groups differ")]
    if others := [key for key in tied if key not in own]:
        names_of = " and ".join(axis.noun for axis in axes)
        notes.append(
            f"With the {names_of} changes {', '.join(others)}: what is fitted is the way of all of them together."
        )
    return Along(study, runs, axes[0], axes[1] if len(axes) > 1 else None, group, tuple(notes))


def _axis(name: str) -> Axis:
    if name in AXES:
        return AXES[name]
    key = named_setting(name, [*AXES, *default_settings()], "--axis ")
    return next((axis for axis in AXES.values() if _SETTING.get(axis.name) == key), of_column(key))


def _level(
    study: Study, axis: Axis, row: Mapping[Any, Any], settings: Settings, configs: dict[int, RunConfig]
) -> float:
    """Of a run. `configs`: by recipe, read as they are needed."""
    if axis.name == "parameters":
        level = row["parameters"]
    elif axis.name == "tokens":
        recipe = id(study.settings_of(row["run"]))
        if recipe not in configs:
            configs[recipe] = study.directory(row["run"]).config()
        level = configs[recipe].total_tokens
    else:
        level = value(settings, _SETTING.get(axis.name, axis.name))
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < math.inf:
        raise RequestError(f"--axis {axis.name}: it is {text(level)} in {row['run']}, and levels are positive numbers")
    return whole(level)
