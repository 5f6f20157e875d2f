"""Documents of every kind of file, and one line for every kind of broken one."""

import dataclasses
import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import DataConfig
from pipeline.data.sources import SourceFile, documents, local_source
from pipeline.errors import RequestError

CONFIG = DataConfig(name="x", format="text", path="x")
DOCUMENTS = ["plain", "two\nlines", "Grüße, 世界 \U0001f30d", 'quotes " and \\', "x " * 50_000 + "end"]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def frames(content: bytes) -> bytes:
    """Several zstd frames, one of them empty, cut anywhere."""
    return zstd(content[:7]) + zstd(b"") + zstd(content[7:90_001]) + zstd(content[90_001:])


def parquet(columns: dict[str, object], **settings: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **settings)
    return bytes(sink.getvalue())


def jsonl(texts: list[str], *, ascii: bool = True) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=ascii) + "\n" for text in texts).encode()


TEXT = "\n\n".join(DOCUMENTS).encode()
FILES = {
    "a.txt": TEXT,
    "no-suffix": TEXT,
    "windows.txt": TEXT.replace(b"\n", b"\r\n"),
    "gaps.txt": b"\n\n\n" + TEXT.replace(b"\n\n", b"\n\n\r\n\n") + b"\n\n \n\n",
    "a.txt.gz": gzip.compress(TEXT),
    "two.txt.gz": gzip.compress(TEXT[:20]) + gzip.compress(TEXT[20:]),
    "a.txt.zst": zstd(TEXT),
    "frames.txt.zst": frames(TEXT),
    "a.jsonl": jsonl(DOCUMENTS),
    "utf8.jsonl": jsonl(DOCUMENTS, ascii=False),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(DOCUMENTS),
    "windows.ndjson": jsonl(DOCUMENTS).replace(b"\n", b"\r\n"),
    "gaps.jsonl": b"\n" + jsonl(["", *DOCUMENTS, " \n "]).replace(b"\n", b"\n\n \n").rstrip(),
    "a.jsonl.gz": gzip.compress(jsonl(DOCUMENTS)),
    "a.jsonl.zst": zstd(jsonl(DOCUMENTS)),
    "frames.jsonl.zst": frames(jsonl(DOCUMENTS)),
    "a.parquet": parquet({"id": list(range(7)), "text": ["", *DOCUMENTS, None]}),
    "rows.parquet": parquet({"text": pa.array(DOCUMENTS).dictionary_encode()}),
    "A.TXT.GZ": gzip.compress(TEXT),
    "A.JSONL": jsonl(DOCUMENTS),
    "a.jsonlines": jsonl(DOCUMENTS),
    "a.json.gz": gzip.compress(jsonl(DOCUMENTS)),
    "a.json.ZST": zstd(jsonl(DOCUMENTS)),
    "padded.jsonl.gz": gzip.compress(jsonl(DOCUMENTS)) + bytes(1000),
    "digits.jsonl": jsonl(DOCUMENTS).replace(b'"id": 1', b'"id": ' + b"1" * 5000),
    "groups.parquet": parquet({"text": DOCUMENTS}, row_group_size=2),
}


@pytest.mark.parametrize("name", FILES)
def test_documents_of_every_format(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    found = [text.replace("\r\n", "\n") for text in documents(tmp_path / name, CONFIG)]
    assert found == DOCUMENTS


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl", "blank.txt", "empty.parquet"])
def test_a_file_without_documents(name: str, tmp_path: Path) -> None:
    rows = parquet({"text": pa.array([], pa.string())})
    (tmp_path / name).write_bytes({"blank.txt": b"\n \n\n", "empty.parquet": rows}.get(name, b""))
    assert list(documents(tmp_path / name, CONFIG)) == []


def test_marks_lines_of_spaces_and_nulls_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\n \t\ntwo\n\n\nthree".encode())
    assert list(documents(tmp_path / "a.txt", CONFIG)) == ["one", "two", "three"]
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "one"}\n')
    (tmp_path / "a.parquet").write_bytes(parquet({"text": [None, "one"]}))
    for name in ("a.jsonl", "a.parquet"):
        assert list(documents(tmp_path / name, CONFIG)) == ["one"]


