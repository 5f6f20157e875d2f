"""Tables of other people's runs as one study: what their columns mean, what is taken for granted, and what is said of
it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.runs import Bools, Ints
from pipeline.analysis.study.stability import Rule
from pipeline.analysis.study.tables import read, values
from pipeline.analysis.study.tables.columns import Ask, Meaning, nearest, resolve
from pipeline.analysis.study.tables.raw import Raw
from pipeline.analysis.study.tables.varying import varying
from pipeline.config import RunConfig
from pipeline.console import plural
from pipeline.errors import RequestError

KIND = {"param": "param", "optimizer": "optimizer", "loss_kind": "loss"}
"""Columns that make families where nobody names others, and what they are called in the run table."""
_OWN = {
    "run", *KIND.values(), "width", "second", "lr", "seed", "status", "final_loss", "initial_loss", "left_for_good",
    "final_train_accuracy",
}  # fmt: skip


@dataclass(frozen=True)
class LossColumn:
    """What a table's runs are compared by."""

    name: str
    """The column's."""
    metric: str = "table"
    value: str = "table"
    column: str = "final_loss"
    is_accuracy: bool = False


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

    def rule(self, loss: str) -> Rule:
        """Without trajectories and without knowing what the loss means, a finite loss is a stable run."""
        return Rule(cross_entropy=False)


@dataclass(frozen=True)
class _Part:
    """One source, read."""

    raw: Raw
    meaning: Meaning
    runs: pd.DataFrame
    n_unfinished: int
    n_failed: int
    notes: list[str]
    others: list[str]
    """Columns without a meaning."""
    group: tuple[str, ...]


def load_tables(sources: Sequence[str], ask: Ask) -> Table:
    """Reads the tables as one. Raises `RequestError` with one line for whatever is wrong with them."""
    parts = [_part(read.read(source), ask) for source in dict.fromkeys(sources)]
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
    runs = pd.concat([part.runs.assign(part=number) for number, part in enumerate(parts)], ignore_index=True)
    axes, said = first.meaning.axes, []
    point = [*first.group, "width", *(["second"] if len(axes) > 1 else []), "lr"]
    if "seed" in first.meaning.of:
        runs, repeated = _without_repeats(parts, runs, point, axes)
        said += repeated
    else:
        runs["seed"] = runs.groupby(point, sort=False).cumcount()
        said.append(_of_seeds(runs, axes))
    said += _of_divergence(parts, runs, [part.meaning.of["loss"] for part in parts])
    said += _of_varying(parts, runs, axes)
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


# ---------------------------------------------------------------------------------------------------------------------
# One source


def _part(raw: Raw, ask: Ask) -> _Part:
    meaning = resolve(raw, ask)
    of = meaning.of
    loss, blank = values.numbers(raw, of["loss"], "loss")
    flagged = values.flags(raw, of["diverged"]) if "diverged" in of else np.zeros(len(loss), dtype=np.bool_)
    kept, unfinished, failed, lost = _states(raw, meaning, loss, blank, flagged)
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise RequestError(f"{raw.where}: none of its {len(loss)} runs has ended with a loss in column {of['loss']}")
    lost = (lost | ~np.isfinite(loss))[rows]
    runs = pd.DataFrame({"place": rows})
    for name, column in KIND.items():
        runs[column] = values.text(raw.frame[of[name]]).to_numpy()[rows] if name in of else ""
    group = _group(raw, ask, meaning, runs, rows)
    runs["width"] = values.positive(raw, of["level"], meaning.axes[0].name, rows)
    if len(meaning.axes) > 1:
        runs["second"] = values.positive(raw, of["second"], meaning.axes[1].name, rows)
    runs["lr"] = values.positive(raw, of["lr"], "lr", rows)
    if "seed" in of:
        runs["seed"] = values.seeds(raw, of["seed"], rows)
    runs["status"] = np.where(lost, "diverged", "completed")
    runs["final_loss"] = np.where(lost, math.nan, loss[rows])
    runs["initial_loss"] = runs["final_train_accuracy"] = math.nan
    runs["left_for_good"] = False
    notes = []
    if meaning.guessed:
        pairs = ", ".join(f"{name} is {column}" for name, column in meaning.guessed.items())
        notes.append(f"Columns taken by their names: {pairs} (--columns says otherwise).")
    no_loss = int((blank & ~kept & ~unfinished & ~failed).sum())
    if no_loss:
        notes.append(f"{plural(no_loss, 'row')} of {raw.where} without a loss and no mark of divergence: left out.")
    used = {*of.values(), *(ask.group or ())}
    others = [column for column in raw.frame.columns if column not in used]
    if raw.settings is not None:
        others = [column for column in others if column in raw.settings]
    return _Part(raw, meaning, runs, int(unfinished.sum()), int(failed.sum()), notes, others, group)


def _states(raw: Raw, meaning: Meaning, loss: Any, blank: Bools, flagged: Bools) -> tuple[Bools, Bools, Bools, Bools]:
    """Which rows are used, which are of runs that have not ended, which failed, and which are marked as diverged.

    A run that ended in an error tells something of its learning rate only where its loss was not finite. A blank loss
    is one that was lost where nothing else says which runs were."""
    none = np.zeros(len(loss), dtype=np.bool_)
    unfinished, failed, lost = none, none, flagged
    if "state" in meaning.of:
        state = values.text(raw.frame[meaning.of["state"]]).str.lower()
        lost = lost | state.isin(values.LOST).to_numpy()
        unfinished = state.isin(values.UNFINISHED).to_numpy() & ~lost
        went_wrong = blank | np.isfinite(loss)
        failed = state.isin(values.FAILED).to_numpy() & went_wrong & ~lost
    told = "diverged" in meaning.of or raw.settings is not None
    silent = blank & ~lost if told else none
    return ~(unfinished | failed | silent), unfinished, failed, lost


