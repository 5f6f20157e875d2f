"""What is said of tables: what was taken for granted, and what may mix different experiments."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.tables.part import KIND, Part
from pipeline.analysis.study.tables.varying import varying
from pipeline.console import plural


def without_repeats(
    parts: Sequence[Part], runs: pd.DataFrame, point: list[str], axes: Sequence[Axis]
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


def _cells(parts: Sequence[Part], runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The cells of the runs' rows in their sources, in the order of `runs`; columns that not all sources have
    are left out."""
    shared = [column for column in columns if all(column in part.raw.frame.columns for part in parts)]
    found = [
        parts[number].raw.frame[shared].iloc[rows["place"]].set_axis(rows.index)
        for number, rows in ((int(str(part)), rows) for part, rows in runs.groupby("part"))
    ]
    return pd.concat(found).reindex(runs.index)


def of_seeds(runs: pd.DataFrame, axes: Sequence[Axis]) -> str:
    most = int(runs["seed"].max()) + 1
    names = ", ".join(axis.name for axis in axes)
    if most == 1:
        return "No column of seeds: every run counts as seed 0."
    return f"No column of seeds: runs of the same {names} and lr are numbered as seeds, up to {most} of them."


def of_losses(parts: Sequence[Part]) -> list[str]:
    """A warning where the sources' losses are called differently."""
    columns = list(dict.fromkeys(part.meaning.of["loss"] for part in parts))
    if len(columns) == 1:
        return []
    return [f"Warning: the losses are those of columns {_listed(columns)}: are they the same quantity?"]


def of_divergence(parts: Sequence[Part], runs: pd.DataFrame) -> str:
    n, of = int((runs["status"] == "diverged").sum()), parts[0].meaning.of
    a_run = "run counts as unstable where it"
    if "diverged" in of:
        said = f"A {a_run} is marked as diverged or has no finite loss"
    else:
        said = f"No column of diverged: a {a_run} has no finite {of['loss']}"
    return f"{said} ({n} of {len(runs)}). Tables have no trajectories, so nothing else can tell."


def of_varying(parts: Sequence[Part], runs: pd.DataFrame, axes: Sequence[Axis]) -> list[str]:
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
        asked = {column: name for name, column in KIND.items()}
        apart = ",".join(asked.get(name, name) for name in [*key, mixing[0]])
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
