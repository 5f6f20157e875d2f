"""Streams: a source's files, read, tokenized and shuffled while training goes on.

Row p of a global batch is the next window of lane ``p // (global_batch / lanes)``, whoever trains on it, and a lane
gives out each of its eras in the order of a stateless permutation. So the order of samples is a function of the source,
the settings and the seed; it depends neither on the number of devices nor of worker processes. What it takes to go on
from a step is, beside the step, where in its files the current era of each lane starts.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.config import DataConfig
from pipeline.data.order import permute, seeded
from pipeline.data.shards import TOKENIZER
from pipeline.data.sources import Source
from pipeline.data.streaming.lanes import Cursor, Era, Lane, Tokens, have_lanes, read_era
from pipeline.data.streaming.write_through import LaneShards
from pipeline.errors import RequestError
from pipeline.processes import Workers


class StreamedWindows:
    """The training samples of a source that is read while training goes on.

    Raises `RequestError` if the source has fewer files than lanes.
    """

    def __init__(
        self, source: Source, config: DataConfig, validation: Path, *, seq_len: int, global_batch: int, seed: int
    ) -> None:
        """`validation` is the prepared folder of the validation split; its tokenizer is used."""
        if len(source.files) < config.lanes:
            raise RequestError(
                f"--data.lanes {config.lanes} is more than the files of {config.name} ({len(source.files)}): "
                "give fewer lanes or --data.mode prepared"
            )
        order = permute(np.arange(len(source.files)), len(source.files), seeded(seed, "files"))
        files = [source.files[index] for index in order]
        self.config, self.seed = config, seed
        self.per_step = global_batch // config.lanes  # windows of a lane
        self.lanes = [
            Lane(number, source, tuple(files[number :: config.lanes]), config, validation / TOKENIZER, seq_len)
            for number in range(config.lanes)
        ]
        self._starts: list[dict[int, Cursor]] = [{0: Cursor()} for _ in self.lanes]
        self._mine: range = range(0)
        self._pools: list[Workers] = []
        self._shards = LaneShards(config, validation) if config.write_through else None

    def batches(self, *, first_step: int, micro_batch: int, rank: int, world_size: int) -> Iterator[Tensor]:
        """Endless micro-batches (micro_batch, T + 1) int64 of one rank from optimizer step `first_step` on.

        Raises `TimeoutError` where the source gives nothing for `config.stall_seconds`, and what reading raises.
        """
        share = len(self.lanes) // world_size
        self._mine = range(rank * share, (rank + 1) * share)
        # each lane stays with one process, which knows where in the lane's file it is
        mine = [self.lanes[number] for number in self._mine]
        count = min(share, self.config.workers or 1)
        self._pools = [Workers(1, have_lanes, mine[number::count]) for number in range(count)]
        feeds = [_Feed(self, number, first_step * self.per_step) for number in self._mine]
        try:
            while True:
                rows = np.concatenate([feed.take(self.per_step) for feed in feeds])
                for start in range(0, len(rows), micro_batch):
                    yield torch.from_numpy(rows[start : start + micro_batch])
        finally:
            self.close()
            if self._shards:
                self._shards.close()

    def close(self) -> None:
        """End the worker processes; a batch that waits for one is cancelled."""
        for pool in self._pools:
            pool.close()

    def state(self, step: int) -> Tensor:
        """int64 (lanes, 3): where the era that `step` needs next starts, per lane; zeros for the lanes of other ranks,
        so that the ranks' states add up to the whole."""
        state = torch.zeros(len(self.lanes), len(Cursor._fields), dtype=torch.int64)
        era = step * self.per_step // self.config.era
        for number in self._mine:
            state[number] = torch.tensor(self._starts[number][era])
        return state

    def restore(self, step: int, state: Tensor) -> None:
        """Go on from `step` with the sum of all ranks' states at it."""
        era = step * self.per_step // self.config.era
        self._starts = [{era: Cursor(*place)} for place in state.tolist()]

    def finish(self, steps: int) -> None:
        """Make the shards that were written through a prepared folder: every era of which a window was trained on."""
        if self._shards:
            eras = -(-steps * self.per_step // self.config.era)
            self._shards.finish(len(self.lanes), eras * self.config.era * self.lanes[0].seq_len)

    def start_reading(self, number: int, era: int) -> "Future[Era]":
        """Have the lane's era read; whoever takes it says where the one after it starts."""
        pool = self._pools[(number - self._mine.start) % len(self._pools)]
        return pool.submit(read_era, number, self._starts[number][era])

    def finish_reading(self, number: int, era: int, reading: "Future[Era]") -> Tokens:
        """The era's windows in the order in which they are given out."""
        lane, seconds = self.lanes[number], self.config.stall_seconds
        try:
            windows, end = reading.result(seconds)
        except FutureTimeout:
            raise TimeoutError(
                f"the source {self.config.name} gave nothing for {seconds:g} s (lane {number}, at "
                f"{lane.files[self._starts[number][era].file % len(lane.files)].name}); the same command continues"
            ) from None
        self._starts[number][era + 1] = end
        if self._shards:
            self._shards.write(number, era, windows)
        return windows[permute(np.arange(len(windows)), len(windows), seeded(self.seed, f"lane {number} era {era}"))]


class _Feed:
    """The windows of one lane in order, from the `position`-th on; the next era is read while one is given out."""

    def __init__(self, stream: StreamedWindows, number: int, position: int) -> None:
        self._stream, self._number = stream, number
        self._era, self._offset = divmod(position, stream.config.era)
        self._reading = stream.start_reading(number, self._era)
        self._windows: Tokens | None = None

    def take(self, count: int) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
        """The next windows (count, T + 1)."""
        rows = []
        while count:
            if self._windows is None:
                self._windows = self._stream.finish_reading(self._number, self._era, self._reading)
                self._reading = self._stream.start_reading(self._number, self._era + 1)
            taken = self._windows[self._offset : self._offset + count]
            rows.append(taken.astype(np.int64))
            count -= len(taken)
            self._offset += len(taken)
            if self._offset == len(self._windows):
                self._era, self._offset, self._windows = self._era + 1, 0, None
        return np.concatenate(rows)
