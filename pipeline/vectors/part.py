"""A part of a data set, as a reader finds it in its files: what it holds, and how to read it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RequestError, require

Split = Literal["train", "val"]
Parts = Mapping[Split, "Part"]
"""``train``, and ``val`` where the files have one."""


@dataclass(frozen=True)
class Part:
    """The examples of a split. Its functions raise `RequestError` that names the file."""

    files: tuple[Path, ...]
    """In the order of reading."""
    count: int
    shape: tuple[int, ...]
    """Of one example; of images (channels, rows, columns)."""
    labels: Callable[[], NDArray[np.int64]]
    """(count,): class indices."""
    examples: Callable[[], NDArray[Any]]
    """(count, *shape), of the files' own type."""

    @property
    def d_in(self) -> int:
        return math.prod(self.shape)


def channels_first(examples: NDArray[Any]) -> NDArray[Any]:
    """Images (count, rows, columns), or with 1 or 3 channels in front or behind, as (count, channels, rows, columns);
    others as they are."""
    if examples.ndim == 3:
        return examples[:, None]
    last = examples.ndim == 4 and examples.shape[1] not in (1, 3) and examples.shape[-1] in (1, 3)
    return np.moveaxis(examples, -1, 1) if last else examples


def class_indices(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    """Labels as class indices (count,). Raises `RequestError` for what are none."""
    labels = labels.reshape(len(labels)) if labels.shape[1:] == (1,) else labels
    require(labels.shape == (count,), f"{path}: labels of shape {list(labels.shape)} do not go with {count} examples")
    require(labels.dtype.kind in "iufb", f"{path}: labels are to be class indices 0, 1, ..., not {labels.dtype}")
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (labels == np.floor(labels))
        require(whole.all(), f"{path}: labels are to be class indices 0, 1, ..., and {labels[~whole][:1]} is none")
    if count and (least := labels.min()) < 0:
        raise RequestError(f"{path}: labels are to be class indices 0, 1, ..., and {least} is none")
    return labels.astype(np.int64)


def split_of(name: str) -> Split | None:
    """The split that a word in a file's or an array's name says."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    for word in words:
        if word in ("train", "training"):
            return "train"
        if word in ("test", "testing", "val", "valid", "validation"):
            return "val"
    return None


def refuse_pickles(files: Sequence[Path]) -> None:
    """Raises `RequestError` for files that only unpickling could read, which may run anything."""
    suffixes = (".pkl", ".pickle", ".pt", ".pth")
    for path in files:
        if path.suffix.lower() in suffixes or (not path.suffix and path.name.startswith(("data_batch_", "test_batch"))):
            raise RequestError(
                f"{path} is a Python pickle, which is not read: give CIFAR-10's binary version (data_batch_1.bin ...), "
                "parquet, or an .npz"
            )
