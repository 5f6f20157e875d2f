"""Text -> token shards on disk, once: digests, exact duplicates out, tokens, manifest last.

Two passes over the files, each in parallel processes. Which of several equal documents stays, and where the tokens end,
is decided between the passes and after them in the order of the source, so the shards do not depend on the number of
processes. A preparation that was interrupted, however it was, goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataConfig, RequestError
from pipeline.data.cache import cache_folder, cache_root, locked
from pipeline.data.parts import (
    DIGEST,
    Digests,
    Job,
    Part,
    Tokenized,
    digest,
    is_validation,
    part_documents,
    scan,
    scanned,
    tokenize,
    tokenized,
)
from pipeline.data.progress import Progress
from pipeline.data.shards import FORMAT_VERSION, MANIFEST, TOKENIZER, Split, write_manifest
from pipeline.data.sources import COMPRESSIONS, Source, SourceFile, local_source
from pipeline.data.tokenizer import END_OF_TEXT, entries, find_tokenizer, load_tokenizer, train_bpe
from pipeline.files import file_sha256, write_atomic
from pipeline.processes import Workers, cores

PART_BYTES = 2**26  # small files are taken together up to this size
BPE_CHARS = 2**26  # a tokenizer is trained on the first training documents, up to so much text
SMALL = 2**25  # sources below this size are prepared in this process: starting others takes longer


def prepared_folder(config: DataConfig, vocab_size: int, splits: tuple[Split, ...] = ("train", "val")) -> Path:
    """Where the shards of this source, tokenizer and vocabulary are or will be; needs no network.

    The folder's name carries a hash of everything that the request says. For files here that includes their content; what
    a branch of a repository was is in the manifest.
    """
    return cache_root() / f"{config.name}-{_hash(_identity(config, vocab_size, splits))[:12]}"


def prepare(config: DataConfig, vocab_size: int, splits: tuple[Split, ...] = ("train", "val")) -> Path:
    """`prepared_folder`, prepared if it is not there yet; it appears whole or not at all.

    `splits` are those to keep; `config.tokens` counts the first of them. One process prepares, others that ask for the
    same wait for it. Raises `RequestError` for what the user must change, `OSError` where disk or network fail.
    """
    folder = prepared_folder(config, vocab_size, splits)
    partial = folder.with_name(f".{folder.name}.partial")
    if (folder / MANIFEST).exists() and not partial.exists():
        return folder
    with locked(cache_folder() / f".{folder.name}.lock"):
        if not (folder / MANIFEST).exists():
            _prepare(folder, partial, config, vocab_size, splits)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def open_source(config: DataConfig) -> Source:
    """The source's files, in the order in which they are taken. Raises `RequestError`."""
    if config.repo:
        from pipeline.data.hub import hub_source

        return hub_source(config)
    source = local_source(config)
    files = tuple(dataclasses.replace(file, sha256=_content_sha256(file)) for file in source.files)
    return dataclasses.replace(source, files=files)