def test_another_field_and_a_lone_surrogate(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": 1, "body": "a\\ud800b \\ud83d\\ude00"}\n')
    other = DataConfig(name="x", format="text", path="x", text_field="body")
    assert list(documents(tmp_path / "a.jsonl", other)) == ["a?b \U0001f600"]


def test_a_field_within_a_field(tmp_path: Path) -> None:
    rows = [{"content": {"body": "one"}}, {"content": {"body": None}}, {"content": None}, {"content": {"body": "two"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"content.body": "three"}]))
    (tmp_path / "a.parquet").write_bytes(parquet({"content": [row["content"] for row in rows]}))
    (tmp_path / "dot.parquet").write_bytes(parquet({"content.body": ["one", "two"]}))
    config = DataConfig(name="x", format="text", path="x", text_field="content.body")
    assert list(documents(tmp_path / "a.jsonl", config)) == ["one", "two", "three"]
    assert list(documents(tmp_path / "a.parquet", config)) == ["one", "two"]
    assert list(documents(tmp_path / "dot.parquet", config)) == ["one", "two"]
    (tmp_path / "a.jsonl").write_text('{"content": "no body here"}\n')
    with pytest.raises(RequestError, match=r"line 1, has no text field 'content\.body' \('content'\)"):
        list(documents(tmp_path / "a.jsonl", config))


def test_the_kind_goes_before_the_suffix(tmp_path: Path) -> None:
    for name, content in (("a.log", TEXT), ("a.log.gz", gzip.compress(TEXT)), ("a.jsonl", TEXT)):
        (tmp_path / name).write_bytes(content)
        text = DataConfig(name="x", format="text", path="x", kind="text")
        assert list(documents(tmp_path / name, text)) == DOCUMENTS
    (tmp_path / "b.log").write_bytes(jsonl(DOCUMENTS))
    config = DataConfig(name="x", format="text", path=f"{tmp_path}/b.log", kind="jsonl")
    assert list(documents(tmp_path / "b.log", config)) == DOCUMENTS
    assert len(local_source(config).files) == 1


@pytest.mark.parametrize("name", ["a.csv", "a.TSV.gz", "a.jsonl.bz2", "a.zip", "a.md", "a.1"])
def test_what_no_suffix_says_is_refused_not_guessed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TEXT)
    (tmp_path / "good.txt").write_bytes(TEXT)
    with pytest.raises(RequestError, match=rf"{name}: of which kind .* say --data\.kind text or jsonl or parquet"):
        local_source(DataConfig(name="x", format="text", path=f"{tmp_path}/*"))


def test_a_field_that_no_file_has_a_use_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    config = DataConfig(name="x", format="text", path=f"{tmp_path}/*", text_field="body")
    with pytest.raises(RequestError, match=r"--data\.text_field is for jsonl and parquet: .*a\.txt is read as text"):
        local_source(config)
    (tmp_path / "b.jsonl").write_bytes(jsonl(DOCUMENTS))
    assert len(local_source(config).files) == 2


