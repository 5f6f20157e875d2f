"""Token shards of what a stream reads: one growing file per lane, a prepared folder at the end.

A lane's file holds whole eras in the order of the text, so its length follows from the number of eras; a run that goes
on from a checkpoint cuts it back to there.
"""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.shards import MANIFEST, TOKENIZER, read_manifest, write_manifest
from pipeline.data.streaming.lanes import Tokens
from pipeline.data.tokenizer import load_tokenizer
from pipeline.errors import RequestError
from pipeline.files import file_sha256, locked, naming


class LaneShards:
    """Writes ``train-00000.bin ...``, one file per lane, to `config.write_through`.

    `validation` is the prepared folder of the validation split. Raises `RequestError` where the folder cannot be
    written, holds finished shards, or lacks what a resumed run wrote before.
    """

    def __init__(self, config: DataConfig, validation: Path) -> None:
        self.folder, self.validation = Path(config.write_through), validation
        self._streams: dict[int, IO[bytes]] = {}
        self._held = ExitStack()  # of the streams and their locks
        self.dtype = np.dtype(read_manifest(validation)["dtype"])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot write --data.write_through {self.folder} ({error.strerror})") from None
        if (self.folder / MANIFEST).exists():
            raise RequestError(
                f"--data.write_through {self.folder} is finished: train on it with --data {self.folder}, or name "
                "another"
            )

    def _file(self, lane: int) -> Path:
        return self.folder / f"train-{lane:05d}.bin"

    def write(self, lane: int, era: int, windows: Tokens) -> None:
        """Put era number `era` (E, T + 1) behind those before it; what stands there of an earlier attempt goes."""
        tokens = windows[:, :-1].astype(self.dtype)
        before = era * tokens.nbytes
        stream = self._stream(lane)
        if stream.seek(0, os.SEEK_END) < before:
            raise RequestError(
                f"{self._file(lane)} lacks what this run wrote before: go on without --data.write_through"
            )
        with naming(self._file(lane)):
            stream.truncate(before)
            stream.seek(before)
            stream.write(tokens.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def _stream(self, lane: int) -> IO[bytes]:
        """The lane's file, kept open and locked by the one process that writes it."""
        if lane not in self._streams:
            busy = f"--data.write_through {self.folder} is being written by another run"
            self._held.enter_context(locked(self._file(lane), busy=busy))
            self._streams[lane] = self._held.enter_context(self._file(lane).open("r+b"))
        return self._streams[lane]

    def close(self) -> None:
        self._held.close()
        self._streams.clear()

    def finish(self, lanes: int, tokens: int) -> None:
        """Cut every lane to its first `tokens` and write the manifest; by one process, when no other writes."""
        manifest = read_manifest(self.validation)
        shutil.copyfile(self.validation / TOKENIZER, self.folder / TOKENIZER)
        for shard in manifest["splits"]["val"]["shards"]:
            shutil.copyfile(self.validation / shard["file"], self.folder / shard["file"])
        end = load_tokenizer(self.folder / TOKENIZER).token_to_id(manifest["tokenizer"]["end_of_text"])
        shards, documents = [], 0
        for lane in range(lanes):
            path = self._file(lane)
            os.truncate(path, tokens * self.dtype.itemsize)
            documents += int(np.count_nonzero(np.memmap(path, self.dtype, mode="r") == end))
            shards.append({"file": path.name, "tokens": tokens, "sha256": file_sha256(path)})
        train = {"documents": documents, "tokens": lanes * tokens, "shards": shards}
        kept = {key: value for key, value in manifest.items() if key not in ("format_version", "fingerprint")}
        del kept["duplicates_removed"]  # among validation documents only: a stream removes none
        write_manifest(self.folder, {**kept, "splits": {"train": train, "val": manifest["splits"]["val"]}})
