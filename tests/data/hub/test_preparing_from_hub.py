"""Preparing and training from a hub that misbehaves, through the command line, with the real client code."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cache import cache_root
from pipeline.cli.arguments import parse
from pipeline.cli.main import main
from pipeline.config import DataConfig
from pipeline.data.hub.download import hub_source
from pipeline.data.order import permute, seeded
from pipeline.data.preparing.prepare import prepare
from pipeline.data.shards import read_manifest
from tests.data.streaming.test_stream import write_corpus
from tests.support.hub_server import HubServer, serving

REPO = "words/in-files"
TRAIN = [
    "train", "--width", "32", "--base_width", "32", "--model.head_size", "16", "--model.n_layer", "1", "--global_batch", "4",
    "--model.vocab_size", "300", "--seq_len", "16", "--steps", "60", "--warmup_steps", "2", "--val_sequences", "8",
    "--checkpoint_interval", "10", "--val_interval", "1000", "--wandb", "disabled",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, files=8, per_file=400)
    return {f"part_{i // 4}/{file.name}": file.read_bytes() for i, file in enumerate(sorted(folder.iterdir()))}


@pytest.fixture
def server(corpus: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    text = tmp_path / "text.txt"
    text.write_text(
        "the union of states asks what rate a wide network bears\n\n" * 3 + "and\n\nso\n\non\n\nfor\n\never"
    )
    tokenizer = (
        prepare(DataConfig(name="t", format="text", path=str(text), validation_fraction=0.4), 300) / "tokenizer.json"
    )
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    with serving(REPO, corpus) as running:
        running.add("words/tokenizer", {"tokenizer.json": tokenizer.read_bytes()}, kind="model")
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "words.yaml"
    settings = {"name": "words", "format": "text", "repo": REPO, "files": "part_*/*.jsonl.zst", "tokens": "5K",
                "tokenizer": "words/tokenizer", "validation_fraction": 0.2, "lanes": 2, "era": 8}  # fmt: skip
    path.write_text(yaml.safe_dump(settings))
    return path


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.bin")}


def downloads() -> list[Path]:
    """Whole files that were fetched and not released."""
    return list((cache_root() / "downloads").rglob("*.zst"))


def metrics(out: Path) -> list[dict[str, float]]:
    lines = next(out.rglob("metrics.jsonl")).read_text().splitlines()
    return [{key: json.loads(line)[key] for key in ("step", "loss")} for line in lines]


FAULTS = ["429", "500", "cut", "truncated", "flipped", "slow", "reset", "503"]


def misbehave(server: HubServer, corpus: dict[str, bytes]) -> None:
    """Every file arrives well at the second or third attempt."""
    for name, fault in zip(sorted(corpus), FAULTS, strict=True):
        server.fail(name, fault, headers={"Retry-After": "1"} if fault == "429" else None)


@pytest.mark.slow
def test_prepared_from_a_bad_hub_is_prepared_from_a_good_one(
    server: HubServer,
    corpus: dict[str, bytes],
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipeline.data.preparing.prepare.FEW_TOKENS", 0)  # worker processes, although it is little
    folders = []
    for cache in ("good", "bad"):
        monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / cache))
        assert main(["data", "prepare", str(recipe), "--tokens", "null", "--workers", "2"]) == 0
        folders.append(Path(capsys.readouterr().out.split()[1]))
        assert not downloads()
        misbehave(server, corpus)
        server.fail("tree", "500")
    good, bad = folders
    assert bad.name == good.name
    assert shards(bad) == shards(good) != {}
    assert read_manifest(bad) == read_manifest(good)
    assert read_manifest(bad)["source"]["commit"] in server.repositories["dataset", REPO].commits
    assert {name for name in corpus if server.count("GET", name) > 1} == set(corpus)


def test_only_as_many_files_as_the_tokens_need_are_fetched_and_then_none(
    server: HubServer, corpus: dict[str, bytes], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.preparing.prepare.PART_BYTES", 1)  # small files are else taken together
    assert main(["data", "prepare", str(recipe), "--workers", "1"]) == 0
    fetched = [name for name in corpus if server.count("GET", name)]
    assert 1 <= len(fetched) < 4
    assert not downloads()
    asked = len(server.requests)
    assert main([*TRAIN, "--data", str(recipe), "--out", str(tmp_path / "runs"), "--steps", "3"]) == 0
    assert main(["data", "verify", str(recipe)]) == 0
    assert len(server.requests) == asked, "what is prepared needs no network"


@pytest.mark.slow
def test_training_straight_from_a_bad_hub_is_training_from_a_good_one(
    server: HubServer, corpus: dict[str, bytes], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAIN, "--data", str(recipe), "--data.mode", "stream"]
    assert main([*command, "--out", str(tmp_path / "good")]) == 0
    for download in downloads():
        download.unlink()
    server.add(REPO, {"part_0/other.jsonl.zst": b""})  # the branch moves; a study stays with its commit
    misbehave(server, corpus)
    assert main([*command, "--out", str(tmp_path / "bad")]) == 0
    assert metrics(tmp_path / "bad") == metrics(tmp_path / "good")
    assert len(downloads()) <= 4, "of each lane, the file it reads and the next"


@pytest.mark.slow
def test_a_hub_that_goes_silent_ends_the_run_and_the_same_command_continues(
    server: HubServer, corpus: dict[str, bytes], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--steps", "1500", "--log_interval", "50", "--checkpoint_interval", "100"]
    command = [*TRAIN, "--data", str(recipe), "--data.mode", "stream", "--data.stall_seconds", "4", *settings]
    assert main([*command, "--out", str(tmp_path / "undisturbed")]) == 0
    for download in downloads():
        download.unlink()
    files = hub_source(parse("train", command[1:])[0].data).files
    for index in permute(np.arange(8), 8, seeded(0, "files"))[4:]:  # all but the first two files of each lane
        server.fail(files[index].name, "stall", times=None)
    assert main([*command, "--out", str(tmp_path / "disturbed")]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "gave nothing for 4 s" in said
    assert "the same command continues" in said
    assert 100 < metrics(tmp_path / "disturbed")[-1]["step"] < 1500
    server.heal()
    assert main([*command, "--out", str(tmp_path / "disturbed")]) == 0
    assert metrics(tmp_path / "disturbed") == metrics(tmp_path / "undisturbed")
