"""Token shards on disk.

A folder holds ``train-00000.bin ...``, ``val-00000.bin ...`` (little-endian uint16 or uint32 token ids), tokenizer.json,
and manifest.json, written last. A window is T + 1 consecutive tokens of one shard; windows overlap by one token, so
every token but a shard's first is predicted once per epoch.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pipeline.config import RequestError
from pipeline.data.order import Indices

Split = Literal["train", "val"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


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
