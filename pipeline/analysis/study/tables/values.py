"""Cells -> numbers, flags and states, with the row of a cell that is none."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis.study.runs import Bools, Floats, Ints
from pipeline.analysis.study.tables.raw import Raw
from pipeline.errors import RequestError

_BLANK = {"", "none", "null", "<na>", "na", "n/a"}
_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}
_YES = {"1", "1.0", "true", "yes", "y", "t"}
_NO = {"0", "0.0", "false", "no", "n", "f", "nan", *_BLANK}

UNFINISHED = {"running", "pending", "preempting", "preempted"}
FAILED = {"failed", "crashed", "killed"}
LOST = {"diverged", "aborted"}
_STATES = {*UNFINISHED, *FAILED, *LOST, "finished", "completed", "complete", "done", "success"}


def text(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    """Cells as text without spaces around; what is missing is blank."""
    if isinstance(cells.dtype, pd.StringDtype):
        return cells.fillna("").str.strip()
    return cells.astype(object).where(cells.notna(), "").map(_text).str.strip()


def _text(cell: Any) -> str:
    """Of a whole number that a frame made a float for the sake of a missing one, the whole number."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def numbers(raw: Raw, column: str, what: str) -> tuple[Floats, Bools]:
    """The column as numbers, and which cells are blank (their number is nan). Raises `RequestError` for text."""
    cells = raw.frame[column]
    if pd.api.types.is_numeric_dtype(cells.dtype) and not pd.api.types.is_bool_dtype(cells.dtype):
        plain = cells.to_numpy(dtype=np.float64, na_value=np.nan)
        return plain, np.isnan(plain)
    cells = text(cells)
    found = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    odd = np.flatnonzero(np.isnan(found))
    low = cells.iloc[odd].str.lower()
    blank = np.zeros(len(found), dtype=np.bool_)
    blank[odd] = low.isin(_BLANK).to_numpy()
    wrong = ~(low.isin(_BLANK) | low.isin(_NOT_FINITE)).to_numpy()
    if wrong.any():
        place = int(odd[wrong][0])
        raise RequestError(f"{raw.at(place)}: {_named(what, column)} is {cells.iloc[place]!r}, which is no number")
    return found, blank


def positive(raw: Raw, column: str, what: str, rows: Ints) -> Floats:
    """The column at `rows` as finite numbers above 0. Raises `RequestError` naming the first row where it is not."""
    found, blank = numbers(raw, column, what)
    for place in rows[~(np.isfinite(found[rows]) & (found[rows] > 0))][:1].tolist():
        is_what = "blank" if blank[place] else f"{found[place]:g}"
        raise RequestError(f"{raw.at(place)}: {_named(what, column)} is {is_what}; it must be above 0")
    return found[rows]


def seeds(raw: Raw, column: str, rows: Ints) -> Ints:
    """Whole numbers. Raises `RequestError`."""
    found, _ = numbers(raw, column, "seed")
    for place in rows[~(np.isfinite(found[rows]) & (np.floor(found[rows]) == found[rows]))][:1].tolist():
        cell = text(raw.frame[column].iloc[[place]]).iloc[0]
        is_what = repr(cell) if cell else "blank"
        raise RequestError(f"{raw.at(place)}: {_named('seed', column)} is {is_what}, which is no whole number")
    return found[rows].astype(np.int64)


def flags(raw: Raw, column: str) -> Bools:
    """Yes or no; blank is no. Raises `RequestError` for anything else."""
    cells = text(raw.frame[column]).str.lower()
    yes: NDArray[np.bool_] = cells.isin(_YES).to_numpy(dtype=np.bool_)
    wrong = np.flatnonzero(~(yes | cells.isin(_NO).to_numpy()))
    if len(wrong):
        place = int(wrong[0])
        raise RequestError(f"{raw.at(place)}: {_named('diverged', column)} is {cells.iloc[place]!r}; expected 0 or 1")
    return yes


def is_text(cells: "pd.Series[Any]") -> bool:
    """Whether no cell is a number (of the first thousand different ones), and some are not blank."""
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return False
    low = text(pd.Series(cells.unique()[:1000])).str.lower()  # which are enough: names of runs can be many
    low = low[~low.isin(_BLANK)]
    return len(low) > 0 and not (pd.to_numeric(low, errors="coerce").notna() | low.isin(_NOT_FINITE)).any()


def is_state(cells: "pd.Series[Any]") -> bool:
    """Whether every cell says how a run ended, in words that are known."""
    return not pd.api.types.is_numeric_dtype(cells.dtype) and set(text(cells).str.lower().unique()) <= _STATES


def _named(what: str, column: str) -> str:
    return what if what == column else f"{what} ({column})"
