"""Columns that nobody uses and that differ between runs: they would mix different experiments, or go along with the
axis."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.study.axis import AXES
from pipeline.analysis.study.runs import Floats
from pipeline.analysis.study.tables import values
from pipeline.analysis.study.tables.columns import NAMES

_SETTINGS = {
    *AXES, *(name for axis in AXES.values() for name in axis.columns), "param", "optimizer", "loss_kind",
    *NAMES["param"], *NAMES["optimizer"], *NAMES["loss_kind"],
    "weight_decay", "wd", "beta1", "beta2", "betas", "eps", "epsilon", "momentum", "warmup", "warmup_steps",
    "warmup_ratio", "steps", "max_steps", "num_steps", "total_steps", "iterations", "iters", "epochs", "num_epochs",
    "dropout", "schedule", "scheduler", "lr_schedule", "dataset", "data", "model", "arch", "architecture",
    "activation", "init", "init_std", "precision", "dtype", "clip", "grad_clip", "clip_grad_norm", "max_grad_norm",
    "seq_len", "seq_length", "sequence_length", "context_length", "block_size", "vocab_size", "n_head", "n_heads",
    "num_heads", "head_dim", "head_size", "study", "experiment", "source", "sweep",
}  # fmt: skip
"""What people call settings. Other columns may hold what came out of a run, which differs anyway."""


def varying(frame: pd.DataFrame, group: Any, level: Any, lr: Floats, known: bool) -> tuple[list[str], list[str]]:
    """Of the columns of `frame` those that differ between runs of one group and level, and those that differ from level
    to level only. `known`: all of them are settings.

    What is tied to the learning rate one to one (a final learning rate, say) does not count. Of columns that may be
    results those count that take few values.
    """
    mixing, along = [], []
    cell, point = _ids(group, level), _ids(group, level, lr)
    n_rows, most = np.bincount(cell), 0.9 * len(frame)
    n_lrs = _distinct(cell, pd.factorize(lr)[0])
    for column in frame.columns:
        code = pd.factorize(frame[column], use_na_sentinel=False)[0]
        named = known or str(column).lower() in _SETTINGS
        if code.max(initial=0) == 0 or (not named and code.max() >= most):
            continue
        n = _distinct(cell, code)
        if (n == 1).all():
            if (_distinct(group, code) > 1).any():
                along.append(column)
            continue
        tied = bool((n[n > 1] == n_lrs[n > 1]).all()) and bool((_distinct(point, code) == 1).all())
        if not tied and (named or _few(frame[column], n, n_rows)):
            mixing.append(column)
    return mixing, along


def _few(cells: "pd.Series[Any]", n: Any, n_rows: Any) -> bool:
    """Numbers that come again and again; text that does at all: names of runs never do."""
    many = n > 1
    if not (n[many] < n_rows[many]).all():
        return False
    return values.is_text(cells) or bool((2 * n[many] <= n_rows[many]).all())


def _distinct(cell: Any, code: Any) -> Any:
    """Per cell, how many codes it has."""
    several = int(code.max(initial=0)) + 1
    pairs = pd.unique(cell.astype(np.int64) * several + code)
    return np.bincount(pairs // several, minlength=int(cell.max()) + 1)


def _ids(*columns: Any) -> Any:
    """The same number for rows that are the same in all columns."""
    table = pd.DataFrame(dict(enumerate(columns)))
    return table.groupby(list(table.columns), sort=False).ngroup().to_numpy()
