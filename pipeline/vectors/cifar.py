"""CIFAR-10's binary version: records of a label and 3 x 32 x 32 pixels, a byte each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RequestError, require
from pipeline.vectors.part import Part, Split, class_indices

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32


def parts(files: Sequence[Path]) -> dict[Split, Part]:
    """Of ``data_batch_*.bin`` and ``test_batch.bin``. Raises `RequestError`."""
    of: dict[Split, list[Path]] = {
        "train": [path for path in files if path.name.startswith("data_batch_")],
        "val": [path for path in files if path.name.startswith("test_batch")],
    }
    require(of["train"], f"{files[0]}: of .bin files CIFAR-10's are read, data_batch_1.bin ... and test_batch.bin")
    return {split: _part(tuple(sorted(paths))) for split, paths in of.items() if paths}


def _part(files: tuple[Path, ...]) -> Part:
    counts = [_count(path) for path in files]

    def labels() -> NDArray[np.int64]:
        read = [class_indices(_records(path)[:, 0], count, path) for path, count in zip(files, counts, strict=True)]
        return np.concatenate(read)

    def examples() -> NDArray[Any]:
        return np.concatenate([_records(path)[:, 1:] for path in files]).reshape(-1, *SHAPE)

    return Part(files, sum(counts), SHAPE, labels, examples)


def _count(path: Path) -> int:
    count, rest = divmod(path.stat().st_size, RECORD)
    if rest or not count:
        raise RequestError(f"{path} is truncated, or not CIFAR-10's: its size is not a multiple of {RECORD}")
    return count


def _records(path: Path) -> NDArray[np.uint8]:
    return np.fromfile(path, np.uint8).reshape(-1, RECORD)