def _identity(config: DataConfig, vocab_size: int, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Everything that the content of the prepared folder depends on."""
    if config.repo:
        source: Any = [config.repo, config.revision, config.files, config.text_field, config.file_seed]
    else:
        source = [file.sha256 for file in open_source(config).files]
    if config.tokenizer == "bpe":
        tokenizer = f"bpe {vocab_size}"
    else:
        path = Path(config.tokenizer)
        tokenizer = file_sha256(path) if path.is_file() else config.tokenizer
    return {
        "format_version": FORMAT_VERSION,
        "source": source,
        "format": config.format,
        "text_field": config.text_field,
        "tokenizer": tokenizer,
        "tokens": config.tokens,
        "validation_fraction": config.validation_fraction,
        "splits": splits,
    }


def _content_sha256(file: SourceFile) -> str:
    """A local file's sha256; of a large one it is remembered for as long as path, size and modification time stay."""
    path = Path(file.name).resolve()
    if file.size < SMALL:
        return file_sha256(path)
    state = path.stat()
    memory = cache_folder("sha256") / _hash([str(path), state.st_size, state.st_mtime_ns])
    if not memory.exists() or not re.fullmatch("[0-9a-f]{64}", memory.read_text(errors="replace")):
        write_atomic(memory, file_sha256(path))
    return memory.read_text()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# The whole of a preparation


def _prepare(folder: Path, partial: Path, config: DataConfig, vocab_size: int, splits: tuple[Split, ...]) -> None:
    source = open_source(config)
    _open_partial(partial, source, config)
    parts = list(_parts(source.files))
    job = Job(source, config, splits, "<u2", partial)
    _write_tokenizer(job, parts, vocab_size)
    ids = entries(load_tokenizer(partial / TOKENIZER))
    job = dataclasses.replace(job, dtype="<u2" if ids <= 2**16 else "<u4")
    workers = config.workers or cores()
    _check_disk(job, parts, workers)
    passes = _Passes(job, parts, workers)
    passes.run()
    taken = [(part, passes.done[part.index]) for part in parts[: passes.needed()]]
    duplicates = sum(int((~passes.kept[part.index]).sum()) for part, _ in taken)
    _publish(folder, job, taken, duplicates, ids)


def _open_partial(partial: Path, source: Source, config: DataConfig) -> None:
    """Make the folder of unfinished work, or empty it if that was begun on other files or with another tokenizer."""
    tokenizer = "bpe" if config.tokenizer == "bpe" else file_sha256(find_tokenizer(config.tokenizer))
    job = json.dumps([source.origin, [dataclasses.astuple(file) for file in source.files], tokenizer, PART_BYTES])
    note = partial / "job.json"
    if not note.exists() or note.read_bytes() != job.encode():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_atomic(note, job)
    for scratch in partial.glob(".*"):  # of processes that were killed
        scratch.unlink(missing_ok=True)


def _parts(files: Sequence[SourceFile]) -> Iterator[Part]:
    held: list[SourceFile] = []
    index = size = 0
    for file in files:
        if held and size + file.size > PART_BYTES:
            yield Part(index, tuple(held))
            held, index, size = [], index + 1, 0
        held.append(file)
        size += file.size
    yield Part(index, tuple(held))


def _write_tokenizer(job: Job, parts: Sequence[Part], vocab_size: int) -> None:
    path, marker = job.folder / TOKENIZER, job.folder / "tokenizer.sha256"
    if path.exists() and marker.exists() and file_sha256(path).encode() == marker.read_bytes():
        return
    if job.config.tokenizer == "bpe":
        write_atomic(path, train_bpe(_bpe_texts(job, parts), vocab_size).to_str(pretty=True))
    else:
        original = find_tokenizer(job.config.tokenizer)
        load_tokenizer(original)  # complains before anything is written
        write_atomic(path, original.read_text(encoding="utf-8"))
    write_atomic(marker, file_sha256(path))


def _bpe_texts(job: Job, parts: Sequence[Part]) -> Iterator[str]:
    """The first training documents."""
    chars = 0
    for part in parts:
        for document in part_documents(job, part):
            if not is_validation(digest(document), job.config.validation_fraction):
                yield document
                chars += len(document)
                if chars >= BPE_CHARS:
                    return


def _expected_tokens(job: Job, part: Part) -> float:
    """A guess, good within a factor 2: a token of English has 4 to 5 bytes, and packed text about 2."""
    packed = (*COMPRESSIONS, ".parquet")
    return sum(file.size * (0.5 if Path(file.name).suffix in packed else 0.23) for file in part.files)


def _check_disk(job: Job, parts: Sequence[Part], workers: int) -> None:
    """Refuse before the work starts what the disk cannot hold."""
    tokens = sum(_expected_tokens(job, part) for part in parts)
    if isinstance(asked := job.config.tokens, int):
        tokens = min(tokens, asked)
    there = sum(path.stat().st_size for path in job.folder.glob("part-*"))
    need = max(0.0, tokens * np.dtype(job.dtype).itemsize - there)
    if job.config.repo:  # downloads, deleted when they are tokenized
        need += min(sum(part.size for part in parts), (workers + 1) * max(part.size for part in parts))
    free = shutil.disk_usage(job.folder).free
    if need > free:
        raise RequestError(
            f"preparing {job.config.name} needs about {need / 1e9:,.1f} GB, and {job.folder.parent} has {free / 1e9:,.1f} "
            "GB free: set PIPELINE_CACHE to a larger disk or ask for fewer --tokens"
        )


@dataclass
class _Passes:
    """Runs both passes over as many parts as are needed, in parallel, and decides between them what is kept."""

    job: Job
    parts: Sequence[Part]
    workers: int
    seen: Digests = field(default_factory=lambda: np.empty(0, DIGEST))
    kept: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    done: dict[int, Tokenized] = field(default_factory=dict)
    running: dict["Future[None]", tuple[Callable[..., None], Part]] = field(default_factory=dict)
    started: set[tuple[str, int]] = field(default_factory=set)
    failed: dict[int, BaseException] = field(default_factory=dict)

    def run(self) -> None:
        """Until the parts that are needed are `done`."""
        in_this_process = sum(part.size for part in self.parts) < SMALL
        progress = Progress(self.job, sum(_expected_tokens(self.job, part) for part in self.parts))
        with Workers(0 if in_this_process else self.workers) as pool:
            while not self._complete():
                self._decide()
                self._submit(pool)
                finished, _ = wait(self.running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    what, part = self.running.pop(future)
                    if error := future.exception():
                        self.failed[part.index] = error
                    elif what is tokenize:
                        result = tokenized(self.job, part)
                        assert result is not None
                        self.done[part.index] = result
                        self._release(part)
                self._raise_what_matters()
                progress.show()
        progress.close()
        for _, index in self.started:
            if index not in self.done:  # begun, and not needed in the end
                self._release(self.parts[index])

    def _raise_what_matters(self) -> None:
        """A part that cannot be read is only trouble once the parts before it turn out not to be enough."""
        for index, error in self.failed.items():
            if index < self.needed() and all(before in self.done for before in range(index)):
                raise error

    def _release(self, part: Part) -> None:
        for file in part.files:
            self.job.source.release(file)

    def _complete(self) -> bool:
        needed = self.needed()
        return needed <= len(self.parts) and all(index in self.done for index in range(needed))

    def needed(self) -> int:
        """How many parts, from the first, give the tokens asked for, as far as is known: those not done count as none."""
        asked, total = self.job.config.tokens, 0
        assert not isinstance(asked, str)
        if asked is not None:
            for part in self.parts:
                total += self.done[part.index].counted if part.index in self.done else 0
                if total >= asked:
                    return part.index + 1
        return len(self.parts)

    def _decide(self) -> None:
        """Mark the first of equal documents as kept, part by part, as far as the parts in order are scanned."""
        while (index := len(self.kept)) < len(self.parts):
            if (
                ("scan", index) not in self.started
                or index in self.failed
                or any(part.index == index and what is scan for what, part in self.running.values())
            ):
                return
            found = scanned(self.job, self.parts[index])
            assert found is not None
            self.kept[index], self.seen = first_occurrences(found[0], self.seen)

    def _submit(self, pool: Workers) -> None:
        """Keep every worker busy with the earliest work there is, and with nothing that will hardly be needed."""
        asked = self.job.config.tokens
        expected = 0.0
        for part in self.parts:
            if len(self.running) > self.workers or (isinstance(asked, int) and expected >= asked):
                return
            done = self.done.get(part.index)
            expected += done.counted if done else self._estimate(part)
            if ("scan", part.index) not in self.started:
                self._start(pool, scan, part)
            elif part.index in self.kept and ("tokenize", part.index) not in self.started:
                self._start(pool, tokenize, part, self.kept[part.index])

    def _start(self, pool: Workers, what: Callable[..., None], part: Part, *arguments: Any) -> None:
        self.started.add((what.__name__, part.index))
        self.running[pool.submit(what, self.job, part, *arguments)] = (what, part)

    def _estimate(self, part: Part) -> float:
        """Tokens of the counted split that a part will have: as the parts before it, else a guess."""
        size = sum(self.parts[index].size for index in self.done)
        if size:
            return part.size * sum(done.counted for done in self.done.values()) / size
        share = self.job.config.validation_fraction
        return _expected_tokens(self.job, part) * (share if self.job.counted == "val" else 1 - share)


def first_occurrences(digests: Digests, seen: Digests) -> tuple[NDArray[np.bool_], Digests]:
    """Which digests, in order, occur for the first time, and `seen` (sorted) with them added."""
    unique, first = np.unique(digests, return_index=True)
    places = np.searchsorted(seen, unique)
    new = np.ones(unique.size, dtype=bool)
    inside = places < seen.size
    new[inside] = seen[places[inside]] != unique[inside]
    kept = np.zeros(digests.size, dtype=bool)
    kept[first[new]] = True
    return kept, np.insert(seen, places[new], unique[new])


# ---------------------------------------------------------------------------------------------------------------------
# From parts to the folder that training reads


def _publish(folder: Path, job: Job, taken: Sequence[tuple[Part, Tokenized]], duplicates: int, ids: int) -> None:
    """Make the folder beside the parts, from links to them, and give it its name when it is whole."""
    final = folder.with_name(f".{folder.name}.final")
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    splits: dict[str, dict[str, Any]] = {split: {"documents": 0, "tokens": 0, "shards": []} for split in job.splits}
    sources: list[dict[str, Any]] = []
    left = job.config.tokens
    assert not isinstance(left, str)
    for part, result in taken:
        found = scanned(job, part)
        assert found is not None
        sources += found[1]
        lengths = result.lengths[: _documents_up_to(result.lengths, job.counted, left)]
        left = None if left is None else left - result.counted
        for split in job.splits:
            mine = lengths[lengths < 0] if split == "val" else lengths[lengths > 0]
            if mine.size:
                entry, tokens = splits[split], int(abs(mine).sum())
                entry["documents"] += int(mine.size)
                entry["tokens"] += tokens
                entry["shards"].append(_shard(final, job, part, split, len(entry["shards"]), tokens))
    for name, entry in splits.items():
        if not entry["shards"]:
            raise RequestError(
                f"--data {job.config.path or job.config.name}: no document falls into the {name} split; "
                "give more documents or another --data.validation_fraction"
            )
    _copy(job.folder / TOKENIZER, final / TOKENIZER)
    manifest = {
        "name": job.config.name,
        "license": job.config.license,
        "citation": job.config.citation,
        "request": _request(job.config),
        "source": {**job.source.origin, "files": sources},
        "duplicates_removed": duplicates,
        "dtype": job.dtype,
        "tokenizer": {
            "file": TOKENIZER,
            "name": job.config.tokenizer,
            "entries": ids,
            "end_of_text": END_OF_TEXT,
            "sha256": file_sha256(final / TOKENIZER),
        },
        "splits": splits,
    }
    write_manifest(final, manifest)
    shutil.rmtree(folder, ignore_errors=True)  # a folder of that name without a manifest
    final.rename(folder)


def _documents_up_to(lengths: NDArray[np.int64], counted: Split, asked: int | None) -> int:
    """How many of a part's documents it takes to have `asked` tokens in the counted split; all, where it has fewer."""
    if asked is None:
        return int(lengths.size)
    mine = np.where((lengths < 0) == (counted == "val"), abs(lengths), 0)
    return int(np.searchsorted(np.cumsum(mine), asked)) + 1


def _shard(final: Path, job: Job, part: Part, split: Split, number: int, tokens: int) -> dict[str, Any]:
    """One part's tokens of a split as a shard: a link to what the second pass wrote, or a copy of its beginning."""
    whole, file = job.file(part, split), final / f"{split}-{number:05d}.bin"
    size = tokens * np.dtype(job.dtype).itemsize
    try:
        if whole.stat().st_size != size:
            raise OSError
        os.link(whole, file)
    except OSError:  # to be cut, or on a file system without links
        _copy(whole, file, size)
    return {"file": file.name, "tokens": tokens, "sha256": file_sha256(file)}


def _copy(source: Path, target: Path, size: int | None = None) -> None:
    """Copy durably, at most `size` bytes."""
    shutil.copyfile(source, target)
    with target.open("r+b") as stream:
        if size is not None:
            stream.truncate(size)
        os.fsync(stream.fileno())


def _request(config: DataConfig) -> dict[str, Any]:
    """What was asked for, beside what it led to; without what says how, not what."""
    names = ("format", "path", "repo", "revision", "files", "text_field", "file_seed", "tokens", "validation_fraction")
    return {name: getattr(config, name) for name in names}
