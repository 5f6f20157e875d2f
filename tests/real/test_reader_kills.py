"""Readers killed at random times, at changing numbers of ranks and workers: the windows are an undisturbed reader's."""

import dataclasses
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Literal

import pytest

from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.data.preparing.prepare import prepare
from tests.data.streaming.test_stream import workers_of, write_corpus
from tests.support.read_windows import read

KILLS = 20  # of each mode

forkserver = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> RunConfig:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), files=8, per_file=60)
    data = DataConfig(name="kills", format="text", path=corpus, validation_fraction=0.2, lanes=4, era=8)
    tokenizer = prepare(data, 300) / "tokenizer.json"
    return RunConfig(
        width=64, steps=6000, global_batch=8, seq_len=16, seed=5, val_sequences=8, warmup_steps=0,
        model=ModelConfig(vocab_size=300), data=dataclasses.replace(data, tokenizer=str(tokenizer)),
    )  # fmt: skip


def start(config: RunConfig, folder: Path, world_size: int, pause: float) -> multiprocessing.process.BaseProcess:
    forkserver.set_forkserver_preload(["tests.support.read_windows", "pipeline.data.streaming.stream"])
    process = forkserver.Process(target=read, args=(config, folder, world_size, pause))
    process.start()
    return process


def lines(folder: Path) -> list[str]:
    file = folder / "hashes"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["prepared", "stream"])
def test_killed_readers_read_what_an_undisturbed_one_does(
    run: RunConfig, tmp_path: Path, mode: Literal["prepared", "stream"]
) -> None:
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, mode=mode))
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    process = start(run, undisturbed, world_size=1, pause=0.0)
    process.join(120)
    assert process.exitcode == 0
    assert len(set(lines(undisturbed))) == run.steps

    draw = random.Random(0)
    killed, at_steps = 0, set()
    for attempt in range(100):
        config = dataclasses.replace(run, data=dataclasses.replace(run.data, workers=draw.choice([1, 4])))
        process = start(config, disturbed, world_size=draw.choice([1, 2, 4]), pause=1e-3)
        before = len(lines(disturbed))
        if killed < KILLS:
            # from the moment that it reads, or now and then before
            while attempt % 4 and len(lines(disturbed)) <= before and process.is_alive():
                time.sleep(0.01)
            time.sleep(draw.random() * 0.3)
            if mode == "stream" and attempt % 3 == 0:
                for worker in workers_of(process.pid or 0)[:1]:
                    os.kill(worker, signal.SIGKILL)
                time.sleep(draw.random() * 0.2)
            process.kill()
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        at_steps.add(len(lines(disturbed)))
    assert killed == KILLS, "the reader was done before it was killed often enough"
    assert len(at_steps) > KILLS / 2, "kills at different steps"
    assert lines(disturbed) == lines(undisturbed)
