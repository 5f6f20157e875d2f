"""Preparation: what a plain loop would write, whatever the number of processes, and whenever it was interrupted."""

import dataclasses
import hashlib
import itertools
import json
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.data.preparing import prepare as module
from pipeline.data.preparing.parts import DIGEST, digest, is_validation
from pipeline.data.preparing.passes import first_occurrences
from pipeline.data.preparing.prepare import prepare, prepared_folder
from pipeline.data.shards import damages, read_manifest
from pipeline.data.sources import LocalSource, SourceFile, documents
from pipeline.data.tokenizer import END_OF_TEXT, load_tokenizer, train_bpe
from pipeline.errors import RequestError
from pipeline.processes import Workers
from tests.data.test_sources import zstd

WORDS = ["the", "union", "of", "states", "and", "people", "ask", "what", "rate", "a", "wide", "network", "bears", ";"]


def document(random: random.Random) -> str:
    return " ".join(random.choices(WORDS, k=random.randrange(1, 80))) + f" {random.randrange(10**6)}"


def write_corpus(folder: Path, sizes: list[int]) -> str:
    """A file of so many documents each, a fifth of them repeated from anywhere before. Returns the glob."""
    rng = random.Random(0)
    seen: list[str] = []
    for number, size in enumerate(sizes):
        texts = [rng.choice(seen) if seen and rng.random() < 0.2 else document(rng) for _ in range(size)]
        seen += texts
        (folder / f"{number:02d}.jsonl.zst").write_bytes(
            zstd("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
        )
    return f"{folder}/*.jsonl.zst"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first file is the largest, so that processes finish the parts out of order; one file is empty."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), [900, 150, 0, 200, 60, 250, 150])


@pytest.fixture(scope="module")
def tokenizer(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_bpe([document(random.Random(0)) for _ in range(10)], 290).to_str())
    return path


@pytest.fixture
def data(corpus: str, tokenizer: Path) -> DataConfig:
    return DataConfig(name="c", format="text", path=corpus, validation_fraction=0.2, tokenizer=str(tokenizer))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is a part, but for the empty one, which goes with the one before."""
    monkeypatch.setattr(module, "PART_BYTES", 8000)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tokens_of(folder: Path, split: str) -> list[int]:
    manifest = read_manifest(folder)
    shards = [np.fromfile(folder / s["file"], manifest["dtype"]) for s in manifest["splits"][split]["shards"]]
    return [int(token) for shard in shards for token in shard]


def reference(config: DataConfig, tokenizer: Path, counted: str = "train") -> dict[str, list[list[int]]]:
    """Tokens of every document by split, made one after the other."""
    encoder = load_tokenizer(tokenizer)
    seen: set[str] = set()
    splits: dict[str, list[list[int]]] = {"train": [], "val": []}
    for path in sorted(Path(config.path).parent.glob(Path(config.path).name)):
        for text in documents(path, config):
            if text in seen:
                continue
            seen.add(text)
            split = "val" if is_validation(digest(text), config.validation_fraction) else "train"
            ids = encoder.encode(text, add_special_tokens=False).ids
            splits[split].append([*ids, encoder.token_to_id(END_OF_TEXT)])
            if config.tokens is not None and sum(map(len, splits[counted])) >= config.tokens:
                return splits
    return splits


def flat(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in document]


# ---------------------------------------------------------------------------------------------------------------------
# What is written


@pytest.fixture(scope="module")
def sizes(corpus: str, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Training tokens of the corpus's parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_BYTES", 8000)
        patch.setenv("PIPELINE_CACHE", str(tmp_path_factory.mktemp("sizes")))
        config = DataConfig(name="c", format="text", path=corpus, validation_fraction=0.2, tokenizer=str(tokenizer))
        return [shard["tokens"] for shard in read_manifest(prepare(config, 300))["splits"]["train"]["shards"]]


@pytest.mark.parametrize(
    ("parts", "more", "shards"), [(0, 20_000, 1), (1, 0, 1), (1, 1, 2), (3, 777, 4), (6, 0, 6), (6, 1, 6), (6, None, 6)]
)
def test_shards_are_what_a_plain_loop_writes(
    data: DataConfig, tokenizer: Path, sizes: list[int], parts: int, more: int | None, shards: int, in_parts: None
) -> None:
    """Of all documents, or up to some tokens past some parts."""
    tokens = None if more is None else sum(sizes[:parts]) + more
    asked = dataclasses.replace(data, tokens=tokens)
    folder = prepare(asked, 300)
    expected = reference(asked, tokenizer)
    manifest = read_manifest(folder)
    for split, entry in manifest["splits"].items():
        assert tokens_of(folder, split) == flat(expected[split])
        assert entry["documents"] == len(expected[split])
        assert entry["tokens"] == sum(map(len, expected[split]))
    count, last = manifest["splits"]["train"]["tokens"], len(expected["train"][-1])
    if tokens is None or tokens > sum(sizes):
        assert count == sum(sizes), "all there is"
    else:
        assert count - last < tokens <= count
    assert len(manifest["splits"]["train"]["shards"]) == shards


def test_the_cut_is_at_the_document_that_reaches_the_tokens(data: DataConfig, tokenizer: Path, in_parts: None) -> None:
    lengths = [len(document) for document in reference(data, tokenizer)["train"]]
    for count in random.Random(0).sample(range(1, len(lengths)), 8):
        tokens = sum(lengths[:count])
        for asked, kept in ((tokens - 1, count), (tokens, count), (tokens + 1, count + 1)):
            folder = prepare(dataclasses.replace(data, tokens=asked), 300)
            assert read_manifest(folder)["splits"]["train"]["documents"] == kept


def test_a_single_token_takes_a_single_document(data: DataConfig, tokenizer: Path, in_parts: None) -> None:
    folder = prepare(dataclasses.replace(data, tokens=1), 300, ("train",))
    assert tokens_of(folder, "train") == reference(data, tokenizer)["train"][0]


@pytest.mark.parametrize("tokens", [3000, 9000])
def test_validation_alone_counts_its_own_tokens(data: DataConfig, tokenizer: Path, tokens: int, in_parts: None) -> None:
    asked = dataclasses.replace(data, tokens=tokens)
    folder = prepare(asked, 300, ("val",))
    expected = reference(asked, tokenizer, "val")["val"]
    assert list(read_manifest(folder)["splits"]) == ["val"]
    assert tokens_of(folder, "val") == flat(expected)
    assert len(flat(expected)) - len(expected[-1]) < tokens <= len(flat(expected))
    assert not list(folder.glob("train-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tokens"), [("bpe", None), ("file", 90_000)])
def test_shards_do_not_depend_on_the_processes(
    data: DataConfig, name: str, tokens: int | None, in_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte, the manifest's included. Processes finish the parts in any order: the first is the largest."""
    data = dataclasses.replace(data, tokens=tokens, tokenizer="bpe" if name == "bpe" else data.tokenizer)
    alone = prepare(data, 300)
    monkeypatch.setattr(module, "FEW_TOKENS", 0)
    started: list[int] = []
    monkeypatch.setattr("pipeline.data.preparing.passes.Workers", lambda count: started.append(count) or Workers(count))
    for workers in (1, 2, 4):
        monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / str(workers)))
        folder = prepare(dataclasses.replace(data, workers=workers), 300)
        assert folder.parent == tmp_path / str(workers)
        assert folder.name == alone.name
        assert content(folder) == content(alone)
    assert started == [1, 2, 4]


