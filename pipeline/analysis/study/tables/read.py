"""Table files and other sources -> `Raw` tables. One entry per format; nothing is ever unpickled."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.analysis.study.tables import wandb_files, wandb_project
from pipeline.analysis.study.tables.raw import Raw, flat
from pipeline.errors import RequestError


def _csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
        if not head.strip():
            raise ValueError("the first line is blank, where the names of columns belong")
        separator = max(",;\t|", key=head.count)  # of equal ones the comma
        stream.seek(0)
        names = next(csv.reader(stream, delimiter=separator))
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"two columns are called {twice[0]!r}")
    # as text: what is no number must be told from what is blank, with its row
    return pd.read_csv(
        path,
        sep=separator,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        skip_blank_lines=True,
        index_col=False,
        on_bad_lines="error",
    )


def _parquet(path: Path) -> pd.DataFrame:
    import pyarrow.parquet

    return _flat_columns(pyarrow.parquet.read_table(path).to_pandas(ignore_metadata=True))


def _jsonl(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=str)  # a frame takes nan for a missing value
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object")
        nested = any(isinstance(value, dict | list) for value in row.values())
        rows.append(flat(row) if nested else row)
    return pd.DataFrame(rows)


def _flat_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of objects (structs) become one column per key."""
    objects = [name for name in frame if frame[name].dtype.kind == "O"]
    if not any(isinstance(cell, dict) for name in objects for cell in frame[name]):
        return frame
    return pd.DataFrame(list(map(flat, frame.to_dict("records"))))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reader:
    """How the files of a format are read; `read` raises `ValueError` or `OSError` for damaged ones."""

    read: Callable[[Path], pd.DataFrame]
    row: str = "row"


READERS: dict[str, Reader] = {
    ".csv": Reader(_csv, "row"),
    ".tsv": Reader(_csv, "row"),
    ".parquet": Reader(_parquet),
    ".jsonl": Reader(_jsonl, "line"),
}
"""By the ending of the file's name."""


CAME_OUT = "came_out"
"""Of a frame's `attrs`: the columns that were not set before training, where whoever made it knows."""


def is_table(source: str) -> bool:
    """Whether a positional argument names a table, not a study folder of ours."""
    path = Path(source)
    if wandb_project.is_project(source) or path.suffix.lower() in READERS:
        return True
    return path.is_dir() and bool(wandb_files.runs_under(path))


def read(source: str | pd.DataFrame) -> Raw:
    """The table that a positional argument names, or that is there already. Raises `RequestError` for one that is
    missing, damaged or empty."""
    path = Path(source) if isinstance(source, str) else Path()
    if not isinstance(source, str):
        if len(twice := source.columns[source.columns.duplicated()]):
            raise RequestError(f"two columns of the table are called {twice[0]!r}")
        frame = _flat_columns(source.reset_index(drop=True).rename(columns=str))
        came_out = source.attrs.get(CAME_OUT)
        raw = Raw("the table", path, frame, settings=came_out and frozenset(frame.columns) - frozenset(came_out))
    elif wandb_project.is_project(source):
        raw = wandb_project.read(source)
    elif path.is_dir():
        raw = wandb_files.read(path)
    else:
        raw = _file(path)
    if not len(raw.frame):
        raise RequestError(f"{raw.where} holds no runs: it has no row below its header")
    return raw


def _file(path: Path) -> Raw:
    reader = READERS[path.suffix.lower()]
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    try:
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        frame = reader.read(path)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's errors of damaged files are such
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{path} cannot be read as {path.suffix.lower()[1:]}: {first}") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    return Raw(str(path), path.parent / f"{path.stem}-fit", frame, reader.row)
