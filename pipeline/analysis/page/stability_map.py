"""The stability map of a group: at every width and learning rate the share of seeds that trained stably."""

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import words


@dataclass(frozen=True)
class Cell:
    """A learning rate at a width."""

    text: str
    """Stable seeds of all: ``2/3``; empty: not tried."""
    share: float
    """Of stable seeds; nan: not tried."""
    best: bool
    """The best learning rate tried at this width."""


def stability_map(group: GroupFit) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """The widths, and a row of cells per learning rate, largest first."""
    runs, unstable = group.grid.runs, group.grid.labels.unstable
    rows = []
    for rate in np.unique(runs.lr)[::-1]:
        cells = []
        for w in group.widths:
            here = (runs.width == w.width) & (runs.lr == rate)
            n, stable = int(here.sum()), int((here & ~unstable).sum())
            text, share = (f"{stable}/{n}", stable / n) if n else ("", float("nan"))
            cells.append(Cell(text, share, w.optimum.index is not None and w.optimum.lr == rate))
        rows.append((words.rate(float(rate)), cells))
    return [words.level(w.width) for w in group.widths], rows
