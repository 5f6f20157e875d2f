"""One source of runs, read: its columns by their meaning, its rows by what they tell."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.study.runs import Bools, Ints
from pipeline.analysis.study.tables import values
from pipeline.analysis.study.tables.columns import Ask, Meaning, nearest, resolve
from pipeline.analysis.study.tables.raw import Raw
from pipeline.console import plural
from pipeline.errors import RequestError

KIND = {"param": "param", "optimizer": "optimizer", "loss_kind": "loss"}
"""Columns that make families where nobody names others, and what they are called in the run table."""
_OWN = {
    "run", *KIND.values(), "width", "second", "lr", "seed", "status", "final_loss", "initial_loss", "left_for_good",
    "lost_ground", "final_train_accuracy",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
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


def part_of(raw: Raw, ask: Ask) -> Part:
    """Raises `RequestError` for cells that are wrong, and where no run is left."""
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
    runs["left_for_good"] = runs["lost_ground"] = False
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
    return Part(raw, meaning, runs, int(unfinished.sum()), int(failed.sum()), notes, others, group)


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
