"""Tables of other people's runs as one study: what their columns mean, what is taken for granted, and what is said of
it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.stability import Rule
from pipeline.analysis.study.tables import read
from pipeline.analysis.study.tables.columns import Ask
from pipeline.analysis.study.tables.notes import of_divergence, of_losses, of_seeds, of_varying, without_repeats
from pipeline.analysis.study.tables.part import Part, part_of
from pipeline.config import RunConfig
from pipeline.errors import RequestError

MOST_LEVELS = 1000
"""Of an axis. More are no levels, but a column that differs from run to run."""


@dataclass(frozen=True)
class LossColumn:
    """What a table's runs are compared by."""

    name: str
    """The column's."""
    metric: str = "table"
    value: str = "table"
    column: str = "final_loss"
    is_accuracy: bool = False

    def unit(self, loss: str) -> str:
        """Nobody said."""
        return ""


@dataclass(frozen=True)
class Table:
    """The runs of one or more tables (`studies.AnyStudy`)."""

    name: str
    folder: Path
    runs: pd.DataFrame
    axis: Axis
    second: Axis | None
    group: tuple[str, ...]
    measure: LossColumn
    notes: tuple[str, ...]
    n_unfinished: int = 0
    n_failed: int = 0
    left_out: tuple[str, ...] = ()
    level_step: int = 1
    config: RunConfig | None = None
    recipe: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def base_level(self) -> float:
        """The smallest."""
        return float(self.runs["width"].min())

    @property
    def about(self) -> str:
        return f"{self.name}, trained elsewhere"

    def rule(self, loss: str, rows: pd.DataFrame) -> Rule:
        """Without trajectories and without knowing what the loss means, a finite loss is a stable run."""
        return Rule(cross_entropy=False)


def load_tables(sources: Sequence[str | pd.DataFrame], ask: Ask) -> Table:
    """Reads the tables, by their names or in memory, as one. Raises `RequestError` with one line for whatever is wrong
    with them."""
    once = {source if isinstance(source, str) else id(source): source for source in sources}
    parts = [part_of(read.read(source), ask) for source in once.values()]
    first = parts[0]
    _require_alike(parts)
    runs = pd.concat([part.runs.assign(part=number) for number, part in enumerate(parts)], ignore_index=True)
    axes, said = first.meaning.axes, of_losses(parts)
    if (n := runs["width"].nunique()) > MOST_LEVELS:
        raise RequestError(
            f"{first.raw.where}: {first.meaning.of['level']} has {n} different values: an axis has few, at each of "
            "which several learning rates were tried"
        )
    point = [*first.group, "width", *(["second"] if len(axes) > 1 else []), "lr"]
    if "seed" in first.meaning.of:
        runs, repeated = without_repeats(parts, runs, point, axes)
        said += repeated
    else:
        runs["seed"] = runs.groupby(point, sort=False).cumcount()
        said.append(of_seeds(runs, axes))
    said.append(of_divergence(parts, runs))
    said += of_varying(parts, runs, axes)
    runs = runs.drop(columns=["part", "place"]).sort_values([*point, "seed"], ignore_index=True, kind="stable")
    names = [Path(part.raw.where).name if ":" not in part.raw.where else part.raw.where for part in parts]
    return Table(
        " + ".join(names),
        first.raw.folder,
        runs,
        axes[0],
        axes[1] if len(axes) > 1 else None,
        first.group,
        LossColumn(first.meaning.of["loss"]),
        tuple(dict.fromkeys([*(note for part in parts for note in part.notes), *said])),
        sum(part.n_unfinished for part in parts),
        sum(part.n_failed for part in parts),
    )


def _require_alike(parts: Sequence[Part]) -> None:
    """Raises `RequestError` for sources that cannot be taken as one."""
    first = parts[0]
    for part in parts[1:]:
        for what, known in (("seed", "seed" in first.meaning.of), ("diverged", "diverged" in first.meaning.of)):
            if (what in part.meaning.of) != known:
                have, lacks = (first, part) if known else (part, first)
                raise RequestError(f"{have.raw.where} has a column of {what} and {lacks.raw.where} has none")
        if part.group != first.group:
            raise RequestError(
                f"{first.raw.where} and {part.raw.where} do not have the same columns of param, optimizer and "
                "loss_kind: say by --group what makes a family of curves"
            )
