"""Prepared tokens as training reads them: windows of a memory map."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.order import Indices
from pipeline.data.shards import Split, damages, read_manifest
from pipeline.errors import RequestError


class TokenWindows:
    """The windows of one split, memory-mapped and verified: ``windows[indices]`` is an int64 tensor (len, T + 1).

    Raises `RequestError` if a shard does not match the manifest or the split is shorter than one window.
    """

    def __init__(self, folder: Path, split: Split, seq_len: int) -> None:
        manifest = read_manifest(folder)
        if wrong := damages(folder, manifest, (split,)):
            raise RequestError(f"{wrong[0]}: delete {folder} to prepare it again")
        self.seq_len = seq_len
        entry = manifest["splits"].get(split, {"tokens": 0, "shards": []})
        self._windows = [_windows(folder / shard["file"], manifest["dtype"], seq_len) for shard in entry["shards"]]
        self._ends: Indices = np.cumsum([len(windows) for windows in self._windows], dtype=np.int64)
        if len(self) == 0:
            raise RequestError(
                f"the {split} split has {entry['tokens']} tokens, fewer than one window of --seq_len {seq_len} + 1"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def __getitem__(self, indices: Indices) -> Tensor:
        rows = np.empty((len(indices), self.seq_len + 1), dtype=np.int64)
        shard_of = np.searchsorted(self._ends, indices, side="right")
        for shard in np.unique(shard_of):
            mine = shard_of == shard
            rows[mine] = self._windows[shard][indices[mine] - (self._ends[shard - 1] if shard else 0)]
        return torch.from_numpy(rows)


def _windows(file: Path, dtype: str, seq_len: int) -> NDArray[np.unsignedinteger]:
    """All windows of a shard (count, T + 1), a view of the memory map."""
    tokens = np.asarray(np.memmap(file, dtype, mode="r"))
    if tokens.size <= seq_len:
        return np.empty((0, seq_len + 1), dtype)
    return np.lib.stride_tricks.sliding_window_view(tokens, seq_len + 1)[::seq_len]
