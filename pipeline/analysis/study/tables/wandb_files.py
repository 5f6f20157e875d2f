"""W&B's own folders, `wandb/` or a run in it (`offline-run-*`, `run-*`) -> a `Raw` table, a row per run.

The pinned package no longer has a reader of its ``.wandb`` files in Python, but their records' protobuf. The frame is
LevelDB's log format: after 7 bytes (``:W&B``, a magic number, a version) blocks of 32 KiB, in which every fragment has
a checksum, a length and a type.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.analysis.study.tables.raw import Raw, flat, run_row
from pipeline.errors import RequestError

_IDENT, _MAGIC, _VERSION = b":W&B", 0xBEE1, 0
_BLOCK, _HEAD = 32768, struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class Damaged(ValueError):
    """Of a file that is not, or no longer, a log of W&B."""


def runs_under(folder: Path) -> list[Path]:
    """The ``.wandb`` files of a run's folder, of a folder of runs, or of the folder that holds ``wandb/``; each run
    once."""
    for pattern in ("run-*.wandb", "*run-*/run-*.wandb", "wandb/*run-*/run-*.wandb"):
        found = {path.resolve(): path for path in sorted(folder.glob(pattern)) if not path.parent.is_symlink()}
        if found:
            return list(found.values())
    return []


def read(folder: Path) -> Raw:
    """A row per run: its config and the last values of what it logged, flattened, and ``state``. Raises
    `RequestError` for damaged files."""
    files = runs_under(folder)
    rows, settings = [], set()
    for file in files:
        try:
            row, config = _run(file)
        except (Damaged, OSError) as error:
            raise RequestError(f"{file} cannot be read as a run of W&B: {error}") from None
        rows.append(row)
        settings |= config
    holder = files[0].parent.parent if files[0].parent == folder else folder
    beside = holder.resolve().parent / f"{holder.resolve().name}-fit"
    names = tuple(file.parent.name for file in files)
    return Raw(str(folder), beside, pd.DataFrame(rows), "run", frozenset(settings), names)


def _run(file: Path) -> tuple[dict[str, Any], set[str]]:
    """The row of a run, and which of its columns are settings."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    state = "running"
    for content in _records(file.read_bytes()):
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError:
            raise Damaged("a record is no message of W&B") from None
        kind = record.WhichOneof("record_type")
        if kind == "run":
            _update(config, record.run.config)
            _update(summary, record.run.summary)
        elif kind == "config":
            _update(config, record.config)
        elif kind == "summary":
            _update(summary, record.summary)
        elif kind == "history":
            for item in record.history.item:
                _set(summary, [item.key] if item.key else list(item.nested_key), item.value_json)
        elif kind == "exit":
            state = "failed" if record.exit.exit_code else "finished"
    row = run_row(config, summary, state)
    return row, {key for key in flat(config) if not key.startswith("_wandb")}


def _update(values: dict[str, Any], change: Any) -> None:
    for item in change.update:
        _set(values, [item.key] if item.key else list(item.nested_key), item.value_json)
    for item in change.remove:
        _drop(values, [item.key] if item.key else list(item.nested_key))


def _set(values: dict[str, Any], path: list[str], text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        raise Damaged(f"the value of {'.'.join(path)} is no JSON") from None
    for key in path[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    if path:
        values[path[-1]] = value


def _drop(values: Any, path: list[str]) -> None:
    for key in path[:-1]:
        values = values.get(key, {}) if isinstance(values, dict) else {}
    if path and isinstance(values, dict):
        values.pop(path[-1], None)


def _records(log: bytes) -> Iterator[bytes]:
    """The records of a log. A torn last one, as of a run that was killed, does not count. Raises `Damaged`."""
    if len(log) < 7 or log[:4] != _IDENT or struct.unpack("<HB", log[4:7]) != (_MAGIC, _VERSION):
        raise Damaged("it does not begin like one")
    place, parts = 7, b""
    while place + _HEAD.size <= len(log):
        left = _BLOCK - place % _BLOCK
        if left < _HEAD.size:
            place += left
            continue
        checksum, size, kind = _HEAD.unpack_from(log, place)
        place += _HEAD.size
        body = log[place : place + size]
        if len(body) < size:
            return
        if zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            raise Damaged(f"its checksum is wrong at byte {place}")
        place += size
        parts = body if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""
