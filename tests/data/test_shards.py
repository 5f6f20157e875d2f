"""Manifests, shards and the windows of them: as prepared, or refused in one line."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from pipeline.config import DataConfig
from pipeline.data.preparing.parts import digest, is_validation
from pipeline.data.preparing.prepare import prepare
from pipeline.data.shards import MANIFEST, damages, read_manifest, write_manifest
from pipeline.data.sources import documents
from pipeline.data.tokenizer import END_OF_TEXT
from pipeline.data.windows import TokenWindows
from pipeline.errors import RequestError


@pytest.fixture
def data(text_file: Path) -> DataConfig:
    return DataConfig(name="corpus", format="text", path=str(text_file), validation_fraction=0.2)


@pytest.fixture
def folder(data: DataConfig, tmp_path: Path) -> Path:
    """A private copy of the prepared shards, to be damaged."""
    return Path(shutil.copytree(prepare(data, 300), tmp_path / "shards"))


@pytest.fixture(scope="module")
def several(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three parts."""
    folder = tmp_path_factory.mktemp("several")
    paragraphs = text_file.read_text().split("\n\n")
    for number in range(3):
        (folder / f"{number}.txt").write_text("\n\n".join(paragraphs[number::3][: 120 - 30 * number]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.preparing.prepare.PART_BYTES", 1000)
        config = DataConfig(name="several", format="text", path=f"{folder}/*.txt", validation_fraction=0.3)
        return prepare(config, 300)


def test_windows_are_the_tokens_of_the_documents(data: DataConfig) -> None:
    folder = prepare(data, 300)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    for split in ("train", "val"):
        windows = TokenWindows(folder, split, seq_len=16)
        rows = windows[np.arange(len(windows))]
        assert rows.shape == (len(windows), 17)
        assert torch.equal(rows[1:, 0], rows[:-1, -1])  # neighbours share one token
        text = tokenizer.decode([*rows[0].tolist(), *rows[1:, 1:].flatten().tolist()], skip_special_tokens=False)
        texts = [d for d in documents(Path(data.path), data) if is_validation(digest(d), 0.2) == (split == "val")]
        expected = "".join(d + END_OF_TEXT for d in texts)
        assert expected.startswith(text)
        assert len(expected) - len(text) < 200  # the tail shorter than a window
        assert read_manifest(folder)["splits"][split]["documents"] == len(texts)


@pytest.mark.parametrize("seq_len", [1, 16, 700])
def test_several_shards_read_like_their_pieces(several: Path, seq_len: int) -> None:
    pieces = [np.fromfile(several / f"train-{i:05d}.bin", dtype="<u2") for i in range(3)]
    windows = TokenWindows(several, "train", seq_len)
    expected = [p[i * seq_len : (i + 1) * seq_len + 1] for p in pieces for i in range((p.size - 1) // seq_len)]
    assert np.array_equal(windows[np.arange(len(windows))].numpy(), np.array(expected))
    places = np.random.default_rng(0).integers(len(windows), size=100)
    assert np.array_equal(windows[places].numpy(), np.array(expected)[places])


def test_a_shard_shorter_than_a_window_is_passed_over(tmp_path: Path) -> None:
    sizes = [100, 3, 16, 17, 1, 50]
    shards = []
    for number, size in enumerate(sizes):
        content = np.arange(1000 * number, 1000 * number + size, dtype="<u4").tobytes()
        (tmp_path / f"train-{number}.bin").write_bytes(content)
        shards.append({"file": f"train-{number}.bin", "tokens": size, "sha256": hashlib.sha256(content).hexdigest()})
    train = {"documents": 1, "tokens": sum(sizes), "shards": shards}
    write_manifest(tmp_path, {"name": "x", "dtype": "<u4", "tokenizer": {"entries": 9000}, "splits": {"train": train}})
    windows = TokenWindows(tmp_path, "train", 16)
    firsts = [0, 16, 32, 48, 64, 80, 3000, 5000, 5016, 5032]
    assert windows[np.arange(len(windows))].tolist() == [list(range(first, first + 17)) for first in firsts]
    with pytest.raises(RequestError, match="the val split has 0 tokens"):
        TokenWindows(tmp_path, "val", 16)


def test_the_fingerprint_changes_with_the_tokens_alone(several: Path, tmp_path: Path) -> None:
    original = read_manifest(several)

    def fingerprint(change: Callable[[dict[str, Any]], object]) -> str:
        manifest = json.loads(json.dumps(original))
        change(manifest)
        content = {key: manifest[key] for key in manifest if key not in ("format_version", "fingerprint")}
        write_manifest(tmp_path, content)
        return str(read_manifest(tmp_path)["fingerprint"])

    same = [
        lambda m: None,
        lambda m: m.update(name="other", license="MIT", request={}),
        lambda m: m["source"].clear(),
        lambda m: m["splits"].update(val=m["splits"].pop("val")),
    ]
    other = [
        lambda m: m["splits"]["train"]["shards"][0].update(sha256="0" * 64),
        lambda m: m["splits"]["train"]["shards"].reverse(),
        lambda m: m.update(dtype="<u4"),
        lambda m: m["splits"].pop("val"),
    ]
    assert [fingerprint(change) == original["fingerprint"] for change in [*same, *other]] == [True] * 4 + [False] * 4


def test_too_little_text_is_said(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"the val split has .* fewer than one window of --seq_len 100000"):
        TokenWindows(folder, "val", seq_len=100_000)


# ---------------------------------------------------------------------------------------------------------------------
# Damaged


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_named(folder: Path, damage: str) -> None:
    shard = folder / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[1001] ^= 1
        shard.write_bytes(content)
        complaint = "does not match its manifest (sha256)"
    elif damage == "truncate":
        shard.write_bytes(content[:-2])
        complaint = f"has {len(content) - 2} bytes, not {len(content)}"
    else:
        shard.unlink()
        complaint = "cannot be read (No such file or directory)"
    with pytest.raises(RequestError) as error:
        TokenWindows(folder, "train", seq_len=16)
    assert str(error.value) == f"data shard {shard} {complaint}: delete {folder} to prepare it again"
    assert damages(folder, read_manifest(folder)) == [f"data shard {shard} {complaint}"]
    assert len(TokenWindows(folder, "val", seq_len=16)) > 0, "the other split can be read"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}', '{"format_version": 99}', "null",
                                  "[" * 100_000, '{"format_version": "a\\nb"}', "\udcff"])  # fmt: skip
def test_a_damaged_manifest_is_one_line(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, errors="surrogateescape")
    with pytest.raises(RequestError, match=r"\A.*delete.*\Z"):
        TokenWindows(folder, "train", seq_len=16)


Corruption = Callable[[Path, random.Random], None]

VALUES: list[Any] = [None, True, False, 0, 1, -1, 2**70, 1.5, float("nan"), float("inf"), "", "x", "../train-00000.bin",
                     "/etc/passwd", "train-00000.bin", "O", "object", "<u4", ">u2", "<f8", [], [[]], {}, {"a": {}}, "é\n"]  # fmt: skip


def _bytes(name: str) -> Corruption:
    """Flips, cuts, inserts, drops or swaps bytes."""

    def corrupt(folder: Path, rng: random.Random) -> None:
        original = (folder / name).read_bytes()
        content = bytearray(original)
        place, size = rng.randrange(len(content)), rng.randrange(1, 9)
        kind = rng.choice(["flip", "cut", "insert", "drop", "swap"])
        if kind == "flip":
            content[place] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = rng.randbytes(size)
        elif kind == "drop":
            del content[place : place + size]
        else:
            other = rng.randrange(len(content))
            content[place], content[other] = content[other], content[place]
        (folder / name).write_bytes(content if content != original else b"")

    return corrupt


def _fields(manifest: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys = list(manifest) if isinstance(manifest, dict) else range(len(manifest)) if isinstance(manifest, list) else []
    return [pair for key in keys for pair in [(manifest, key), *_fields(manifest[key])]]


def _edit(folder: Path, rng: random.Random) -> None:
    """Another value, or none, in a field of the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    container, key = rng.choice(_fields(manifest))
    if rng.random() < 0.2:
        del container[key]
    else:
        container[key] = rng.choice(VALUES)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _adversary(folder: Path, rng: random.Random) -> None:
    """As `_edit`, where it matters, with fingerprint and checksum made to match."""
    manifest = json.loads((folder / MANIFEST).read_text())
    shard = rng.choice(manifest["splits"][rng.choice(["train", "val"])]["shards"])
    places = [(shard, "file"), (shard, "tokens"), (shard, "sha256"), (manifest, "dtype"), (manifest, "splits"),
              (manifest["splits"], "train"), (manifest["splits"]["val"], "shards"), (manifest["tokenizer"], "entries"),
              (manifest["splits"]["train"], "tokens"), (manifest, "name"), (manifest, "tokenizer")]  # fmt: skip
    container, key = rng.choice(places)
    container[key] = rng.choice(VALUES)
    seal(folder, manifest)


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest` with its checksums; what `write_manifest` cannot take stays as it is."""
    content = {key: value for key, value in manifest.items() if key not in ("format_version", "fingerprint", "sha256")}
    try:
        write_manifest(folder, content)
    except (TypeError, KeyError, AttributeError):
        (folder / MANIFEST).write_text(json.dumps(manifest))


def _space(folder: Path, rng: random.Random) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=rng.choice([None, 1, 7]), sort_keys=rng.random() < 0.5))


