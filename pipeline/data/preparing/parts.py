"""Parts of a source, and the two passes over one, each a task for a worker: digests of its documents, then tokens.

A part is a file, or neighbouring small files. What a pass makes appears whole, its JSON last, in a folder that keeps
the work of an interrupted preparation; a pass whose output is there and undamaged is not done again.
"""

import hashlib
import itertools
import json
import struct
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.data.shards import Split
from pipeline.data.sources import Source, SourceFile, documents
from pipeline.data.tokenizer import encode, load_tokenizer
from pipeline.errors import RequestError
from pipeline.files import atomic, file_sha256, write_atomic

Digests = NDArray[np.bytes_]
DIGEST = np.dtype("S16")
"""The first half of a document's sha256: equal documents are found by it, and its first 8 bytes choose the split."""


@dataclass(frozen=True)
class Part:
    """One unit of work: files of the source, in order."""

    index: int
    files: tuple[SourceFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Job:
    """What all parts of a preparation share."""

    source: Source
    config: DataConfig
    splits: tuple[Split, ...]
    dtype: str
    folder: Path
    """Holds tokenizer.json and what the passes make."""

    @property
    def counted(self) -> Split:
        """The split that `config.tokens` counts."""
        return self.splits[0]

    def file(self, part: Part, kind: str) -> Path:
        return self.folder / f"part-{part.index:05d}.{kind}"


def digest(document: str) -> bytes:
    return hashlib.sha256(document.encode()).digest()[:16]


def is_validation(document: bytes, fraction: float) -> bool:
    """Whether the document with this digest belongs to the validation split: a pure function of its text."""
    return int.from_bytes(document[:8], "big") < fraction * 2**64


def part_documents(job: Job, part: Part) -> Iterator[str]:
    """Those of all files, in order."""
    for file in part.files:
        with job.source.open(file) as path:
            yield from documents(path, job.config)


# ---------------------------------------------------------------------------------------------------------------------
# First pass


def scan(job: Job, part: Part) -> None:
    """Write the digest of every document of the part, for the search for duplicates."""
    if scanned(job, part) is not None:
        return
    sources: list[dict[str, Any]] = []
    with atomic(job.file(part, "digests")) as stream:
        for file in part.files:
            before, skipped = stream.tell(), Counter[str]()
            with job.source.open(file) as path:
                for document in documents(path, job.config, skipped):
                    stream.write(digest(document))
                sha256 = file_sha256(path)
            if file.sha256 not in (None, sha256):
                raise RequestError(f"{file.name} changed while it was read: prepare again")
            count = (stream.tell() - before) // DIGEST.itemsize
            sources.append({"name": file.name, "size": file.size, "sha256": sha256, "documents": count})
            if skipped:
                sources[-1]["skipped_lines"] = skipped.total()
    _finish(job, part, "scan", {"sources": sources}, ["digests"])


def scanned(job: Job, part: Part) -> tuple[Digests, list[dict[str, Any]]] | None:
    """What `scan` wrote: digests of the documents in order, and the files; None if it has to run."""
    marker = _finished(job, part, "scan")
    if marker is None:
        return None
    return np.fromfile(job.file(part, "digests"), dtype=DIGEST), marker["sources"]


# ---------------------------------------------------------------------------------------------------------------------
# Second pass


def tokenize(job: Job, part: Part, kept: NDArray[np.bool_]) -> None:
    """Write the tokens of the part's documents that are `kept`, split by split, and how many each document has.

    Stops where the counted split alone has all the tokens that are asked for.
    """
    if tokenized(job, part) is not None:
        return
    tokenizer = load_tokenizer(job.folder / "tokenizer.json")
    asked = job.config.tokens
    assert not isinstance(asked, str)
    chosen: deque[Split] = deque()  # the splits of the documents that are in the tokenizer

    def texts(expected: IO[bytes]) -> Iterator[str]:
        for document, keep in itertools.zip_longest(part_documents(job, part), kept):
            key = digest(document) if document is not None else b""
            if keep is None or key != expected.read(DIGEST.itemsize):
                raise RequestError(f"{part.files[0].name} changed while it was read: prepare again")
            split: Split = "val" if is_validation(key, job.config.validation_fraction) else "train"
            if keep and split in job.splits:
                chosen.append(split)
                yield document

    counted = 0
    with ExitStack() as stack:
        streams = {split: stack.enter_context(atomic(job.file(part, split))) for split in job.splits}
        lengths = stack.enter_context(atomic(job.file(part, "lengths")))
        expected = stack.enter_context(job.file(part, "digests").open("rb"))
        for tokens in encode(tokenizer, texts(expected)):
            split = chosen.popleft()
            streams[split].write(tokens.astype(job.dtype).tobytes())
            lengths.write(struct.pack("<q", -tokens.size if split == "val" else tokens.size))
            counted += tokens.size if split == job.counted else 0
            if asked is not None and counted >= asked:
                break
    _finish(job, part, "tokens", {"counted": counted}, [*job.splits, "lengths"])


@dataclass(frozen=True)
class Tokenized:
    """What `tokenize` made of a part."""

    lengths: NDArray[np.int64]
    """Tokens of each document in order, negative in the validation split."""
    counted: int
    """Tokens of the counted split."""


def tokenized(job: Job, part: Part) -> Tokenized | None:
    """None if `tokenize` has to run."""
    marker = _finished(job, part, "tokens")
    if marker is None:
        return None
    return Tokenized(np.fromfile(job.file(part, "lengths"), dtype="<i8"), marker["counted"])


# ---------------------------------------------------------------------------------------------------------------------
# Markers


# The checksum stands before the JSON, not in it as in `pipeline.sealed`: markers of interrupted preparations count on.


def _finish(job: Job, part: Part, what: str, content: dict[str, Any], kinds: list[str]) -> None:
    sha256 = {kind: file_sha256(job.file(part, kind)) for kind in kinds}
    text = json.dumps({**content, "sha256": sha256})
    write_atomic(job.file(part, f"{what}.json"), f"{hashlib.sha256(text.encode()).hexdigest()} {text}")


def _finished(job: Job, part: Part, what: str) -> dict[str, Any] | None:
    """The pass's marker, if it is there and whole and the files are as it says."""
    try:
        checksum, _, text = job.file(part, f"{what}.json").read_text().partition(" ")
        if hashlib.sha256(text.encode()).hexdigest() != checksum:
            return None
        marker: dict[str, Any] = json.loads(text)
        if any(file_sha256(job.file(part, kind)) != sha256 for kind, sha256 in marker["sha256"].items()):
            return None
    except (OSError, UnicodeError):
        return None
    return marker
