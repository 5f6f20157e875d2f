"""The order of streamed windows against a brute-force one, at any number of ranks and workers, and across
interruptions."""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config import DataConfig
from pipeline.data.order import permute, seeded
from pipeline.data.preparing.parts import digest, is_validation
from pipeline.data.preparing.prepare import open_source, prepare
from pipeline.data.sources import SourceFile, documents
from pipeline.data.streaming.lanes import Cursor, Lane, LaneReader
from pipeline.data.streaming.stream import StreamedWindows
from pipeline.data.streaming.write_through import LaneShards
from pipeline.data.tokenizer import END_OF_TEXT, load_tokenizer
from pipeline.data.windows import TokenWindows
from pipeline.errors import RequestError

SEQ_LEN, BATCH, SEED = 16, 8, 3


def write_corpus(folder: Path, files: int = 6, per_file: int = 30) -> str:
    """Packed JSON lines of different lengths; returns their glob."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["the", "union", "of", "states", "asks", "what", "rate", "a", "wide", "network", "bears"]
    for number in range(files):
        lines = [
            json.dumps({"text": " ".join(words[(i * 7 + j * (number + 1)) % 11] for j in range(3 + i % 40)) + f" {number}.{i}"})
            for i in range(per_file)
        ]  # fmt: skip
        with pa.CompressedOutputStream(str(folder / f"{number:02d}.jsonl.zst"), "zstd") as stream:
            stream.write("\n".join(lines).encode())
    return str(folder / "*.jsonl.zst")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> DataConfig:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    data = DataConfig(name="corpus", format="text", path=corpus, validation_fraction=0.2)
    tokenizer = prepare(data, 300) / "tokenizer.json"
    return dataclasses.replace(data, tokenizer=str(tokenizer), mode="stream", lanes=4, era=6)


@pytest.fixture(scope="module")
def validation(config: DataConfig) -> Path:
    return prepare(dataclasses.replace(config, mode="prepared", tokens=400), 300, ("val",))


def stream(config: DataConfig, validation: Path, seed: int = SEED) -> StreamedWindows:
    return StreamedWindows(
        open_source(config), config, validation, seq_len=SEQ_LEN, global_batch=BATCH, seed=seed
    )  # fmt: skip


def lane_text(config: DataConfig, number: int, seed: int) -> Iterator[int]:
    """All tokens of a lane for ever, encoded document by document."""
    tokenizer = load_tokenizer(Path(config.tokenizer))
    files = open_source(config).files
    order = permute(np.arange(len(files)), len(files), seeded(seed, "files"))[number :: config.lanes]
    while True:
        for index in order:
            for document in documents(Path(files[index].name), config):
                if not is_validation(digest(document), config.validation_fraction):
                    yield from tokenizer.encode(document).ids
                    yield tokenizer.token_to_id(END_OF_TEXT)


def expected(config: DataConfig, steps: int, seed: int = SEED) -> torch.Tensor:
    """(steps, BATCH, T + 1): what the documentation says, in plain words."""
    per_step = BATCH // config.lanes
    eras = -(-steps * per_step // config.era)
    lanes = []
    for number in range(config.lanes):
        text = list(itertools.islice(lane_text(config, number, seed), eras * config.era * SEQ_LEN + 1))
        windows = np.array([text[i * SEQ_LEN : (i + 1) * SEQ_LEN + 1] for i in range(eras * config.era)])
        for era in range(eras):
            shuffled = permute(np.arange(config.era), config.era, seeded(seed, f"lane {number} era {era}"))
            windows[era * config.era : (era + 1) * config.era] = windows[era * config.era + shuffled]
        lanes.append(windows[: steps * per_step].reshape(steps, per_step, SEQ_LEN + 1))
    return torch.from_numpy(np.concatenate(lanes, axis=1))


@contextlib.contextmanager
def reading(
    streams: list[StreamedWindows], *, first_step: int = 0, micro_batch: int = 1
) -> Iterator[Iterator[torch.Tensor]]:
    """The global batches that as many ranks as there are streams read together."""
    world = len(streams)
    ranks: list[Any] = [
        s.batches(first_step=first_step, micro_batch=micro_batch, rank=rank, world_size=world)
        for rank, s in enumerate(streams)
    ]
    passes = BATCH // world // micro_batch
    try:
        yield (torch.cat([next(rank) for rank in ranks for _ in range(passes)]) for _ in itertools.count())
    finally:
        for s, rank in zip(streams, ranks, strict=True):
            s.close()
            rank.close()


def test_the_order_is_what_is_documented_over_eras_and_epochs(config: DataConfig, validation: Path) -> None:
    steps = 40  # 13 eras; the files of a lane come round several times
    with reading([stream(config, validation)], micro_batch=4) as batches:
        assert torch.equal(torch.stack(list(itertools.islice(batches, steps))), expected(config, steps))


@pytest.mark.parametrize(("world_size", "workers", "micro_batch"), [(1, 4, 2), (2, 1, 4), (2, 4, 1), (4, 1, 2)])
def test_the_order_does_not_depend_on_ranks_and_workers(
    config: DataConfig, validation: Path, world_size: int, workers: int, micro_batch: int
) -> None:
    config = dataclasses.replace(config, workers=workers)
    with reading([stream(config, validation) for _ in range(world_size)], micro_batch=micro_batch) as batches:
        assert torch.equal(torch.stack(list(itertools.islice(batches, 10))), expected(config, 10))


def test_another_seed_reads_other_files_first(config: DataConfig, validation: Path) -> None:
    with reading([stream(config, validation, seed=4)]) as batches:
        first = next(batches)
    assert torch.equal(first, expected(config, 1, seed=4)[0])
    assert not torch.equal(first, expected(config, 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3, 6, 7, 11])
def test_going_on_from_a_step_with_another_number_of_ranks(config: DataConfig, validation: Path, stop: int) -> None:
    first = [stream(config, validation) for _ in range(2)]
    with reading(first) as batches:
        list(itertools.islice(batches, stop + 2))  # the state is that of an earlier step than the reading
        state = sum((s.state(stop) for s in first), torch.zeros(4, 3, dtype=torch.int64))
    later = [stream(config, validation) for _ in range(4)]
    for s in later:
        s.restore(stop, state)
    with reading(later, first_step=stop) as batches:
        assert torch.equal(torch.stack(list(itertools.islice(batches, 5))), expected(config, stop + 5)[stop:])


def test_a_lane_goes_on_from_every_cursor(config: DataConfig) -> None:
    source = open_source(config)
    config = dataclasses.replace(config, era=1)
    lane = Lane(0, source, source.files[:2], config, Path(config.tokenizer), SEQ_LEN)
    reader = LaneReader(lane, Cursor())
    cursors, windows = [Cursor()], []
    for _ in range(120):  # more than both files
        era = reader.era()
        windows.append(era.windows[0])
        cursors.append(era.end)
    assert {c.file for c in cursors} >= {0, 1, 2}
    assert any(c.token == 0 for c in cursors[1:]), "some window ends with a document's first token"
    for start in range(0, 119):
        assert np.array_equal(LaneReader(lane, cursors[start]).era().windows[0], windows[start])
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(windows))


def test_a_lane_without_training_documents_is_said(config: DataConfig) -> None:
    source = open_source(config)
    config = dataclasses.replace(config, validation_fraction=1 - 1e-12)
    reader = LaneReader(Lane(0, source, source.files[:2], config, Path(config.tokenizer), SEQ_LEN), Cursor())
    with pytest.raises(RequestError, match="no training document in any of"):
        reader.era()


@pytest.mark.slow
def test_a_killed_worker_is_replaced(config: DataConfig, validation: Path) -> None:
    config = dataclasses.replace(config, workers=2)
    with reading([s := stream(config, validation)]) as batches:
        got = [next(batches)]
        for _ in range(12):
            for child in workers_of(os.getpid()):
                os.kill(child, signal.SIGKILL)
            got.append(next(batches))
        assert s._pools
    assert torch.equal(torch.stack(got), expected(config, 13))


def workers_of(pid: int) -> list[int]:
    """Worker processes of a process; threads and workers come and go while it looks."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in listing.read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


