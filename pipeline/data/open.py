"""From a run's settings to its data, whatever the kind: two splits that give a batch for an array of indices."""

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.config import RunConfig
from pipeline.data.prepare import prepare
from pipeline.data.shards import TokenWindows, read_manifest
from pipeline.data.vectors import SOURCES, Examples

Samples: TypeAlias = TokenWindows | Examples


@dataclass(frozen=True)
class Data:
    """The training and the validation split, and a hash that changes with their content."""

    train: Samples
    val: Samples
    fingerprint: str


def open_data(config: RunConfig) -> Data:
    """Open the run's data, preparing text first where that has not been done yet. Raises `RequestError`."""
    if config.data.dimensions:
        train, val = (Examples(*SOURCES[config.data.format](split)) for split in ("train", "val"))
        return Data(train, val, hashlib.sha256((train.sha256 + val.sha256).encode()).hexdigest())
    folder = prepare(config.data, config.model.vocab_size)
    windows = [TokenWindows(folder, split, config.seq_len) for split in ("train", "val")]
    return Data(windows[0], windows[1], read_manifest(folder)["fingerprint"])