SKIPPED = {
    "torn.jsonl": (b'{"text": "a"}\n{"text": "b\n\xff{"text": "c"}\n{"text": "d"}\n{"te', ["a", "d"], 3),
    "latin.txt": (b"one\ncaf\xe9\ntwo\n\nthree\n\n\xff\n", ["one\ntwo", "three"], 2),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_lines_that_cannot_be_read_are_left_out_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    content, texts, count = SKIPPED[name]
    (tmp_path / name).write_bytes(content)
    skipped: Counter[str] = Counter()
    config = DataConfig(name="x", format="text", path="x", bad_lines="skip")
    assert list(documents(tmp_path / name, config, skipped)) == texts
    assert skipped == {str(tmp_path / name): count}
    assert "--data.bad_lines skip leaves such lines out" in message(tmp_path / name)


LARGE = "word " * 30_000
LARGE_FILES = {
    "a.txt": f"small\n\n{LARGE}".encode(),
    "lines.txt": b"line\n" * 30_000,
    "a.jsonl": jsonl(["small", LARGE]),
    "bomb.jsonl.zst": zstd(b" " * 10**8),
    "bomb.txt.gz": gzip.compress(b"a" * 10**8),
    "a.parquet": parquet({"text": ["small", LARGE]}),
    "one.parquet": parquet({"text": [LARGE]}),
    "same.parquet": parquet({"text": pa.array(["small", *[LARGE] * 50]).dictionary_encode()}),
}


@pytest.mark.parametrize("name", LARGE_FILES)
def test_a_document_has_a_size_that_memory_is_made_for(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(LARGE_FILES[name])
    config = DataConfig(name="x", format="text", path="x", max_document=100_000)
    tracemalloc.start()
    with pytest.raises(RequestError, match=rf"{name}.* has a document of more than 100,000 bytes: .*--data.max_docum"):
        list(documents(tmp_path / name, config))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    if "bomb" not in name:
        larger = dataclasses.replace(config, max_document="200K")
        assert len(max(documents(tmp_path / name, larger), key=len)) == 149_999


def test_a_sotu_speech_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    assert list(documents(tmp_path / "a.txt", DataConfig())) == ["\n\n".join(DOCUMENTS)]
    assert len(local_source(DataConfig()).files) == 249


GOOD = b'{"text": "a"}\n'
DEEP = b'{"text": ' + b"[" * 200_000 + b"\n"
INTS = parquet({"text": [1, 2]})
BROKEN = {
    "latin.txt": (b"caf\xe9\n\nx", "is not UTF-8 text"),
    "latin.txt.gz": (gzip.compress(b"caf\xe9\n\nx"), "is not UTF-8 text"),
    "latin.jsonl": (GOOD + b'{"text": "caf\xe9"}\n', "line 2, is not JSON"),
    "utf16.jsonl": (GOOD.decode().encode("utf-16"), "line 1, is not JSON"),
    "torn.jsonl": (GOOD + b"\n" + GOOD + b'{"text": "a', "line 4, is not JSON"),
    "deep.jsonl": (GOOD + DEEP, "line 2, is not JSON"),
    "huge.jsonl": (b'{"text": ' + b"1" * 5000 + b"}", "line 1, has no text field 'text' ('text')"),
    "list.jsonl": (b'["text"]\n', "line 1, has no text field 'text' (no object)"),
    "other.jsonl": (b'{"body": "a", "two\\nlines": 1}\n', "line 1, has no text field 'text' ('body', 'two\\nlines')"),
    "number.jsonl": (GOOD + b'{"text": 1}\n', "line 2, has no text field 'text'"),
    "plain.jsonl.zst": (GOOD, "cannot read"),
    "plain.jsonl.gz": (GOOD, "cannot read"),
    "tail.jsonl.zst": (zstd(GOOD) + b"tail", "cannot read"),
    "text.parquet": (GOOD, "is not a readable parquet file"),
    "empty.parquet": (b"", "is not a readable parquet file"),
    "other.parquet": (parquet({"body": ["a"]}), "has no column 'text' (body)"),
    "numbers.parquet": (INTS, "column 'text', does not hold text"),
}
TRUNCATED = ["a.txt.gz", "two.txt.gz", "a.txt.zst", "frames.txt.zst", "a.jsonl.gz", "frames.jsonl.zst", "a.parquet",
             "groups.parquet"]  # fmt: skip


def message(path: Path) -> str:
    with pytest.raises(RequestError) as error:
        list(documents(path, CONFIG))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    content, complaint = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    assert complaint in message(tmp_path / name)


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_file_is_never_taken_for_a_short_one(name: str, tmp_path: Path) -> None:
    content, path = FILES[name], tmp_path / name
    for size in (1, 5, len(content) // 2, len(content) - 9, len(content) - 1):
        path.write_bytes(content[:size])
        message(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl.zst"):
        assert "cannot read" in message(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt.zst", "a.jsonl", "a.jsonl.zst", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    text = "word " * 400
    content = (f"{text}\n\n" if ".txt" in name else json.dumps({"text": text}) + "\n") * 20_000  # 40 MB
    pack = {".zst": zstd, ".gz": lambda content: gzip.compress(content, 1)}.get(
        Path(name).suffix, lambda content: content
    )
    (tmp_path / name).write_bytes(pack(content.encode()))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    count = sum(1 for _ in documents(tmp_path / name, CONFIG))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 6e6
    assert pa.total_allocated_bytes() - before < 6e6


def test_local_files_are_sorted_and_folders_are_not_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "folder.txt/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    config = DataConfig(name="x", format="text", path=f"{tmp_path}/**/*.txt")
    assert local_source(config).files == tuple(
        SourceFile(str(tmp_path / name), len(name)) for name in ("a.txt", "b.txt", "folder.txt/c.txt")
    )
    with pytest.raises(RequestError, match=r"no text found for --data .*/none-\*: no such file"):
        local_source(DataConfig(name="x", format="text", path=f"{tmp_path}/none-*"))
    with pytest.raises(
        RequestError, match=r"a folder that is not prepared: name its files, such as '.*/\*\*/\*\.jsonl'"
    ):
        local_source(DataConfig(name="x", format="text", path=str(tmp_path)))
    for name in ("books[1].txt", "["):
        (tmp_path / name).write_text("text")
        config = DataConfig(name="x", format="text", path=f"{tmp_path}/{name}")
        assert [file.name for file in local_source(config).files] == [f"{tmp_path}/{name}"]