def test_the_manifest_counts_duplicates_and_names_the_files(data: DataConfig, in_parts: None) -> None:
    manifest = read_manifest(prepare(data, 300))
    paths = sorted(Path(data.path).parent.iterdir())
    texts = [list(documents(path, data)) for path in paths]
    assert manifest["duplicates_removed"] == sum(map(len, texts)) - len({t for texts_ in texts for t in texts_})
    assert manifest["duplicates_removed"] > 100
    assert [(f["name"], f["documents"]) for f in manifest["source"]["files"]] == [
        (str(path), len(found)) for path, found in zip(paths, texts, strict=True)
    ]


def test_a_duplicate_in_the_same_file_another_file_and_another_part(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"document {i} {'word ' * 30}".strip() for i in range(60)]
    files = [[*texts[:20], texts[3]], [texts[5], *texts[20:40]], [*texts[40:], texts[7], texts[25], f"  {texts[41]}\n"]]
    for number, held in enumerate(files):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(held))
    config = DataConfig(
        name="d", format="text", path=f"{tmp_path}/*.txt", validation_fraction=0.3, tokenizer=str(tokenizer)
    )
    size = (tmp_path / "0.txt").stat().st_size
    monkeypatch.setattr(module, "PART_BYTES", 2 * size + size // 2)  # the first two files, and the third
    folder = prepare(config, 300)
    assert read_manifest(folder)["duplicates_removed"] == 5
    assert len(list(folder.glob("train-*.bin"))) == 2
    decoder = load_tokenizer(tokenizer)
    for split in ("train", "val"):
        text = decoder.decode(tokens_of(folder, split), skip_special_tokens=False)
        wanted = [t for t in texts if is_validation(digest(t), 0.3) == (split == "val")]
        assert text.split(END_OF_TEXT)[:-1] == wanted


def test_first_occurrences_are_those_of_a_set() -> None:
    """Digests with zero bytes at the start, inside and at the end, where numpy's strings end."""
    rng = random.Random(1)
    pool = [bytes(rng.choices([0, 0, 1, 255], k=2)) + bytes(rng.randrange(15)) for _ in range(300)]
    pool = [half.ljust(16, b"\0") for half in pool] + [half.rjust(16, b"\0") for half in pool] + [bytes(16)]
    for _ in range(50):
        known: set[bytes] = set()
        seen = np.empty(0, DIGEST)
        for _ in range(5):
            part = rng.choices(pool, k=rng.choice([0, 1, 2, 40, 200]))
            kept, seen = first_occurrences(np.frombuffer(b"".join(part), DIGEST), seen)
            expected = [not (d in known or known.add(d)) for d in part]  # type: ignore[func-returns-value]
            assert kept.tolist() == expected
            assert [d.ljust(16, b"\0") for d in seen.tolist()] == sorted(known)


def test_the_corpus_has_digests_that_end_in_zero(data: DataConfig) -> None:
    """numpy's strings lose them, and the comparisons above would not notice."""
    paths = Path(data.path).parent.iterdir()
    assert any(digest(text).endswith(b"\0") for path in paths for text in documents(path, data))


def test_a_share_of_the_documents_is_for_validation() -> None:
    digests = [digest(f"text {i}") for i in range(20_000)]
    for fraction in (0.05, 0.5, 0.9):
        share = sum(is_validation(d, fraction) for d in digests) / len(digests)
        assert abs(share - fraction) < 0.015
    small = {d for d in digests if is_validation(d, 0.05)}
    assert all(is_validation(d, 0.1) for d in small), "a larger fraction takes more"
    first, last = bytes(16), b"\xff" * 16
    assert is_validation(first, 1e-9)
    assert not is_validation(last, 1 - 1e-9)
    assert digest("gr\u00fcn") == hashlib.sha256(b"gr\xc3\xbcn").digest()[:16]


def test_files_past_the_tokens_asked_for_are_not_read(data: DataConfig, tmp_path: Path, in_parts: None) -> None:
    for path in Path(data.path).parent.iterdir():
        shutil.copy(path, tmp_path)
    for number in range(10, 30):
        (tmp_path / f"{number}.jsonl.zst").write_bytes(b"junk " * 3000)
    asked = dataclasses.replace(data, path=f"{tmp_path}/*.jsonl.zst", tokens=20_000)
    folder = prepare(asked, 300)
    assert [Path(f["name"]).name for f in read_manifest(folder)["source"]["files"]] == ["00.jsonl.zst"]
    assert tokens_of(folder, "train") == tokens_of(prepare(dataclasses.replace(data, tokens=20_000), 300), "train")
    with pytest.raises(RequestError, match=r"cannot read .*/[12]\d\.jsonl\.zst"):
        prepare(dataclasses.replace(asked, tokens=None), 300)


def test_an_unreadable_file_matters_only_if_its_turn_comes(
    data: DataConfig, tmp_path: Path, in_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are read ahead: the second may fail before the first turns out to be enough, or not."""
    monkeypatch.setattr(module, "FEW_TOKENS", 0)  # worker processes
    for path in Path(data.path).parent.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "01.jsonl.zst").write_bytes(b"junk")
    # more than guessed from the first file's size, less than it has
    tokens = (tmp_path / "00.jsonl.zst").stat().st_size
    few = dataclasses.replace(data, path=f"{tmp_path}/*.jsonl.zst", tokens=tokens, workers=4)
    enough = prepare(few, 300)
    assert read_manifest(enough)["splits"]["train"]["tokens"] >= tokens
    assert [Path(f["name"]).name for f in read_manifest(enough)["source"]["files"]] == ["00.jsonl.zst"]
    with pytest.raises(RequestError, match=r"cannot read .*/01\.jsonl\.zst"):
        prepare(dataclasses.replace(few, tokens=10**6), 300)


def test_ids_past_16_bits_are_stored_in_32(tmp_path: Path) -> None:
    from tests.data.test_tokenizer import large_tokenizer

    tokenizer = large_tokenizer(tmp_path / "large.json")
    texts = [f"{i} {65_536 + i}" for i in range(40)]
    (tmp_path / "t.txt").write_text("\n\n".join(texts))
    config = DataConfig(
        name="t", format="text", path=str(tmp_path / "t.txt"), validation_fraction=0.3, tokenizer=str(tokenizer)
    )
    folder = prepare(config, 100_000)
    assert read_manifest(folder)["dtype"] == "<u4"
    expected = reference(config, tokenizer)
    assert all(tokens_of(folder, split) == flat(expected[split]) for split in ("train", "val"))


def test_many_small_files_are_taken_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 100)
    sizes = random.Random(0).choices([0, 1, 30, 99, 100, 101, 500], k=500)
    files = [SourceFile(str(i), size) for i, size in enumerate(sizes)]
    parts = list(module._parts(files))
    assert [file for part in parts for file in part.files] == files
    assert [part.index for part in parts] == list(range(len(parts)))
    assert all(part.size <= 100 or len(part.files) == 1 for part in parts)
    assert all(a.size + b.files[0].size > 100 for a, b in itertools.pairwise(parts))
    start = time.monotonic()
    assert sum(len(part.files) for part in module._parts([SourceFile("x", 0)] * 50_000)) == 50_000
    assert time.monotonic() - start < 5


# ---------------------------------------------------------------------------------------------------------------------
# Which folder


def test_what_changes_the_tokens_changes_the_folder(tmp_path: Path, tokenizer: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n\n".join(f"paragraph {i}" for i in range(50)))
    data = DataConfig(name="t", format="text", path=str(text), validation_fraction=0.3)
    folders = [
        prepared_folder(data, 300),
        prepared_folder(data, 301),
        prepared_folder(data, 300, ("val",)),
        *(
            prepared_folder(dataclasses.replace(data, **change), 300)
            for change in (
                {"validation_fraction": 0.2},
                {"tokens": 100},
                {"tokenizer": str(tokenizer)},
                {"kind": "jsonl"},
                {"kind": "jsonl", "text_field": "b"},
                {"bad_lines": "skip"},
            )
        ),
    ]
    text.write_text(text.read_text() + "\n\nmore")
    folders.append(prepared_folder(data, 300))
    assert len(set(folders)) == len(folders)
    text.rename(tmp_path / "moved.txt")
    moved = dataclasses.replace(data, path=str(tmp_path / "*.txt"), workers=3, license="MIT")
    assert prepared_folder(moved, 300) == folders[-1]


def test_prepared_once(data: DataConfig) -> None:
    folder = prepare(data, 300)
    before = {path: path.stat() for path in folder.iterdir()}
    assert prepare(data, 300) == folder
    assert {path: path.stat() for path in folder.iterdir()} == before


def test_a_tokenizer_of_ones_own(text_file: Path) -> None:
    data = DataConfig(name="x", format="text", path=str(text_file))
    trained = prepare(data, 300)
    reused = prepare(dataclasses.replace(data, tokenizer=str(trained / "tokenizer.json")), 320)
    assert reused != trained
    assert (reused / "train-00000.bin").read_bytes() == (trained / "train-00000.bin").read_bytes()
    assert (reused / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_a_bpe_is_trained_on_the_first_training_documents(
    data: DataConfig, in_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BPE_CHARS", 20_000)
    folder = prepare(dataclasses.replace(data, tokenizer="bpe"), 300)
    texts, size = [], 0
    for path in sorted(Path(data.path).parent.iterdir()):
        for text in documents(path, data):
            if not is_validation(digest(text), 0.2) and size < 20_000:
                texts.append(text)
                size += len(text)
    assert (folder / "tokenizer.json").read_text() == train_bpe(texts, 300).to_str(pretty=True)


# ---------------------------------------------------------------------------------------------------------------------
# Refused


def complaint(config: DataConfig, vocab_size: int = 300) -> str:
    with pytest.raises(RequestError) as error:
        prepare(config, vocab_size)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unusable_text_and_tokenizers_are_said(tmp_path: Path, text_file: Path) -> None:
    def message(vocab_size: int = 300, **settings: str) -> str:
        return complaint(DataConfig(**({"name": "x", "format": "text", "path": str(text_file)} | settings)), vocab_size)

    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n\nx")
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "bad.json").write_text("{}")
    assert "latin.txt, line 1, is not UTF-8 text" in message(path=str(tmp_path / "latin.txt"))
    assert "none.txt: no document falls into the train split" in message(path=str(tmp_path / "none.txt"))
    assert "no text found" in message(path=str(tmp_path / "none-*.txt"))
    assert "no such file (give bpe, a tokenizer.json or" in message(tokenizer="nope.json")
    assert "is not a tokenizer.json" in message(tokenizer=str(tmp_path / "bad.json"))
    assert "too small for a byte-level BPE" in message(vocab_size=256)


def test_skipped_lines_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "torn.jsonl"
    path.write_bytes(b"".join(b'{"text": "paragraph %d"}\n{"te\xff\n' % i for i in range(50)))
    data = DataConfig(name="x", format="text", path=str(path), validation_fraction=0.3, bad_lines="skip")
    folder = prepare(data, 300)
    assert capsys.readouterr().err == "x: skipped 50 lines that cannot be read\n"
    assert read_manifest(folder)["source"]["files"][0]["skipped_lines"] == 50
    assert sum(split["documents"] for split in read_manifest(folder)["splits"].values()) == 50
    prepare(data, 300)
    assert capsys.readouterr().err == ""


def test_copies_are_found_whatever_is_looked_at_together(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_manifest(prepare(data, 300))
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "again"))
    monkeypatch.setattr("pipeline.data.preparing.passes.AT_ONCE", 7)
    assert read_manifest(prepare(data, 300)) == whole


@pytest.mark.parametrize("fraction", [0.1, 0.9])  # by its hash for training, and for validation
def test_of_a_single_document_the_tail_is_for_validation(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text(" ".join(f"word {i % 91} of a single line" for i in range(2000)))
    folder = prepare(DataConfig(name="x", format="text", path=str(path), validation_fraction=fraction), 300)
    splits = read_manifest(folder)["splits"]
    train, val = (np.fromfile(folder / f"{split}-00000.bin", dtype="<u2") for split in ("train", "val"))
    text = load_tokenizer(folder / "tokenizer.json").decode([*train, *val])
    assert text == path.read_text()
    assert abs(val.size / (train.size + val.size) - fraction) < 0.01
    assert (splits["train"]["tokens"], splits["val"]["tokens"]) == (train.size, val.size)
    assert not damages(folder, read_manifest(folder))
    assert load_tokenizer(folder / "tokenizer.json").get_vocab_size() == 300


def test_a_cache_that_cannot_be_written(data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot write the data cache" in complaint(data)
    assert "set PIPELINE_CACHE" in complaint(data)


def free_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, free))


def test_a_disk_that_is_too_small_is_refused_before_the_work(
    data: DataConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_disk(monkeypatch, 1000)
    message = complaint(data)
    assert "preparing c needs about 0.0 GB" in message
    assert f"{cache} has 0.0 GB free: set PIPELINE_CACHE to a larger disk or ask for fewer --tokens" in message
    assert not list(cache.glob(".*/part-*"))
    prepare(dataclasses.replace(data, tokens=400), 300)


def test_what_is_written_already_needs_no_space(
    data: DataConfig, in_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_at_the_end(data, monkeypatch)
    free_disk(monkeypatch, 1000)
    prepare(data, 300)


CHANGES: dict[str, Callable[[list[str]], list[str]]] = {
    "another word": lambda texts: [*texts[:-1], texts[-1] + " more"],
    "one more": lambda texts: [*texts, "one more"],
    "one fewer": lambda texts: texts[:-1],
    "another order": lambda texts: texts[::-1],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "moment", ["pipeline.data.preparing.prepare._check_disk", "pipeline.data.preparing.passes.first_occurrences"]
)
def test_a_file_that_changes_meanwhile(
    tokenizer: Path, change: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first pass or between both. The next attempt prepares the new content."""
    texts = [document(random.Random(i)) for i in range(100)]
    path = tmp_path / "t.txt"
    path.write_text("\n\n".join(texts))
    config = DataConfig(name="t", format="text", path=str(path), validation_fraction=0.3, tokenizer=str(tokenizer))
    original = pkgutil.resolve_name(moment)

    def meanwhile(*arguments: object) -> object:
        path.write_text("\n\n".join(CHANGES[change](texts)))
        return original(*arguments)

    monkeypatch.setattr(moment, meanwhile)
    assert f"{path} changed while it was read: prepare again" in complaint(config)
    monkeypatch.setattr(moment, original)
    assert tokens_of(prepare(config, 300), "train") == flat(reference(config, tokenizer)["train"])


# ---------------------------------------------------------------------------------------------------------------------
# Interrupted


def interrupted_at_the_end(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of unfinished work, with every part done."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipeline.data.preparing.publish.write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            prepare(config, 300)
    folder = prepared_folder(config, 300)
    assert not folder.exists()
    return folder.with_name(f".{folder.name}.partial")


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("part-*")}


def test_finished_parts_are_not_done_again(
    data: DataConfig, in_parts: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = interrupted_at_the_end(data, monkeypatch)
    (partial / ".part-00000.train-scratch").write_text("of a process that was killed")
    before = inodes(partial)
    assert len(before) == 6 * 6  # digests, tokens of both splits, lengths, two markers
    assert interrupted_at_the_end(data, monkeypatch) == partial
    assert inodes(partial) == before
    assert not list(partial.glob(".*"))
    folder = prepare(data, 300)
    assert (folder / "train-00001.bin").stat().st_ino == before["part-00001.train"]
    assert sorted(path.name for path in cache.iterdir()) == sorted([f".{folder.name}.lock", folder.name])


def test_any_damaged_file_is_made_again(
    data: DataConfig, in_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of each file of the unfinished work in turn: parts, markers, tokenizer, list of files."""
    data = dataclasses.replace(data, tokenizer="bpe", tokens=75_000)
    undisturbed = content(prepare(data, 300))
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "damaged"))
    partial = interrupted_at_the_end(data, monkeypatch)
    whole = content(partial)
    rng = random.Random(2)
    assert {"job.json", "tokenizer.json", "part-00001.train", "part-00001.scan.json"} <= set(whole)
    for name, original in whole.items():
        for _ in range(2):
            if original:
                damaged = bytearray(original)
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
                (partial / name).write_bytes(damaged)
                interrupted_at_the_end(data, monkeypatch)
                assert content(partial) == whole, name
    (partial / "part-00000.lengths").write_bytes(whole["part-00000.lengths"][:-8])
    (partial / "part-00001.digests").unlink()
    (partial / "part-00002.tokens.json").unlink()
    assert content(prepare(data, 300)) == undisturbed


@pytest.mark.parametrize("other", ["commit", "files", "parts", "tokenizer"])
def test_work_begun_on_something_else_is_not_continued(
    data: DataConfig, tokenizer: Path, other: str, in_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch moved, other files, another program or another tokenizer of the same name between the attempts."""
    files = tuple(SourceFile(str(p), p.stat().st_size) for p in sorted(Path(data.path).parent.iterdir()))
    config = dataclasses.replace(data, path="", repo="owner/name", tokenizer="owner/model")
    found = tmp_path / "found.json"
    shutil.copy(tokenizer, found)
    monkeypatch.setattr(module, "open_source", lambda _: LocalSource(files, {"commit": "first"}))
    monkeypatch.setattr(module, "find_tokenizer", lambda _: found)
    partial = interrupted_at_the_end(config, monkeypatch)
    (partial / "begun").touch()
    if other == "commit":
        monkeypatch.setattr(module, "open_source", lambda _: LocalSource(files, {"commit": "second"}))
    elif other == "files":
        monkeypatch.setattr(module, "open_source", lambda _: LocalSource(files[1:], {"commit": "first"}))
    elif other == "parts":
        monkeypatch.setattr(module, "PART_BYTES", 10**6)
    else:
        found.write_text(train_bpe(["another text"], 280).to_str())
    assert interrupted_at_the_end(config, monkeypatch) == partial
    assert not (partial / "begun").exists()
    continued = prepare(config, 300)
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "anew"))
    assert content(continued) == content(prepare(config, 300))


# ---------------------------------------------------------------------------------------------------------------------
# Killed

DRIVER = """
import sys
from pipeline.config import DataConfig
from pipeline.data.preparing import prepare as module
if __name__ == "__main__":
    path, tokenizer, workers = sys.argv[1:]
    module.FEW_TOKENS, module.PART_BYTES = 0, 3000
    config = DataConfig(name="c", format="text", path=path, validation_fraction=0.2, tokenizer=tokenizer,
                        workers=int(workers))
    print(module.prepare(config, 300))
"""


def children(pid: int) -> list[int]:
    """Worker processes of `pid`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
        except OSError:  # gone meanwhile
            continue
    return found


class Driver:
    """Real preparations in a process of their own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.script = folder / "driver.py"
        self.script.write_text(DRIVER)
        self.arguments = arguments

    def start(self, cache: Path, workers: int) -> "subprocess.Popen[str]":
        path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, str(self.script), *self.arguments, str(workers)],
            env={**os.environ, "PIPELINE_CACHE": str(cache), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: "subprocess.Popen[str]") -> Path:
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert error == ""
        return Path(out.strip())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_killed_at_any_time_the_shards_are_the_same(tokenizer: Path, workers: int, tmp_path: Path) -> None:
    """Ten kills of the preparation or of a worker, which is replaced; then the folder is that of an undisturbed run."""
    (tmp_path / "corpus").mkdir()
    driver = Driver(tmp_path, write_corpus(tmp_path / "corpus", [250] * 8), str(tokenizer))
    start = time.monotonic()
    undisturbed = driver.finish(driver.start(tmp_path / "undisturbed", workers))
    duration = time.monotonic() - start
    cache = tmp_path / "cache"
    rng = random.Random(workers)
    killed = {"preparation": 0, "worker": 0}
    for attempt in range(10):
        process = driver.start(cache, workers)
        if attempt % 2:
            while not children(process.pid) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, duration / 3))
            for child in children(process.pid)[:1]:
                os.kill(child, signal.SIGKILL)
                killed["worker"] += 1
            folder = driver.finish(process)
            assert content(folder) == content(undisturbed)
            shutil.rmtree(folder)
        else:
            time.sleep(rng.uniform(duration / 5, duration))
            process.kill()
            killed["preparation"] += process.wait() == -signal.SIGKILL
            process.communicate()
    assert min(killed.values()) >= 2, killed
    folder = driver.finish(driver.start(cache, workers))
    assert content(folder) == content(undisturbed)
    assert sorted(p.name for p in cache.iterdir()) == sorted([f".{folder.name}.lock", folder.name])


