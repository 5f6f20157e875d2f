"""What fits and pages ask of runs, wherever they come from: our own study folders (`load.Study`) or tables of other
people's runs (`tables.table.Table`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.stability import Rule
from pipeline.config import RunConfig


class Compared(Protocol):
    """What runs are compared by."""

    @property
    def metric(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def column(self) -> str:
        """Of the run table."""

    @property
    def is_accuracy(self) -> bool:
        """Then 1 - accuracy, the error rate, is what is minimized."""

    @property
    def name(self) -> str:
        """As people call it."""

    def unit(self, loss: str) -> str:
        """Of what is minimized, under a training loss; empty: not known."""


class AnyStudy(Protocol):
    """Runs that are fitted together."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path:
        """Where a fit's files go."""

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run; of the columns that `load.Study` lists always param, optimizer, loss (the kind of loss),
        width (the level of the axis), lr, seed, status, initial_loss, left_for_good, lost_ground and
        final_train_accuracy, those of `group`, and what is compared."""

    @property
    def n_unfinished(self) -> int: ...
    @property
    def n_failed(self) -> int: ...

    @property
    def left_out(self) -> tuple[str, ...]:
        """The runs that take no part, as far as they have names, and why."""

    @property
    def axis(self) -> Axis: ...

    @property
    def second(self) -> Axis | None:
        """Of the column ``second``, where curves differ in two things."""

    @property
    def group(self) -> tuple[str, ...]:
        """Columns of `runs` whose values make one family of curves."""

    @property
    def base_level(self) -> float:
        """Of the axis, at which scaled learning rates are the base group's own."""

    @property
    def level_step(self) -> int:
        """Every level is a multiple of it; 1 where nothing is known."""

    @property
    def config(self) -> RunConfig | None:
        """Of the first run of a study of ours; None: nobody knows it."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The settings that all runs share."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for granted when the runs were read, one sentence each."""

    @property
    def about(self) -> str:
        """Data and licence, or the table's source."""

    def rule(self, loss: str, rows: pd.DataFrame) -> Rule:
        """When one of these runs, of that training loss, still failed although it ended with a finite loss."""