def _group(raw: Raw, ask: Ask, meaning: Meaning, runs: pd.DataFrame, rows: Ints) -> tuple[str, ...]:
    """The columns of `runs` that make a family; those that it lacks are put there."""
    if ask.group is None:
        return tuple(column for name, column in KIND.items() if name in meaning.of)
    found = []
    for name in ask.group:
        if name in KIND and name in meaning.of:
            found.append(KIND[name])
            continue
        if name not in raw.frame.columns:
            known = [*raw.frame.columns, *(kind for kind in KIND if kind in meaning.of)]
            raise RequestError(f"{raw.where}: no column {name!r} (--group {name}){nearest(name, known)}")
        taken = next((KIND[kind] for kind in KIND if meaning.of.get(kind) == name), None)
        column = taken or (f"group_{name}" if name in _OWN else name)
        runs[column] = values.text(raw.frame[name]).to_numpy()[rows]
        found.append(column)
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------------------
# All of them


def _without_repeats(
    parts: Sequence[_Part], runs: pd.DataFrame, point: list[str], axes: Sequence[Axis]
) -> tuple[pd.DataFrame, list[str]]:
    """Rows that repeat another one's point and seed: those that say the same count once, others are further seeds."""
    same = [*point, "seed"]
    if not runs.duplicated(same).any():
        return runs, []
    names, said = ", ".join(axis.name for axis in axes), []
    twins = _cells(parts, runs, list(parts[0].raw.frame.columns)).duplicated().to_numpy()
    if twins.any():
        said.append(f"{plural(int(twins.sum()), 'row')} repeating another one in every column: counted once.")
    runs = runs[~twins].reset_index(drop=True)
    again = runs.duplicated(same).to_numpy()
    if again.any():
        other = int(np.flatnonzero(again)[0])
        one = int(np.flatnonzero((runs[same] == runs.loc[other, same]).all(axis=1))[0])
        cells = _cells(parts, runs.loc[[one, other]], parts[0].others)
        differ = [str(column) for column in cells if cells[column].nunique(dropna=False) > 1]
        rows = runs.loc[[one, other], ["part", "place"]].to_numpy().tolist()
        where = " and ".join(parts[part].raw.at(place) for part, place in rows)
        said.append(
            f"Warning: {plural(int(again.sum()), 'run')} with the {names}, lr and seed of another ({where}"
            f"{f' differ in {_listed(differ)}' if differ else ''}): taken as further seeds. --group names what tells "
            "them apart."
        )
        runs["seed"] = runs.sort_values("seed", kind="stable").groupby(point, sort=False).cumcount()
    return runs, said


def _cells(parts: Sequence[_Part], runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The cells of the runs' rows in their sources, in the order of `runs`; columns that not all sources have
    are left out."""
    shared = [column for column in columns if all(column in part.raw.frame.columns for part in parts)]
    found = [
        parts[number].raw.frame[shared].iloc[rows["place"]].set_axis(rows.index)
        for number, rows in ((int(str(part)), rows) for part, rows in runs.groupby("part"))
    ]
    return pd.concat(found).reindex(runs.index)


def _of_seeds(runs: pd.DataFrame, axes: Sequence[Axis]) -> str:
    most = int(runs["seed"].max()) + 1
    names = ", ".join(axis.name for axis in axes)
    if most == 1:
        return "No column of seeds: every run counts as seed 0."
    return f"No column of seeds: runs of the same {names} and lr are numbered as seeds, up to {most} of them."


def _of_divergence(parts: Sequence[_Part], runs: pd.DataFrame, losses: Sequence[str]) -> list[str]:
    n = int((runs["status"] == "diverged").sum())
    if "diverged" in parts[0].meaning.of:
        by = "is marked as diverged or has no finite loss"
        start = ""
    else:
        by = f"has no finite {losses[0]}"
        start = "No column of diverged: "
    text = (
        f"{start}a run counts as unstable where it {by} ({n} of {len(runs)}). Tables have no trajectories, so nothing "
        "else can tell."
    )
    return [text[:1].upper() + text[1:]]


def _of_varying(parts: Sequence[_Part], runs: pd.DataFrame, axes: Sequence[Axis]) -> list[str]:
    known = all(part.raw.settings is not None for part in parts)
    shared = [column for column in parts[0].others if all(column in part.others for part in parts)]
    others = _cells(parts, runs, shared)
    kinds = [kind for name, kind in KIND.items() if kind not in parts[0].group and name in parts[0].meaning.of]
    others = pd.concat([others, runs[kinds]], axis=1)
    key = list(parts[0].group)
    no_key = pd.Series(0, runs.index)
    group = (runs.groupby(key, sort=False).ngroup() if key else no_key).to_numpy(dtype=np.int64)
    level = runs.groupby(["width", "second"][: len(axes)], sort=False).ngroup().to_numpy(dtype=np.int64)
    mixing, along = varying(others, group, level, runs["lr"].to_numpy(), known)
    names = " and ".join(axis.noun for axis in axes)
    of_group = " and group" if key else ""
    said = []
    if mixing:
        apart = ",".join([*key, mixing[0]])
        said.append(
            f"Warning: runs of the same {names}{of_group} differ in {_listed(mixing)}: different experiments are taken "
            f"as one. Keep them apart, such as by --group {apart}."
        )
    if along:
        said.append(f"With the {names} changes {_listed(along)}: what is fitted is the way of all of them together.")
    return said


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:8])
    more = [f"{len(names) - 8} more"] if len(names) > 8 else []
    parts = [*shown, *more]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