@pytest.mark.slow
def test_two_processes_prepare_the_same_source_at_once(data: DataConfig, tokenizer: Path, tmp_path: Path) -> None:
    driver = Driver(tmp_path, data.path, str(tokenizer))
    both = [driver.start(tmp_path / "cache", 1) for _ in range(2)]
    (folder,) = {driver.finish(process) for process in both}
    assert content(folder).keys() == content(prepare(data, 300)).keys()


def test_killed_just_after_the_folder_got_its_name(data: DataConfig, cache: Path, in_parts: None) -> None:
    folder = prepare(data, 300)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir()
    (partial / "part-00000.train").write_text("x")
    before = content(folder)
    assert prepare(data, 300) == folder
    assert content(folder) == before
    assert not partial.exists()


@pytest.mark.slow
def test_a_full_disk_in_the_middle_loses_nothing(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may not write files past a limit, which only the third part's tokens reach."""
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus", [200, 200, 3000])
    code = (
        "import resource, sys; from pipeline.cli.main import main; from pipeline.data.preparing import prepare as "
        "module\n"
        "if __name__ == '__main__':\n"
        "    module.FEW_TOKENS, module.PART_BYTES = 0, 3000\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1]))); "
        "sys.exit(main(sys.argv[2:]))"
    )
    (tmp_path / "full.py").write_text(code)
    argv = ["data", "prepare", corpus, "--name", "c", "--tokenizer", str(tokenizer), "--workers", "2"]
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])

    def run(limit: int) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, str(tmp_path / "full.py"), str(limit), *argv],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    full = run(100_000)
    assert full.returncode == 1
    assert "File too large: " in full.stderr
    assert "part-00002.train" in full.stderr
    assert full.stderr.count("\n") == 1
    (partial,) = (tmp_path / "cache").glob(".*.partial")
    assert not list(partial.glob(".part-*")), "no half-written tokens"
    before = inodes(partial)
    assert {"part-00000.train", "part-00001.train"} <= set(before)
    assert run(10**9).returncode == 0
    (folder,) = (tmp_path / "cache").glob("c-*")
    for number in (0, 1):
        assert (folder / f"train-{number:05d}.bin").stat().st_ino == before[f"part-{number:05d}.train"]
