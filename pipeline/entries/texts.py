"""Text: what the suffixes of a file's name say about its content, and which settings a source of data has a use for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.entries.vectors import VECTORS
from pipeline.errors import RequestError

TEXT = ("sotu", "text")
"""Formats of text that is not prepared yet."""

KINDS = {
    "text": ("", ".txt", ".text"),
    "jsonl": (".jsonl", ".ndjson", ".jsonlines", ".json"),
    "parquet": (".parquet",),
}
"""How files are read -> the suffixes that say so, in any case. `pipeline.data.sources` has a function for each."""

TEXT_FIELD = "text"
"""The field that holds a document where nothing else is said."""

PACKINGS = {".gz": "gzip", ".zst": "zstd"}
"""Suffixes behind those, of what is unpacked while it is read."""


def suffixes(name: str) -> tuple[str, str]:
    """The suffix for the kind of a file, and the one of its packing; lower case, empty where there is none."""
    path = PurePosixPath(name.lower())
    packing = path.suffix if path.suffix in PACKINGS else ""
    return (path.with_suffix("") if packing else path).suffix, packing


def kind_of(name: str, asked: str = "auto") -> str | None:
    """How a file is read: as `asked`, else as its suffix says; None: the suffix says nothing."""
    if asked != "auto":
        return asked
    return next((kind for kind, known in KINDS.items() if suffixes(name)[0] in known), None)


def require_readable(names: Sequence[str], kind: str, text_field: str) -> None:
    """Raises `RequestError` for a file that nothing says how to read, and for a field that none of them has."""
    kinds = {name: kind_of(name, kind) for name in names}
    if unknown := next((name for name, found in kinds.items() if found is None), None):
        known = ", ".join(suffix for of_kind in KINDS.values() for suffix in of_kind if suffix)
        raise RequestError(
            f"{unknown}: of which kind is a file that ends in {suffixes(unknown)[0]}? Read are {known}, and with "
            f"{' and '.join(PACKINGS)} behind; say --data.kind {' or '.join(KINDS)}, or convert it"
        )
    if text_field != TEXT_FIELD and set(kinds.values()) == {"text"}:
        raise RequestError(f"--data.text_field is for {' and '.join(list(KINDS)[1:])}: {names[0]} is read as text")


def kind_anew(name: str, asked: str = "auto") -> str:
    """`kind_of`, where that is another than it was when runs got their names; else empty."""
    path = PurePosixPath(name)
    suffix = (path.with_suffix("") if path.suffix in (".zst", ".gz") else path).suffix
    before = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(suffix, "text")
    kind = kind_of(name, asked) or before
    return kind if kind != before else ""


_FILES = {entry.name for entry in VECTORS.values() if entry.from_files}
_Use = tuple[tuple[str, ...], str, Callable[[Mapping[str, Any]], object]]

_USES: tuple[_Use, ...] = (
    (
        ("path",),
        "--data.format text or shards and files of vectors",
        lambda data: data["format"] in ("text", "shards", *_FILES),
    ),
    (("revision", "files", "file_seed"), "--data.repo", lambda data: data["repo"]),
    (("text_field", "kind", "bad_lines", "max_document"), "--data.format text", lambda data: data["format"] == "text"),
    (
        ("tokens", "tokenizer", "workers"),
        "text that is not prepared yet (--data.format sotu or text)",
        lambda data: data["format"] in TEXT,
    ),
    (
        ("validation_fraction",),
        "text that is not prepared yet (--data.format sotu or text), and files of vectors",
        lambda data: data["format"] in TEXT or (data["format"] in _FILES and data["path"]),
    ),
    (("label_noise",), "vectors with classes", lambda data: data["format"] in VECTORS),
    (("normalize",), "files of vectors", lambda data: data["format"] in _FILES),
    (("d_in", "n_classes", "n_train"), "files of vectors (--data.path)", lambda data: data["format"] in _FILES),
    (("lanes", "era", "stall_seconds"), "--data.mode stream", lambda data: data["mode"] == "stream"),
)


def unused(data: Mapping[str, Any]) -> dict[str, str]:
    """Settings of the data section that this source has no use for -> in words, what has; `data` has at least format,
    path, repo and mode."""
    return {name: user for names, user, uses in _USES if not uses(data) for name in names}
