"""Preparation of vectors: files here or on the hub -> arrays to map, and what to shift and scale them by, once.

A folder of the cache holds ``train-x.npy`` (n, d_in), of bytes or float32, ``train-y.npy`` (n,) int64, the same of
``val``, and a sealed manifest, written last. Its name carries a hash of the files' content and of the settings.
"""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache import cache_folder, content_sha256
from pipeline.config import DataConfig
from pipeline.data.vectors import MANIFEST
from pipeline.entries.vectors import Vectors
from pipeline.errors import RequestError, require
from pipeline.files import locked
from pipeline.sealed import json_sha256, read_sealed, write_sealed
from pipeline.vectors import parquet
from pipeline.vectors.find import find, held_out
from pipeline.vectors.part import Part, Parts

FORMAT_VERSION = 1
ROWS = 4096  # that are converted at once
ARRAYS = ("train-x.npy", "train-y.npy", "val-x.npy", "val-y.npy")


def prepare_vectors(config: DataConfig) -> Path:
    """The prepared folder of a data set from files, made if it is not there or damaged; one process makes it, others
    wait. Raises `RequestError` for what the user must change, `OSError` where disk or network fail."""
    entry = config.vectors
    assert entry is not None
    with _opened(config, entry) as parts:
        require_shape(config, entry, parts)
        content = [[split, content_sha256(file)] for split, part in parts.items() for file in part.files]
        fraction = None if "val" in parts else config.validation_fraction
        known = [FORMAT_VERSION, content, fraction, config.normalize, _channels(entry, parts["train"])]
        folder = cache_folder("vectors") / f"{config.name}-{json_sha256(known)[:12]}"
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not _whole(folder):
                scratch = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
                try:
                    scratch.mkdir()
                    _write(scratch, config, entry, parts)
                    shutil.rmtree(folder, ignore_errors=True)
                    scratch.rename(folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    return folder


@contextmanager
def _opened(config: DataConfig, entry: Vectors) -> Iterator[Parts]:
    """Its parts, whose files stay until the context ends."""
    if path := config.path or (entry.folder if Path(entry.folder or "/none").is_dir() else ""):
        yield find(path)
        return
    from pipeline.data.hub.download import hub_source

    source = hub_source(DataConfig(name=config.name, format="text", repo=entry.repo, files=entry.files))
    with ExitStack() as held:
        yield parquet.parts([held.enter_context(source.open(file)) for file in source.files])


def require_shape(config: DataConfig, entry: Vectors, parts: Parts) -> None:
    """Raises `RequestError` where the files are not what the settings say: those of a run were found in others."""
    train = parts["train"]
    n_train = train.count if "val" in parts else len(held_out(train.count, config.validation_fraction)[0])
    for what, there, said in (("values per example", train.d_in, entry.d_in), ("examples", n_train, entry.n_train)):
        require(there == said, f"{train.files[0]} has {there:,} {what} to train on, and {config.name} {said:,}")


def _channels(entry: Vectors, train: Part) -> int:
    return entry.channels or (train.shape[0] if len(train.shape) == 3 else 1)


def _whole(folder: Path) -> bool:
    """Whether it is there as it was written."""
    try:
        known: Mapping[str, str] = read_sealed(folder / MANIFEST)["arrays"]
        return all(content_sha256(folder / name) == known[name] for name in ARRAYS)
    except (OSError, ValueError, KeyError):
        return False


def _write(folder: Path, config: DataConfig, entry: Vectors, parts: Parts) -> None:
    train = parts["train"]
    rows = (
        dict.fromkeys(parts, slice(None))
        if "val" in parts
        else dict(zip(("train", "val"), held_out(train.count, config.validation_fraction), strict=True))
    )
    for split, of in rows.items():
        part = parts["val"] if split == "val" and "val" in parts else train
        labels = part.labels()
        if (largest := int(labels.max())) >= entry.n_classes:
            raise RequestError(
                f"{part.files[-1]}: label {largest} is out of range: classes are 0 to {entry.n_classes - 1}"
            )
        np.save(folder / f"{split}-y.npy", labels[of])
        _write_examples(folder / f"{split}-x.npy", part, of)
    shift, scale = _statistics(folder / "train-x.npy", config.normalize, _channels(entry, train))
    write_sealed(
        folder / MANIFEST,
        {
            "name": config.name,
            "files": [str(file) for part in parts.values() for file in part.files],
            "arrays": {name: content_sha256(folder / name) for name in ARRAYS},
            "shift": shift,
            "scale": scale,
        },
    )


def _write_examples(path: Path, part: Part, rows: Any) -> None:
    examples = part.examples()
    order = np.arange(part.count)[rows]
    dtype = np.uint8 if examples.dtype == np.uint8 else np.float32
    out = np.lib.format.open_memmap(path, "w+", dtype, (len(order), part.d_in))
    for start in range(0, len(order), ROWS):
        mine = order[start : start + ROWS]
        with np.errstate(over="ignore", invalid="ignore"):
            out[start : start + ROWS] = examples[mine].reshape(len(mine), part.d_in)
        good = np.isfinite(out[start : start + ROWS]).all(1)
        require(
            good.all(),
            f"{part.files[0]}: example {mine[~good][:1]} has values that are not finite, or beyond float32's",
        )
    out.flush()


def _statistics(path: Path, normalize: str, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the equal parts of a vector that are normalized as one; what does not vary has
    scale 1."""
    if normalize == "none":
        return [0.0], [1.0]
    x: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    groups = x.shape[1] if normalize == "feature" else channels
    chunks = [slice(start, start + ROWS) for start in range(0, len(x), ROWS)]
    shape, count = (-1, groups, x.shape[1] // groups), x.size // groups
    shift = sum(x[rows].reshape(shape).sum((0, 2), dtype=np.float64) for rows in chunks) / count
    squares = sum(np.square(x[rows].reshape(shape) - shift[:, None]).sum((0, 2)) for rows in chunks)
    deviation = np.sqrt(squares / count)
    return shift.tolist(), np.where(deviation > 0, deviation, 1.0).tolist()
