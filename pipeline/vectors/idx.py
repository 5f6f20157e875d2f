"""IDX, the format of MNIST: a header of big-endian sizes, then the values; also packed by gzip."""

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RequestError, require
from pipeline.vectors.part import Part, Split, class_indices

NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(\.gz)?")
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def parts(files: Sequence[Path]) -> dict[Split, Part]:
    """Of the files with the standard names. Raises `RequestError`."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(files, key=lambda path: path.suffix == ".gz", reverse=True):  # what is unpacked goes before
        if name := NAME.fullmatch(path.name):
            found["train" if name[1] == "train" else "val", name[2]] = path
    splits: dict[Split, Part] = {}
    for split in ("train", "val"):
        images, labels = found.get((split, "images")), found.get((split, "labels"))
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            there, gone = (images, "labels") if images else (labels, "images")
            raise RequestError(f"{there}: no {split} {gone} beside it")
        splits[split] = _part(images, labels)
    require("train" in splits, f"{files[0].parent} has no train-images-idx3-ubyte")
    return splits


def _part(images: Path, labels: Path) -> Part:
    _, sizes = _header(images)
    count, *shape = sizes
    _, label_sizes = _header(labels)
    require(
        label_sizes == [count],
        f"{labels}: labels of shape {label_sizes} do not go with the {count} examples of {images}",
    )
    return Part(
        (images, labels),
        count,
        (1, *shape) if len(shape) == 2 else tuple(shape),
        lambda: class_indices(_read(labels), count, labels),
        lambda: _read(images),
    )


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _header(path: Path) -> tuple[np.dtype[Any], list[int]]:
    """Type and sizes. Raises `RequestError`."""
    try:
        with _open(path) as stream:
            return _sizes(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from None


def _sizes(stream: IO[bytes], path: Path) -> tuple[np.dtype[Any], list[int]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= 8:
        raise RequestError(f"{path} is not an IDX file: it begins with {magic!r}")
    header = stream.read(4 * magic[3])
    require(len(header) == 4 * magic[3], f"{path} is truncated: it ends within its header")
    return np.dtype(TYPES[magic[2]]), np.frombuffer(header, ">u4").tolist()


def _read(path: Path) -> NDArray[Any]:
    try:
        with _open(path) as stream:
            dtype, sizes = _sizes(stream, path)
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from None
    expected = math.prod(sizes) * dtype.itemsize
    how = "truncated" if len(content) < expected else "too long"
    require(
        len(content) == expected, f"{path} is {how}: {len(content):,} bytes of values, and its header says {expected:,}"
    )
    return np.frombuffer(content, dtype).reshape(sizes)


def _damaged(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path} cannot be read, damaged or truncated ({error})")