def _swap(folder: Path, rng: random.Random) -> None:
    one, other = rng.sample(sorted(folder.glob("*.bin")), 2)
    one.rename(folder / "held")
    other.rename(one)
    (folder / "held").rename(other)


def _remove(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.glob("*")))
    path.unlink()
    if rng.random() < 0.3:
        path.mkdir()


def windows_of(folder: Path) -> list[np.ndarray[Any, Any]]:
    splits = [TokenWindows(folder, split, 16) for split in ("train", "val")]
    return [windows[np.arange(len(windows))].numpy() for windows in splits]


CORRUPTIONS = {"manifest": (_bytes(MANIFEST), 60), "shard": (_bytes("train-00001.bin"), 15),
               "validation": (_bytes("val-00000.bin"), 10), "edit": (_edit, 90), "adversary": (_adversary, 150),
               "space": (_space, 6), "swap": (_swap, 10), "remove": (_remove, 15)}  # fmt: skip


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_whatever_happens_to_the_files_is_refused_or_harmless(several: Path, kind: str, tmp_path: Path) -> None:
    corrupt, count = CORRUPTIONS[kind]
    whole, manifest = windows_of(several), read_manifest(several)
    accepted = 0
    for seed in range(count):
        folder = Path(shutil.copytree(several, tmp_path / str(seed)))
        corrupt(folder, random.Random(f"{kind}{seed}"))
        try:
            found = windows_of(folder)
        except RequestError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1, lines
            continue
        accepted += 1
        assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True)), seed
        assert kind == "adversary" or read_manifest(folder) == manifest, seed
    if kind in ("shard", "validation", "swap"):
        assert accepted == 0
    assert accepted < count or kind == "space"
    assert kind != "space" or accepted == count, "white space and the order of keys mean nothing"


