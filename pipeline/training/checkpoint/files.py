"""Checkpoints on disk, folders of safetensors that any strategy writes and reads, at any number of processes.

``checkpoints/step-00001000.ckpt/`` holds one file per process that had something to write, and manifest.json, which
says where everything is. Every tensor is stored as contiguous ranges of its elements in row-major order: all of it
where processes hold replicas, rows under FSDP, ranges that begin and end anywhere under ZeRO. Nothing is pickled.
"""

import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import beside, file_sha256, naming
from pipeline.run.directory import LAST
from pipeline.sealed import read_sealed, write_sealed

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class Damaged(ValueError):
    """A checkpoint that cannot be read; the message is a few words on why."""


class Piece(NamedTuple):
    """A contiguous range of a tensor's elements in row-major order."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    values: Tensor
    """1-D, the elements `start`, `start` + 1, ..."""


@dataclass(frozen=True)
class _Place:
    """Where a range of a tensor's elements lies."""

    file: str
    start: int
    end: int


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def begin(folder: Path, step: int) -> Path:
    """A scratch folder beside the checkpoints, which `publish` makes one of them."""
    folder.mkdir(exist_ok=True)  # not its parents: a run whose directory was deleted must not seem to be there
    scratch = beside(folder / f"step-{step:08d}")
    scratch.mkdir()
    return scratch


def write_shard(scratch: Path, number: int, pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """Write one process's pieces, durably, and return what the manifest is to say of them. Raises `OSError`."""
    path = scratch / f"shard-{number:05d}.safetensors"
    try:
        save_file({name: piece.values.detach() for name, piece in pieces.items()}, path)
    except SafetensorError as error:
        number_of_error = re.search(r"os error (\d+)", str(error))
        if number_of_error is None:
            raise
        place = str(scratch.parent)  # the scratch folder is gone when somebody reads this
        raise OSError(int(number_of_error[1]), os.strerror(int(number_of_error[1])), place) from None
    path.chmod(scratch.stat().st_mode & 0o666)  # safetensors does not ask the umask
    with naming(scratch.parent), path.open("rb") as stream:
        os.fsync(stream.fileno())
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "pieces": {name: [list(p.shape), p.start, p.values.numel()] for name, p in pieces.items()},
    }


def publish(scratch: Path, step: int, state: Mapping[str, Any], shards: Iterable[Mapping[str, Any]]) -> Path:
    """Make the scratch folder the checkpoint of `step`, at once. `state`: what JSON holds, handed back by
    `Checkpoint`."""
    content = {"version": FORMAT_VERSION, "step": step, "state": dict(state), "shards": list(shards)}
    write_sealed(scratch / MANIFEST, content, seal="checksum")
    place = scratch.parent / f"step-{step:08d}.ckpt"
    if place.exists():  # an earlier one of the same step, found damaged
        shutil.rmtree(place)
    scratch.rename(place)
    link = scratch.parent / f".{LAST}-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(scratch.parent / LAST)
    _sync_folder(scratch.parent)
    for later in newest_first(scratch.parent):
        if later.name == place.name:
            break
        _delete(later)  # found damaged, else the run would have gone on from it; it is not to count among those kept
    return place


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what interrupted writers left; `LAST` goes with the last."""
    for path in newest_first(folder)[keep:]:
        _delete(path)
    if keep == 0:
        (folder / LAST).unlink(missing_ok=True)
    for path in folder.glob(".*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _delete(path: Path) -> None:
    condemned = path.with_name(f".{path.name}")  # so that nobody takes half of it for a checkpoint
    path.rename(condemned)
    shutil.rmtree(condemned)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run."""
    folders = (path for path in folder.glob("step-*.ckpt") if path.is_dir())
    return sorted(folders, key=lambda path: (len(path.name), path.name), reverse=True)


class Checkpoint:
    """A checkpoint, opened: its manifest is read and found whole, its tensors are read when they are asked for.

    Raises `Damaged`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            manifest = read_sealed(path / MANIFEST, seal="checksum")
        except OSError as error:
            raise Damaged(f"{MANIFEST}: {error.strerror or error}") from None
        except ValueError as error:
            raise Damaged(str(error)) from None
        if (version := manifest.get("version")) != FORMAT_VERSION:
            raise Damaged(f"it has format {version}, this program reads {FORMAT_VERSION}")
        self.step = int(manifest["step"])
        self.state: dict[str, Any] = manifest["state"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, list[_Place]] = {}
        for shard in self._shards:
            for name, (shape, start, numel) in shard["pieces"].items():
                self.shapes[name] = tuple(shape)
                self._parts.setdefault(name, []).append(_Place(shard["file"], start, start + numel))
        for name, parts in self._parts.items():
            parts.sort(key=lambda part: part.start)
            ends = [0, *(part.end for part in parts)]
            whole = [part.start for part in parts] == ends[:-1] and ends[-1] == math.prod(self.shapes[name])
            if not whole:
                raise Damaged(f"parts of {name} are missing")

    def verify(self) -> None:
        """Compare every file with the size and the sha256 that the manifest has of it. Raises `Damaged`."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._verify_shard, self._shards))

    def _verify_shard(self, shard: Mapping[str, Any]) -> None:
        path = self.path / shard["file"]
        try:
            if path.stat().st_size != shard["bytes"]:
                raise Damaged(f"{path.name} has {path.stat().st_size} bytes of {shard['bytes']}")
            if file_sha256(path) != shard["sha256"]:
                raise Damaged(f"wrong checksum of {path.name}")
        except OSError as error:
            raise Damaged(f"{path.name}: {error.strerror or error}") from None

    def read(self, name: str, start: int = 0, end: int | None = None) -> Tensor:
        """Elements `start` to `end` (all by default) of a tensor, 1-D, on the CPU. Raises `KeyError`."""
        end = math.prod(self.shapes[name]) if end is None else end
        ranges = [
            self._files[part.file].get_slice(name)[
                max(start, part.start) - part.start : min(end, part.end) - part.start
            ]
            for part in self._parts[name]
            if part.start < end and start < part.end
        ]
        return ranges[0] if len(ranges) == 1 else torch.cat(ranges)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor in its shape. Raises `KeyError`."""
        return self.read(name).view(self.shapes[name])

    @cached_property
    def _files(self) -> dict[str, Any]:
        return {s["file"]: safe_open(self.path / s["file"], framework="pt") for s in self._shards if s["pieces"]}


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a folder that is whole, if any is, and a line about each newer one that is not."""
    complaints = []
    for path in newest_first(folder):
        try:
            checkpoint = Checkpoint(path)
            checkpoint.verify()
        except Damaged as damage:
            complaints.append(f"checkpoint {path} is damaged ({damage})")
        else:
            return checkpoint, complaints
    last = folder / LAST
    if last.exists() and not last.is_symlink():
        complaints.append(f"checkpoint {last} is damaged (not a folder of this version of the pipeline)")
    return None, complaints
