"""The permutation, the order of windows, and shards that are refused when damaged."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.config import DataConfig, RequestError
from pipeline.data.order import permute, sample_order, training_batches, validation_batches
from pipeline.data.parts import is_validation
from pipeline.data.prepare import prepare
from pipeline.data.shards import MANIFEST, read_manifest
from pipeline.data.sources import documents
from pipeline.data.tokenizer import END_OF_TEXT
from pipeline.data.windows import TokenWindows


@pytest.fixture
def data(text_file: Path) -> DataConfig:
    return DataConfig(name="corpus", format="text", path=str(text_file), validation_fraction=0.2)


@pytest.fixture
def folder(data: DataConfig, tmp_path: Path) -> Path:
    """A private copy of the prepared shards, to be damaged."""
    return Path(shutil.copytree(prepare(data, 300), tmp_path / "shards"))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097, 100_003])
def test_permutation_is_bijective(size: int) -> None:
    for key in (0, 1, 2**63):
        assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_permutation_is_evaluated_pointwise() -> None:
    whole = permute(np.arange(1000), 1000, 7)
    assert np.array_equal(permute(np.array([3, 999, 3]), 1000, 7), whole[[3, 999, 3]])


def test_permutation_is_uniform() -> None:
    """Over many keys each index lands everywhere equally often, and neighbours go to independent places."""
    size, keys = 12, 4000
    images = np.array([permute(np.arange(size), size, key) for key in range(keys)])
    for index in range(size):
        assert stats.chisquare(np.bincount(images[:, index], minlength=size)).pvalue > 1e-5
    pairs = np.bincount(images[:, 0] * size + images[:, 1], minlength=size**2).reshape(size, size)
    off_diagonal = pairs[~np.eye(size, dtype=bool)]
    assert stats.chisquare(off_diagonal).pvalue > 1e-5


def test_every_window_once_per_epoch_in_another_order_each() -> None:
    order = sample_order(np.arange(300), 100, seed=3).reshape(3, 100)
    for epoch in order:
        assert sorted(epoch) == list(range(100))
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(sample_order(np.arange(100), 100, seed=4), order[0])


def test_windows_are_the_tokens_of_the_documents(data: DataConfig) -> None:
    from tokenizers import Tokenizer

    folder = prepare(data, 300)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    for split in ("train", "val"):
        windows = TokenWindows(folder, split, seq_len=16)
        rows = windows[np.arange(len(windows))]
        assert rows.shape == (len(windows), 17)
        assert torch.equal(rows[1:, 0], rows[:-1, -1])  # neighbours share one token
        text = tokenizer.decode([*rows[0].tolist(), *rows[1:, 1:].flatten().tolist()], skip_special_tokens=False)
        expected = "".join(d + END_OF_TEXT for d in documents(data) if is_validation(d, 0.2) == (split == "val"))
        assert expected.startswith(text)
        assert len(expected) - len(text) < 200  # the tail shorter than a window
        manifest = read_manifest(folder)["splits"][split]
        assert manifest["documents"] == expected.count(END_OF_TEXT)


def test_prepared_twice_is_identical(data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(data, 300)
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path))
    second = prepare(data, 300)
    assert second.parent == tmp_path
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in second.iterdir()}


@pytest.mark.slow
def test_two_processes_prepare_the_same_source_at_once(data: DataConfig, tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.config import DataConfig; from pipeline.data.prepare import prepare\n"
        "print(prepare(DataConfig(name='x', format='text', path=sys.argv[1], validation_fraction=0.2), 300))"
    )
    environment = {**os.environ, "PIPELINE_CACHE": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code, data.path], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert [str(folder) for folder in tmp_path.iterdir()] == list(folders)


def test_changed_text_or_vocabulary_is_prepared_anew(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n\n".join(f"paragraph {i}" for i in range(50)))
    data = DataConfig(name="t", format="text", path=str(text), validation_fraction=0.3)
    folders = {prepare(data, 300), prepare(data, 301), prepare(dataclasses.replace(data, validation_fraction=0.2), 300)}
    text.write_text(text.read_text() + "\n\nmore")
    assert len(folders | {prepare(data, 300)}) == 4


def test_several_shards_read_like_their_pieces(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.fromfile(prepare(data, 300) / "train-00000.bin", dtype="<u2")
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path))
    monkeypatch.setattr("pipeline.data.prepare.SHARD_TOKENS", 3000)
    folder = prepare(data, 300)
    pieces = [np.fromfile(f, dtype="<u2") for f in sorted(folder.glob("train-*.bin"))]
    assert len(pieces) > 2
    assert np.array_equal(np.concatenate(pieces), whole)
    windows = TokenWindows(folder, "train", seq_len=16)
    expected = [p[i * 16 : i * 16 + 17] for p in pieces for i in range((p.size - 1) // 16)]
    assert np.array_equal(windows[np.arange(len(windows))].numpy(), np.array(expected))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_the_global_batch_is_the_same_at_any_world_size(folder: Path, world_size: int, micro_batch: int) -> None:
    windows = TokenWindows(folder, "train", seq_len=16)

    def step(first_step: int, world: int, micro: int) -> torch.Tensor:
        parts = []
        for rank in range(world):
            batches = training_batches(
                windows, seed=1, first_step=first_step, global_batch=8, micro_batch=micro, rank=rank, world_size=world
            )
            parts += [next(batches) for _ in range(8 // (world * micro))]
        return torch.cat(parts)

    steps = len(windows) // 8 + 2  # into the second epoch
    for first_step in (0, 5, steps):
        assert torch.equal(step(first_step, world_size, micro_batch), step(first_step, 1, 8))


def test_resuming_continues_the_sequence(folder: Path) -> None:
    windows = TokenWindows(folder, "train", seq_len=16)
    settings = {"seed": 1, "global_batch": 4, "micro_batch": 2, "rank": 0, "world_size": 1}
    uninterrupted = training_batches(windows, first_step=0, **settings)
    for _ in range(2 * 3):
        next(uninterrupted)
    resumed = training_batches(windows, first_step=3, **settings)
    for _ in range(4):
        assert torch.equal(next(resumed), next(uninterrupted))


def test_validation_reads_the_same_first_windows_at_any_world_size(folder: Path) -> None:
    windows = TokenWindows(folder, "val", seq_len=16)
    for world_size in (1, 3):
        rows = [b for r in range(world_size)
                for b in validation_batches(windows, count=10, batch=3, rank=r, world_size=world_size)]  # fmt: skip
        assert sorted(map(tuple, torch.cat(rows).tolist())) == sorted(map(tuple, windows[np.arange(10)].tolist()))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_named(folder: Path, damage: str) -> None:
    shard = folder / "train-00000.bin"
    if damage == "flip":
        content = bytearray(shard.read_bytes())
        content[1001] ^= 1
        shard.write_bytes(content)
    elif damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-2])
    else:
        shard.unlink()
    with pytest.raises(RequestError, match=r"train-00000\.bin does not match its manifest \(sha256\): delete"):
        TokenWindows(folder, "train", seq_len=16)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}', '{"format_version": 99}', "null"])
def test_a_damaged_manifest_is_one_line(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(RequestError) as error:
        TokenWindows(folder, "train", seq_len=16)
    assert "delete" in str(error.value)


def test_too_little_text_is_said(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"the val split has .* fewer than one window of --seq_len 100000"):
        TokenWindows(folder, "val", seq_len=100_000)


def test_unusable_text_and_tokenizers_are_said(tmp_path: Path, text_file: Path) -> None:
    def message(vocab_size: int = 300, **settings: str) -> str:
        with pytest.raises(RequestError) as error:
            prepare(DataConfig(**({"name": "x", "format": "text", "path": str(text_file)} | settings)), vocab_size)
        return str(error.value)

    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n\nx")
    (tmp_path / "one.txt").write_text("one paragraph")
    (tmp_path / "bad.json").write_text("{}")
    assert "is not UTF-8 text" in message(path=str(tmp_path / "latin.txt"))
    assert "no document falls into the" in message(path=str(tmp_path / "one.txt"))
    assert "no text found" in message(path=str(tmp_path / "none-*.txt"))
    assert "no such file (give bpe or a tokenizer.json)" in message(tokenizer="nope.json")
    assert "is not a tokenizer.json" in message(tokenizer=str(tmp_path / "bad.json"))
    assert "too small for a byte-level BPE" in message(vocab_size=256)
    trained = prepare(DataConfig(name="x", format="text", path=str(text_file)), 300) / "tokenizer.json"
    assert "has 300 entries, more than --model.vocab_size 299" in message(vocab_size=299, tokenizer=str(trained))


def test_a_tokenizer_of_ones_own(text_file: Path) -> None:
    data = DataConfig(name="x", format="text", path=str(text_file))
    trained = prepare(data, 300)
    reused = prepare(dataclasses.replace(data, tokenizer=str(trained / "tokenizer.json")), 320)
    assert reused != trained
    assert (reused / "train-00000.bin").read_bytes() == (trained / "train-00000.bin").read_bytes()


def test_the_embedded_speeches() -> None:
    folder = prepare(DataConfig(), 2048)
    manifest = json.loads((folder / MANIFEST).read_text())
    splits = manifest["splits"]
    assert splits["train"]["documents"] + splits["val"]["documents"] == 249
    assert 3_000_000 < splits["train"]["tokens"] + splits["val"]["tokens"] < 4_000_000
    assert manifest["dtype"] == "<u2"
    assert not list(folder.parent.glob(".*")), "scratch folders are gone"
