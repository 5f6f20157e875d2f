"""Token shards on disk, and the seeded order in which training reads their windows.

A folder holds ``train-00000.bin ...``, ``val-00000.bin ...`` (little-endian uint16 or uint32 token ids), tokenizer.json,
and manifest.json, written last. A window is T + 1 consecutive tokens of one shard; windows overlap by one token, so
every token but a shard's first is predicted once per epoch.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import RequestError

Split = Literal["train", "val"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

Indices = NDArray[np.int64]


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shard folder. Raises `RequestError` if it is missing, unreadable or of another version."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if (version := manifest["format_version"]) != FORMAT_VERSION:
            raise RequestError(f"{path} has format version {version}, not {FORMAT_VERSION}: delete {folder}")
        # what the readers below rely on
        np.dtype(manifest["dtype"]), manifest["fingerprint"]
        for split in get_args(Split):
            int(manifest["splits"][split]["tokens"])
            for shard in manifest["splits"][split]["shards"]:
                folder / shard["file"], shard["sha256"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise RequestError(f"{path} is missing or damaged: delete {folder} to prepare it again") from None
    return manifest


class TokenWindows:
    """The windows of one split, memory-mapped and verified: ``windows[indices]`` is an int64 tensor (len, T + 1).

    Raises `RequestError` if a shard does not match the manifest or the split is shorter than one window.
    """

    def __init__(self, folder: Path, split: Split, seq_len: int) -> None:
        manifest = read_manifest(folder)
        self.seq_len = seq_len
        self._shards = []
        for entry in manifest["splits"][split]["shards"]:
            path = folder / entry["file"]
            if not path.is_file() or file_sha256(path) != entry["sha256"]:
                raise RequestError(
                    f"data shard {path} does not match its manifest (sha256): delete {folder} to prepare it again"
                )
            self._shards.append(np.memmap(path, dtype=manifest["dtype"], mode="r"))
        self._ends: Indices = np.cumsum([(shard.size - 1) // seq_len for shard in self._shards])
        if len(self) == 0:
            tokens = manifest["splits"][split]["tokens"]
            raise RequestError(
                f"the {split} split has {tokens} tokens, fewer than one window of --seq_len {seq_len} + 1"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: Indices) -> Tensor:
        shard_of = np.searchsorted(self._ends, indices, side="right")
        windows = np.empty((len(indices), self.seq_len + 1), dtype=np.int64)
        for row, (shard, index) in enumerate(zip(shard_of, indices, strict=True)):
            start = (index - (self._ends[shard - 1] if shard else 0)) * self.seq_len
            windows[row] = self._shards[shard][start : start + self.seq_len + 1]
        return torch.from_numpy(windows)


def permute(indices: Indices, size: int, key: int) -> Indices:
    """A pseudo-random permutation of ``range(size)``, evaluated at `indices` in O(1) memory.

    A six-round Feistel network on the smallest even number of bits that holds `size`; values past the end walk on
    along their cycle until they fall inside.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    rounds = [np.uint64(_hash(f"{key}/{r}")) for r in range(6)]

    def encrypt(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> half, x & mask
        for round_key in rounds:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        return (left << half) | right

    values = encrypt(indices.astype(np.uint64))
    while (outside := values >= size).any():
        values[outside] = encrypt(values[outside])
    return values.astype(np.int64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every input bit reaches every output bit (arithmetic modulo 2^64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def window_order(samples: Indices, size: int, seed: int) -> Indices:
    """The windows that the given samples of an endless training run read.

    Sample j is window ``permute(j mod size)`` of epoch ``j // size``: a pure function of (seed, epoch, j mod size), so
    that the number of consumed samples is all the state there is.
    """
    epochs, offsets = np.divmod(samples, size)
    order = np.empty_like(samples)
    for epoch in np.unique(epochs):
        members = epochs == epoch
        order[members] = permute(offsets[members], size, _hash(f"{seed}/{epoch}"))
    return order


def training_batches(
    windows: TokenWindows,
    *,
    seed: int,
    first_step: int,
    global_batch: int,
    micro_batch: int,
    rank: int,
    world_size: int,
) -> Iterator[Tensor]:
    """Endless micro-batches (micro_batch, T + 1) of one rank from optimizer step `first_step` on.

    Step s consumes samples ``s * global_batch ...`` whatever the world size; each rank reads a contiguous part.
    """
    per_rank = global_batch // world_size
    step = first_step
    while True:
        start = step * global_batch + rank * per_rank
        for offset in range(0, per_rank, micro_batch):
            samples = np.arange(start + offset, start + offset + micro_batch)
            yield windows[window_order(samples, len(windows), seed)]
        step += 1


def validation_batches(
    windows: TokenWindows, *, sequences: int, batch: int, rank: int, world_size: int
) -> Iterator[Tensor]:
    """One rank's share of the split's first `sequences` windows, in batches of at most `batch`."""
    mine = np.arange(min(sequences, len(windows)))[rank::world_size]
    for start in range(0, len(mine), batch):
        yield windows[mine[start : start + batch]]