class Broken:
    """A source one of whose files cannot be had: it fails, or it never answers."""

    def __init__(self, config: DataConfig, bad: str, stalls: bool) -> None:
        self.inner, self.bad, self.stalls = open_source(config), bad, stalls
        self.files, self.origin = self.inner.files, self.inner.origin

    def open(self, file: SourceFile):  # type: ignore[no-untyped-def]
        if self.bad in file.name:
            if self.stalls:
                time.sleep(1000)
            raise OSError("the hub gave up")
        return self.inner.open(file)

    def release(self, file: SourceFile) -> None:
        self.inner.release(file)


@pytest.mark.parametrize("stalls", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_source_that_fails_or_stalls_is_said_after_what_it_gave(
    config: DataConfig, validation: Path, stalls: bool, tmp_path: Path
) -> None:
    path = write_corpus(tmp_path, per_file=1000)
    config = dataclasses.replace(config, path=path, stall_seconds=20.0 if stalls else 600.0)
    files = open_source(config).files
    order = permute(np.arange(len(files)), len(files), seeded(SEED, "files"))
    source = Broken(config, Path(files[order[4]].name).name, stalls)  # the second file of lane 0
    s = StreamedWindows(source, config, validation, seq_len=SEQ_LEN, global_batch=BATCH, seed=SEED)
    got = []
    start = time.monotonic()
    with reading([s]) as batches, pytest.raises(OSError, match="gave") as error:  # noqa: PT012
        for batch in batches:
            got.append(batch)
            start = time.monotonic()
    assert ("gave nothing for 20 s" if stalls else "the hub gave up") in str(error.value)
    assert time.monotonic() - start < 60
    assert len(got) > 100
    assert torch.equal(torch.stack(got), expected(config, len(got)))


def test_no_process_stays_when_reading_ends(config: DataConfig, validation: Path) -> None:
    with reading([stream(dataclasses.replace(config, workers=4), validation)]) as batches:
        next(batches)
        assert len(workers_of(os.getpid())) >= 4
    assert not workers_of(os.getpid())
    assert not [t for t in threading.enumerate() if "prefetch" in t.name]


def test_fewer_files_than_lanes_is_said(config: DataConfig, validation: Path) -> None:
    with pytest.raises(RequestError, match=r"--data.lanes 8 is more than the files of corpus \(6\)"):
        stream(dataclasses.replace(config, lanes=8), validation)


# ---------------------------------------------------------------------------------------------------------------------
# Writing through


def test_written_through_is_the_text_of_the_lanes(config: DataConfig, validation: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(config, write_through=str(tmp_path / "shards"))
    first = stream(config, validation)
    with reading([first]) as batches:
        list(itertools.islice(batches, 5))  # writes the second era, in which the checkpoint is
        state = first.state(4)
    resumed = stream(config, validation)
    resumed.restore(4, state)
    with reading([resumed], first_step=4) as batches:
        list(itertools.islice(batches, 3))
    resumed.finish(7)  # 14 windows of each lane: 3 eras of 6
    for number in range(config.lanes):
        tokens = np.fromfile(tmp_path / "shards" / f"train-{number:05d}.bin", dtype="<u2")
        assert tokens.tolist() == list(itertools.islice(lane_text(config, number, SEED), 3 * 6 * SEQ_LEN))
    windows = TokenWindows(tmp_path / "shards", "train", SEQ_LEN)
    assert len(windows) == config.lanes * (3 * 6 - 1)
    val = [TokenWindows(folder, "val", SEQ_LEN) for folder in (tmp_path / "shards", validation)]
    assert torch.equal(*(w[np.arange(len(w))] for w in val))
    with pytest.raises(RequestError, match="is finished: train on it with --data"):
        stream(config, validation)


def test_a_write_through_folder_that_lost_its_files_is_said(
    config: DataConfig, validation: Path, tmp_path: Path
) -> None:
    shards = LaneShards(dataclasses.replace(config, write_through=str(tmp_path)), validation)
    with pytest.raises(RequestError, match="lacks what this run wrote before"):
        shards.write(0, 1, np.zeros((6, SEQ_LEN + 1), np.uint32))
    other = LaneShards(dataclasses.replace(config, write_through=str(tmp_path)), validation)
    with pytest.raises(RequestError, match="is being written by another run"):
        other.write(0, 0, np.zeros((6, SEQ_LEN + 1), np.uint32))
    shards.close()
    other.write(0, 0, np.zeros((6, SEQ_LEN + 1), np.uint32))
    other.close()
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"cannot write --data\.write_through"):
        LaneShards(dataclasses.replace(config, write_through=str(tmp_path / "file" / "x")), validation)
