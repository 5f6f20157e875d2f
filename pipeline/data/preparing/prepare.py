"""Preparation: text -> token shards on disk, once: digests, exact duplicates out, tokens, manifest last.

Two passes over the files, each in parallel processes. Which of several equal documents stays, and where the tokens end,
is decided between the passes and after them in the order of the source, so the shards do not depend on the number of
processes. A preparation that was interrupted, however it was, goes on where it stopped.
"""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import cache_folder, cache_root, content_sha256
from pipeline.config import DataConfig
from pipeline.console import plural
from pipeline.data.preparing.parts import Job, Part, digest, is_validation, part_documents
from pipeline.data.preparing.passes import Passes, expected_tokens
from pipeline.data.preparing.publish import publish
from pipeline.data.shards import FORMAT_VERSION, MANIFEST, TOKENIZER, Split, read_manifest
from pipeline.data.sources import Source, SourceFile, local_source
from pipeline.data.tokenizer import entries, load_tokenizer, train_bpe
from pipeline.entries.texts import kind_anew, kind_of
from pipeline.errors import RequestError
from pipeline.files import file_sha256, locked, write_atomic
from pipeline.processes import cores
from pipeline.sealed import json_sha256

PART_BYTES = 2**24  # small files are taken together up to this size
BPE_CHARS = 2**26  # a tokenizer is trained on the first training documents, up to so much text
FEW_TOKENS = 5_000_000  # sources with fewer are prepared in this process: starting others takes longer


def prepared_folder(config: DataConfig, vocab_size: int, splits: tuple[Split, ...] = ("train", "val")) -> Path:
    """Where the shards of this source, tokenizer and vocabulary are or will be; needs no network.

    Of shards that is the folder itself. Else its name carries a hash of everything that the request says. For files
    here that includes their content; what a branch of a repository was is in the manifest.
    """
    if config.format == "shards":
        return Path(config.path)
    return cache_root() / f"{config.name}-{json_sha256(_identity(config, vocab_size, splits))[:12]}"


def prepare(config: DataConfig, vocab_size: int, splits: tuple[Split, ...] = ("train", "val")) -> Path:
    """`prepared_folder`, prepared if it is text and not there yet; it appears whole or not at all.

    `splits` are those to keep; `config.tokens` counts the first of them. One process prepares, others that ask for the
    same wait for it. Raises `RequestError` for what the user must change, `OSError` where disk or network fail.
    """
    folder = prepared_folder(config, vocab_size, splits)
    partial = folder.with_name(f".{folder.name}.partial")
    if config.format == "shards" or ((folder / MANIFEST).exists() and not partial.exists()):
        return folder
    with locked(cache_folder() / f".{folder.name}.lock"):
        if not (folder / MANIFEST).exists():
            _prepare(folder, partial, config, vocab_size, splits)
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def open_source(config: DataConfig) -> Source:
    """The source's files, in the order in which they are taken. Raises `RequestError`."""
    if config.repo:
        from pipeline.data.hub.download import hub_source

        return hub_source(config)
    source = local_source(config)
    files = tuple(dataclasses.replace(file, sha256=content_sha256(Path(file.name))) for file in source.files)
    return dataclasses.replace(source, files=files)


def find_tokenizer(name: str) -> Path:
    """The tokenizer.json that ``--data.tokenizer NAME`` means: a file here, or a model repository's on the hub.

    Raises `RequestError`.
    """
    if Path(name).is_file():
        return Path(name)
    if name.endswith(".json") or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise RequestError(
            f"--data.tokenizer {name}: no such file (give bpe, a tokenizer.json or OWNER/NAME on the hub)"
        )
    from pipeline.data.hub.download import hub_file

    return hub_file(name, "tokenizer.json")


def _identity(config: DataConfig, vocab_size: int, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Everything that the content of the prepared folder depends on."""
    new: dict[str, Any] = {}  # what was added since folders got their names, where it changes something
    if config.repo:
        source: Any = [config.repo, config.revision, config.files, config.text_field, config.file_seed]
        if kind := config.kind if config.kind != "auto" else kind_anew(config.files):
            new["kind"] = kind
    else:
        files = open_source(config).files
        source = [file.sha256 for file in files]
        kinds = [kind_of(file.name, config.kind) for file in files]
        if config.format == "text" and set(kinds) != {"text"}:
            new["kinds"] = kinds
    if config.bad_lines != DataConfig.bad_lines:
        new["bad_lines"] = config.bad_lines
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
        **new,
    }


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
    few = sum(expected_tokens(job, part) for part in parts) < FEW_TOKENS
    workers = 0 if few else config.workers or cores()
    _check_disk(job, parts, workers)
    passes = Passes(job, parts, workers)
    passes.run()
    taken = [(part, passes.done[part.index]) for part in parts[: passes.needed()]]
    duplicates = sum(int((~passes.kept[part.index]).sum()) for part, _ in taken)
    publish(folder, job, taken, duplicates, ids)
    if skipped := sum(file.get("skipped_lines", 0) for file in read_manifest(folder)["source"]["files"]):
        print(f"{config.name}: skipped {plural(skipped, 'line')} that cannot be read", file=sys.stderr)


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
    """The first training documents; where all are for validation, the first of them."""
    chars = 0
    for validation in (False, True):
        for part in parts:
            for document in part_documents(job, part):
                if is_validation(digest(document), job.config.validation_fraction) == validation:
                    yield document
                    chars += len(document)
                    if chars >= BPE_CHARS:
                        return
        if chars:
            return


def _check_disk(job: Job, parts: Sequence[Part], workers: int) -> None:
    """Refuse before the work starts what the disk cannot hold."""
    tokens = sum(expected_tokens(job, part) for part in parts)
    if isinstance(asked := job.config.tokens, int):
        tokens = min(tokens, asked)
    there = sum(path.stat().st_size for path in job.folder.glob("part-*"))
    need = max(0.0, tokens * np.dtype(job.dtype).itemsize - there)
    if job.config.repo:  # downloads, deleted when they are tokenized
        need += min(sum(part.size for part in parts), (workers + 1) * max(part.size for part in parts))
    free = shutil.disk_usage(job.folder).free
    if need > free:
        raise RequestError(
            f"preparing {job.config.name} needs about {need / 1e9:,.1f} GB, and {job.folder.parent} has "
            f"{free / 1e9:,.1f} GB free: set PIPELINE_CACHE to a larger disk or ask for fewer --tokens"
        )
