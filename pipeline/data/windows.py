"""Prepared tokens as training reads them: windows of a memory map."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.config import RequestError
from pipeline.data.order import Indices
from pipeline.data.shards import Split, damages, read_manifest


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
        self._shards = [np.memmap(folder / shard["file"], manifest["dtype"], mode="r") for shard in entry["shards"]]
        self._ends: Indices = np.cumsum([(shard.size - 1) // seq_len for shard in self._shards], dtype=np.int64)
        if len(self) == 0:
            raise RequestError(
                f"the {split} split has {entry['tokens']} tokens, fewer than one window of --seq_len {seq_len} + 1"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def __getitem__(self, indices: Indices) -> Tensor:
        shard_of = np.searchsorted(self._ends, indices, side="right")
        windows = np.empty((len(indices), self.seq_len + 1), dtype=np.int64)
        for row, (shard, index) in enumerate(zip(shard_of.tolist(), indices.tolist(), strict=True)):
            start = (index - (self._ends[shard - 1] if shard else 0)) * self.seq_len
            windows[row] = self._shards[shard][start : start + self.seq_len + 1]
        return torch.from_numpy(windows)
