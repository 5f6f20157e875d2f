"""From a path to the parts of a data set: which reader takes which files, and what follows for a run."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RequestError, require
from pipeline.files import matching
from pipeline.vectors import cifar, idx, npz, parquet
from pipeline.vectors.part import Part, Parts, Split, refuse_pickles

WITHIN = ("", "MNIST/raw", "FashionMNIST/raw", "raw", "cifar-10-batches-bin")
"""Where torchvision and the archives themselves put the files of a folder."""

_READERS: tuple[tuple[re.Pattern[str], Callable[[Sequence[Path]], dict[Split, Part]]], ...] = (
    (idx.NAME, idx.parts),
    (re.compile(r".*_batch.*\.bin"), cifar.parts),
    (re.compile(r".*\.npz", re.IGNORECASE), npz.parts),
    (re.compile(r".*\.parquet", re.IGNORECASE), parquet.parts),
)
READ = "IDX with the names of MNIST's files, .npz, .parquet, or CIFAR-10's .bin"

Indices = NDArray[np.int64]


class Shape(NamedTuple):
    """What follows for a run from the files that it reads."""

    d_in: int
    n_classes: int
    n_train: int


def find(path: str) -> Parts:
    """The parts of the data set that lies at a path: a file, a glob, or a folder. Raises `RequestError`."""
    files = _files(path)
    return _found(path, tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=32)
def _found(path: str, state: tuple[tuple[Path, int, int], ...]) -> Parts:
    """The same, looked at once as long as the files stay: names of runs ask for it again and again."""
    files = [file for file, _, _ in state]
    for name, parts in _READERS:
        if mine := [file for file in files if name.fullmatch(file.name)]:
            found = parts(mine)
            shapes = {part.shape for part in found.values()}
            require(len(shapes) == 1, f"{path}: training and test examples have different shapes, {shapes}")
            require(all(part.count for part in found.values()), f"{path} has a part without examples")
            return found
    refuse_pickles(files)
    if image := next(filter(_is_image, Path(path).rglob("*") if Path(path).is_dir() else files), None):
        raise RequestError(
            f"{path} holds image files, such as {image.name}, which are not read one by one: pack them once, as by "
            "numpy.savez('images.npz', x_train=..., y_train=..., x_test=..., y_test=...), images as uint8 of shape "
            "(count, rows, columns, channels) and classes as 0, 1, ..."
        )
    there = f"{files[0].name} ..." if files else "nothing"
    raise RequestError(f"{path} holds {there}, and no vectors that are read: {READ}")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def knows(path: str) -> bool:
    """Whether a path needs no word beside it to be read as vectors: an .npz, or a folder or file of IDX or CIFAR-10."""
    here = Path(path)
    files = _listed(here) if here.is_dir() else matching(path)
    return any(name.fullmatch(file.name) for name, _ in _READERS[:3] for file in files)


def source_files(path: str) -> list[tuple[str, Path]]:
    """The files that are read, in order, each with its split; empty where there are none that can be."""
    try:
        return [(split, file) for split, part in find(path).items() for file in part.files]
    except (RequestError, OSError):
        return []  # whoever opens it says what is wrong with it


def shape(path: str, validation_fraction: float, *, asked: bool = False, d_in: int = 0, n_classes: int = 0) -> Shape:
    """What a run needs to know of the files at a path, from their headers and labels; `d_in` and `n_classes` where they
    are known. `asked`: whether somebody asked for that fraction. Raises `RequestError`."""
    parts = find(path)
    train = parts["train"]
    require(not d_in or train.d_in == d_in, f"{path}: its examples have {train.d_in} values, not {d_in}")
    require(
        "val" not in parts or not asked,
        f"--data.validation_fraction is for files without a test part, and {path} has one: leave it out",
    )
    largest = max(int(part.labels().max()) for part in parts.values())
    most = n_classes or sum(part.count for part in parts.values())
    require(largest < most, f"{path}: label {largest} is out of range: class indices are 0 to {most - 1}")
    n_train = train.count if "val" in parts else len(held_out(train.count, validation_fraction)[0])
    return Shape(train.d_in, n_classes or largest + 1, n_train)


def held_out(count: int, fraction: float) -> tuple[Indices, Indices]:
    """Rows to train on and rows to validate with, ascending: a fixed draw, the same in every run. Raises
    `RequestError`."""
    require(count >= 2, "an example to train on and one to validate with are needed: the file has one")
    rows = np.random.default_rng(0).permutation(count)
    n_val = min(count - 1, max(1, round(count * fraction)))
    return np.sort(rows[n_val:]), np.sort(rows[:n_val])


def _files(path: str) -> list[Path]:
    here = Path(path)
    if here.is_dir():
        return _listed(here)
    files = matching(path)
    require(files, f"--data.path {path}: no such file")
    if idx.NAME.fullmatch(files[0].name):  # its labels lie beside it
        return _listed(files[0].parent)
    return files


def _listed(folder: Path) -> list[Path]:
    """Of the first of the usual places that has files which are read."""
    found: list[Path] = []
    for within in WITHIN:
        if (place := folder / within).is_dir():
            files = sorted(file for file in place.iterdir() if file.is_file())
            if any(name.fullmatch(file.name) for name, _ in _READERS for file in files):
                return files
            found += files
    return found
