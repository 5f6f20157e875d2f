"""Preparation of vectors: files here or on the hub -> arrays to map, and what to shift and scale them by, once.

A folder of the cache holds ``train-x.npy`` (n, d_in), of bytes or float32, ``train-y.npy`` (n,) int64, the same of
``val``, and a sealed manifest, written last. Its name carries a hash of the files' content and of the settings.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.cache import cache_folder, cache_root, content_sha256
from pipeline.config import DataConfig
from pipeline.data.vectors import MANIFEST
from pipeline.entries.vectors import Vectors
from pipeline.errors import RequestError, require
from pipeline.files import locked
from pipeline.sealed import json_sha256, read_sealed, write_sealed
from pipeline.vectors import parquet
from pipeline.vectors.find import find, held_out
from pipeline.vectors.part import Part, Parts, Split, split_of

FORMAT_VERSION = 1
ROWS = 4096  # that are converted at once
ARRAYS = ("train-x.npy", "train-y.npy", "val-x.npy", "val-y.npy")


class _Source(NamedTuple):
    """Where the files of a data set are."""

    content: list[tuple[Split, str]]
    """Their splits and checksums, in the order of reading."""
    origin: dict[str, Any]
    opened: Callable[[], AbstractContextManager[Parts]]
    """The parts, whose files stay until the context ends."""


def prepare_vectors(config: DataConfig) -> Path:
    """The prepared folder of a data set from files, made if it is not there or is damaged; one process makes it, others
    wait. Raises `RequestError` for what the user must change, `OSError` where disk or network fail."""
    entry = config.vectors
    assert entry is not None
    source = _source(config, entry)
    fraction = None if "val" in dict(source.content) else config.validation_fraction
    known = [FORMAT_VERSION, source.content, fraction, config.normalize, entry.channels]
    folder = cache_folder("vectors") / f"{config.name}-{json_sha256(known)[:12]}"
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not whole(folder):
            scratch = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
            try:
                scratch.mkdir()
                with source.opened() as parts:
                    _write(scratch, config, entry, parts, source.origin)
                shutil.rmtree(folder, ignore_errors=True)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    manifest = read_vectors(folder)
    for what, there, said in (
        ("values per example", manifest["d_in"], entry.d_in),
        ("examples to train on", manifest["examples"]["train"], entry.n_train),
    ):
        require(there == said, f"--data {config.name} has {there:,} {what} in its files, and in the settings {said:,}")
    return folder


def prepared_vectors(name: str = "*") -> list[Path]:
    """The folders of the cache that are made of a data set of that name."""
    return sorted(path.parent for path in cache_root().glob(f"vectors/{name}-*/{MANIFEST}"))


def read_vectors(folder: Path) -> dict[str, Any]:
    """The manifest of prepared vectors: name, origin, d_in, n_classes, examples by split, and what is in `MANIFEST`.
    Raises `RequestError` for a damaged one."""
    try:
        return read_sealed(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder} is damaged ({error}): delete it") from None


def whole(folder: Path) -> bool:
    """Whether prepared vectors are there as they were written."""
    try:
        known: Mapping[str, str] = read_sealed(folder / MANIFEST)["arrays"]
        return all(content_sha256(folder / name) == known[name] for name in ARRAYS)
    except (OSError, ValueError, KeyError):
        return False


def _source(config: DataConfig, entry: Vectors) -> _Source:
    if path := config.path or (entry.folder if Path(entry.folder or "/none").is_dir() else ""):
        parts = find(path)
        files = [(split, file) for split, part in parts.items() for file in part.files]
        content = [(split, content_sha256(file)) for split, file in files]
        return _Source(content, {"path": path}, lambda: nullcontext(parts))
    from pipeline.data.hub.download import hub_source

    try:
        source = hub_source(DataConfig(name=config.name, format="text", repo=entry.repo, files=entry.files))
    except RequestError as error:
        raise RequestError(f"{error}; or give --data.path, a folder or file of {config.name}") from None
    named = sorted(source.files, key=lambda file: (split_of(file.name) != "train", file.name))

    @contextmanager
    def fetched() -> Iterator[Parts]:
        with ExitStack() as held:
            yield parquet.parts([held.enter_context(source.open(file)) for file in named])
        for file in named:
            source.release(file)

    content = [(split_of(file.name) or "train", file.sha256 or source.blobs[file.name]) for file in named]
    return _Source(content, source.origin, fetched)


def _channels(entry: Vectors, train: Part) -> int:
    return entry.channels or (train.shape[0] if len(train.shape) == 3 else 1)


def _write(folder: Path, config: DataConfig, entry: Vectors, parts: Parts, origin: Mapping[str, Any]) -> None:
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
            "origin": origin,
            "d_in": train.d_in,
            "n_classes": entry.n_classes,
            "examples": {split: len(np.load(folder / f"{split}-y.npy")) for split in rows},
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