@pytest.mark.parametrize(
    "file",
    ["../train-00000.bin", "/etc/passwd", "..", "a/../train-00000.bin", "train-00000.bin\n", ".bin", "", 3, None],
)
def test_a_sealed_manifest_cannot_name_files_elsewhere(several: Path, file: object, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(several, tmp_path / "inner"))
    shutil.copy(folder / "train-00000.bin", tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = file
    seal(folder, manifest)
    with pytest.raises(RequestError, match="is missing or damaged"):
        read_manifest(folder)


def test_a_sealed_manifest_must_add_up(several: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(several, tmp_path / "inner"))
    manifest = json.loads((folder / MANIFEST).read_text())
    seal(folder, manifest)
    assert {**read_manifest(folder), "sha256": manifest["sha256"]} == manifest
    manifest["splits"]["train"]["tokens"] += 1
    seal(folder, manifest)
    with pytest.raises(RequestError, match="is missing or damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("dtype", ["O", "object", ">u2", "<u8", "<i2", "<f2", "V2", "<u2,<u2", ["<u2"], None, 2])
def test_a_sealed_manifest_cannot_have_another_dtype(several: Path, dtype: object, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(several, tmp_path / "inner"))
    seal(folder, json.loads((folder / MANIFEST).read_text()) | {"dtype": dtype})
    with pytest.raises(RequestError, match="is missing or damaged"):
        read_manifest(folder)


def test_the_embedded_speeches() -> None:
    folder = prepare(DataConfig(), 2048)
    manifest = read_manifest(folder)
    splits = manifest["splits"]
    assert splits["train"]["documents"] + splits["val"]["documents"] == 249
    assert 3_000_000 < splits["train"]["tokens"] + splits["val"]["tokens"] < 4_000_000
    assert manifest["dtype"] == "<u2"
    left = {path.name for path in folder.parent.glob(f".{folder.name}*")}
    assert left == {f".{folder.name}.lock"}
