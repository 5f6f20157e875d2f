"""`pipeline data prepare | info | verify` as a user meets them."""

import itertools
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.cli.main import main
from pipeline.data.shards import MANIFEST, read_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(text_file: Path) -> list[str]:
    return [str(text_file), "--vocab_size", "300", "--validation_fraction", "0.2", "--license", "MIT"]


@pytest.fixture
def folder(source: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["data", "prepare", *source]) == 0
    capsys.readouterr()
    (folder,) = cache.glob("corpus-*")
    return folder


def test_prepared_and_prepared_again(source: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", *source]) == 0
    first = capsys.readouterr()
    (folder,) = cache.glob("corpus-*")
    splits = read_manifest(folder)["splits"]
    assert first.out.splitlines() == [
        f"corpus    {folder}",
        f"source    path {source[0]} (1 files)",
        "tokenizer bpe, 300 entries, <u2",
        *(f"{s:9} {splits[s]['tokens']:,} tokens, {splits[s]['documents']:,} documents, 1 shard" for s in splits),
        "removed   0 exact duplicates",
        "license   MIT",
    ]
    assert first.err == ""
    before = {path: path.stat() for path in folder.iterdir()}
    assert main(["data", "prepare", *source]) == 0
    assert capsys.readouterr().out == f"already prepared\n{first.out}"
    assert {path: path.stat() for path in folder.iterdir()} == before


def test_tokens_are_given_as_an_amount(source: list[str], cache: Path) -> None:
    assert main(["data", "prepare", *source, "--tokens", "2K"]) == 0
    (folder,) = cache.glob("corpus-*")
    assert 2000 <= read_manifest(folder)["splits"]["train"]["tokens"] < 2200


def test_a_source_that_has_fewer_tokens_says_so(
    source: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", *source, "--tokens", "1B"]) == 0
    assert "the source has no more: 1,000,000,000 tokens were asked for" in capsys.readouterr().out


def test_info(source: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"cache     {cache}"]
    assert main(["data", "info", *source]) == 0
    would_be = capsys.readouterr().out.removeprefix("not prepared; it would be ").rstrip("\n")
    assert main(["data", "prepare", *source]) == 0
    prepared = capsys.readouterr().out
    assert prepared.startswith(f"corpus    {would_be}\n")
    shutil.copytree(would_be, cache / ".interrupted.final")
    for argv in (source, [would_be]):
        assert main(["data", "info", *argv]) == 0
        assert capsys.readouterr().out == prepared
    assert main(["data", "info"]) == 0
    recipes, _, *rest = capsys.readouterr().out.splitlines()
    assert recipes.startswith("recipes   ")
    assert "sotu" in recipes
    assert rest == ["", *prepared.splitlines()]


def test_info_of_a_damaged_folder_is_a_line_among_others(
    folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, cache / "other")
    (folder / MANIFEST).write_text("{}")
    assert main(["data", "info"]) == 0
    out = capsys.readouterr().out
    assert f"{folder / MANIFEST} is missing or damaged: delete {folder} to prepare it again\n" in out
    assert f"corpus    {cache / 'other'}\n" in out


def test_verify(source: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (source, [str(folder)]):
        assert main(["data", "verify", *argv]) == 0
        assert capsys.readouterr().out == f"every byte is as prepared: {folder}\n"
    for name in ("val-00000.bin", "tokenizer.json", "train-00000.bin"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    assert main(["data", "verify", *source]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"data shard {folder / 'train-00000.bin'} does not match its manifest (sha256)",
        f"data shard {folder / 'val-00000.bin'} does not match its manifest (sha256)",
        f"{folder / 'tokenizer.json'} does not match the manifest (sha256)",
        f"damaged: delete {folder} and prepare it again",
    ]
    (folder / "tokenizer.json").unlink()
    (folder / "train-00000.bin").write_bytes(b"")
    assert main(["data", "verify", *source]) == 1
    out = capsys.readouterr().out
    assert "train-00000.bin has 0 bytes, not " in out
    assert "tokenizer.json does not match" in out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, line in (
        (["data", "--help"], "usage: pipeline data prepare SOURCE"),
        (["data", "prepare", "--help"], "usage: pipeline data prepare SOURCE"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(line)
    flags = [(line, below) for line, below in itertools.pairwise(out.splitlines()) if line.startswith("  --")]
    assert {line.split()[0] for line, _ in flags} >= {"--tokens", "--tokenizer", "--vocab_size", "--workers", "--repo"}
    assert all(below.startswith("      ") and len(below.split()) > 2 for _, below in flags), "each has a description"
    with pytest.raises(SystemExit):
        main(["data", "prepare", "dclm", "--help", "tokens"])
    out = capsys.readouterr().out
    assert "[1400000000]" in out
    assert "--repo" not in out
    assert main(["data", "prepare", "--help", "nothing-says-so"]) == 2


def error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["data", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pipeline: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["prepar", "sotu"], "pipeline data prepar: choose one of prepare, info, verify"),
        (["prepare"], "pipeline data prepare: name a source (cifar10, dclm, "),
        (["verify"], "pipeline data verify: name a source (cifar10, dclm, "),
        (["prepare", "nope"], "nope: no such file, and no data recipe of that name (cifar10, dclm, "),
        (["prepare", "digits"], "digits needs no preparing: its format is digits"),
        (["info", "digits"], "digits is made in memory: there is nothing on disk"),
        (["verify", "multi-index"], "is made in memory: there is nothing on disk"),
        (["prepare", "sotu"], "give --vocab_size, the model.vocab_size of your runs"),
        (["prepare", "sotu", "--vocab_size", "many"], "vocab_size"),
        (["prepare", "sotu", "--vocab_size", "256"], "--vocab_size 256 is too small for a byte-level BPE"),
        (["prepare", "sotu", "--vocab_size", "300", "--tokenizer", "no.json"], "--vocab_size is for --tokenizer bpe"),
        (["prepare", "sotu", "--tokenizer", "no.json"], "--tokenizer no.json: no such file"),
        (["prepare", "sotu", "--workrs", "2"], "--workrs: unknown key workrs, did you mean workers?"),
        (["prepare", "sotu", "--vocab_size", "300", "--tokens", "some"], "expected a number such as 1.4B or 300M"),
        (["prepare", "sotu", "--vocab_size", "300", "--tokens", "0"], "tokens must be positive"),
        (["prepare", "sotu", "--vocab_size", "300", "--tokens", "1e999"], "expected a number such as 1.4B or 300M"),
        (["prepare", "sotu", "--vocab_size", "300", "--tokens", "9e18"], "tokens must be positive, at most 1000T"),
        (["prepare", "dclm", "--max_document", "9e18"], "max_document must be 1 to 2147483648"),
        (
            ["prepare", "sotu", "--path", "x.txt"],
            "--path is for --format text or shards and files of vectors, and not for sotu",
        ),
        (["prepare", "sotu", "--text_field", "body"], "--text_field is for --format text, and not for sotu"),
        (["prepare", "digits", "--tokens", "3M"], "--tokens is for text that is not prepared yet"),
        (["info", "sotu", "--file_seed", "3"], "--file_seed is for --repo, and not for sotu (format sotu)"),
        (["prepare", "a\0b"], "a path has no NUL byte"),
        (["prepare", "a" * 300], "a name has at most 255 bytes, not 300"),
        (["prepare", "two\nlines\x1b[2J"], r"two\nlines\x1b[2J: no such file"),
        (["prepare", "$NOWHERE/x.txt"], "$NOWHERE/x.txt: no variable $NOWHERE is set: set it, or"),
        (["prepare", "~nobody-at-all/x.txt"], "there is no such user (a file of that name is ./~nobody-at-all/x.txt)"),
        (["prepare", "sotu", "--vocab_size", "300", "--workers", "-1"], "workers must be 0 to 10000, got -1"),
        (["prepare", "sotu", "--vocab_size", "300", "--validation_fraction", "1"], "must be between 0 and 1"),
        (["verify", "sotu", "--vocab_size", "257"], "nothing to verify: "),
    ],
)
def test_a_wrong_request_exits_with_2_and_one_line(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in error(argv, capsys)


def test_a_damaged_manifest_is_refused(folder: Path, source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace('"documents": ', '"documents": 1'))
    assert main(["data", "verify", *source]) == 1
    assert f"{folder / MANIFEST} is missing or damaged: delete {folder}" in capsys.readouterr().out
    assert "needs no preparing" in error(["prepare", str(folder)], capsys)


def test_unreadable_text_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = b"".join(json.dumps({"text": "word " * i}).encode() + b"\n" for i in range(100))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(rows)
    files = {
        "torn.jsonl": (rows[:-5], "torn.jsonl, line 100, is not JSON"),
        "torn.jsonl.zst": (bytes(sink.getvalue())[:-5], "torn.jsonl.zst: Truncated compressed stream"),
        "text.parquet": (rows, "text.parquet is not a readable parquet file"),
        "latin.txt": (b"caf\xe9", "latin.txt, line 1, is not UTF-8 text"),
        "other.jsonl": (b'{"body": "a"}\n', "line 1, has no text field 'text' ('body'): give --text_field"),
        "none.txt": (b"\n", "no document falls into the train split; give more documents or another"),
    }
    for name, (content, line) in files.items():
        (tmp_path / name).write_bytes(content)
        assert line in error(["prepare", str(tmp_path / name), "--vocab_size", "300"], capsys)
    assert "torn.jsonl, line 100" in error(["prepare", f"{tmp_path}/t*.jsonl", "--vocab_size", "300"], capsys)


def test_a_cache_that_cannot_be_written(
    source: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "file"))
    assert f"cannot write the data cache {tmp_path / 'file'} (" in error(["prepare", *source], capsys)
