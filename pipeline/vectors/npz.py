"""NumPy's .npz: a pair of arrays, or one per split (``x_train y_train x_test y_test``)."""

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RequestError, require
from pipeline.vectors.part import Part, Split, channels_first, class_indices, split_of

X = ("x", "features", "images", "data", "inputs")
Y = ("y", "labels", "label", "targets", "target")
KEYS = "x and y, features and labels, or x_train, y_train, x_test and y_test"

DAMAGE = (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What reading an archive raises; no memory holds what a false header says."""


def parts(files: Sequence[Path]) -> dict[Split, Part]:
    """Of one file. Raises `RequestError`."""
    require(len(files) == 1, f"{len(files)} .npz files, such as {files[0]}: name the one to read")
    (path,) = files
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None
    found: dict[tuple[str, str], str] = {}
    for key in keys:
        split = split_of(key)
        word = re.sub(r"[^a-z]", "", re.sub("train(ing)?|test(ing)?|val(id(ation)?)?", "", key.lower()))
        if (what := "x" if word in X else "y" if word in Y else "") and (split or "train", what) not in found:
            # of val and test, test is what is held out
            found[split or "train", what] = key
        elif what and "test" in key.lower():
            found["val", what] = key
    splits: dict[Split, Part] = {}
    for of in ("train", "val"):
        if (x := found.get((of, "x"))) and (y := found.get((of, "y"))):
            splits[of] = _part(path, x, y)
    require("train" in splits, f"{path} has the arrays {', '.join(keys) or 'none'}: call them {KEYS}")
    return splits


def _part(path: Path, x: str, y: str) -> Part:
    dtype, (count, *shape) = _header(path, x)
    require(shape, f"{path}, {x}: examples are to be vectors, an array of at least two dimensions")
    require(dtype.kind in "iufb", f"{path}, {x}: examples are to be numbers, not {dtype}")
    stand_in = np.broadcast_to(np.empty((), dtype), (count, *shape))
    return Part(
        (path,),
        count,
        channels_first(stand_in).shape[1:],
        lambda: class_indices(_read(path, y), count, path),
        lambda: channels_first(_read(path, x)),
    )


def _header(path: Path, key: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
    except DAMAGE as error:
        raise _damaged(path, error) from None
    require(dtype.kind != "O", _pickled(path, key))
    require(len(shape) >= 1, f"{path}, {key}: a single value, not an array")
    return dtype, shape


def _read(path: Path, key: str) -> NDArray[Any]:
    _header(path, key)
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[key]
            return array
    except DAMAGE as error:
        raise _damaged(path, error) from None


def _pickled(path: Path, key: str) -> str:
    return f"{path}, {key}: Python objects (a pickle), which are not read: save it as an array of numbers"


def _damaged(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path} cannot be read as .npz, damaged or truncated ({error})")
