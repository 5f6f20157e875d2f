"""Publishing: from tokenized parts to the folder that training reads."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.data.preparing.parts import Job, Part, Tokenized, scanned
from pipeline.data.shards import TOKENIZER, Split, write_manifest
from pipeline.data.tokenizer import END_OF_TEXT
from pipeline.errors import RequestError
from pipeline.files import atomic, file_sha256, naming


def publish(folder: Path, job: Job, taken: Sequence[tuple[Part, Tokenized]], duplicates: int, ids: int) -> None:
    """Make the folder beside the parts, from links to them, and give it its name when it is whole."""
    final = folder.with_name(f".{folder.name}.final")
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    splits: dict[str, dict[str, Any]] = {split: {"documents": 0, "tokens": 0, "shards": []} for split in job.splits}
    sources: list[dict[str, Any]] = []
    left = job.config.tokens
    assert not isinstance(left, str)
    for part, result in taken:
        scan = scanned(job, part)
        assert scan is not None
        sources += scan[1]
        lengths = result.lengths[: _documents_up_to(result.lengths, job.counted, left)]
        left = None if left is None else left - result.counted
        for split in job.splits:
            mine = lengths[lengths < 0] if split == "val" else lengths[lengths > 0]
            if mine.size:
                entry, tokens = splits[split], int(abs(mine).sum())
                entry["documents"] += int(mine.size)
                entry["tokens"] += tokens
                entry["shards"].append(_shard(final, job, part, split, len(entry["shards"]), tokens))
    _share_if_one_has_all(final, job, splits)
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


def _share_if_one_has_all(final: Path, job: Job, splits: dict[str, dict[str, Any]]) -> None:
    """Few documents, as a text without blank lines is a single one, may all fall into one split: the last tokens of the
    last shard are for validation then, all others for training."""
    filled = [name for name, entry in splits.items() if entry["shards"]]
    if len(splits) < 2 or len(filled) != 1:
        return
    shards: list[dict[str, Any]] = splits[filled[0]]["shards"]
    tokens = np.fromfile(final / shards[-1]["file"], dtype=job.dtype)
    cut = tokens.size - max(1, round(tokens.size * job.config.validation_fraction))
    if cut < 1:
        return
    (final / shards.pop()["file"]).unlink()  # which may be a link to what the second pass wrote
    for number, shard in enumerate(shards):
        (final / shard["file"]).rename(final / f"train-{number:05d}.bin")
        shard["file"] = f"train-{number:05d}.bin"
    pieces = {f"train-{len(shards):05d}.bin": tokens[:cut], "val-00000.bin": tokens[cut:]}
    for file, piece in pieces.items():
        with atomic(final / file) as stream:
            stream.write(piece.tobytes())
    last, tail = (
        {"file": file, "tokens": piece.size, "sha256": file_sha256(final / file)} for file, piece in pieces.items()
    )
    shards.append(last)
    documents = splits[filled[0]]["documents"]
    splits["train"] = {"documents": documents, "tokens": sum(s["tokens"] for s in shards), "shards": shards}
    splits["val"] = {"documents": 1, "tokens": tail["tokens"], "shards": [tail]}


def _copy(source: Path, target: Path, size: int | None = None) -> None:
    """Copy durably, at most `size` bytes."""
    shutil.copyfile(source, target)
    with naming(target), target.open("r+b") as stream:
        if size is not None:
            stream.truncate(size)
        os.fsync(stream.fileno())


def _request(config: DataConfig) -> dict[str, Any]:
    """What was asked for, beside what it led to; without what says how, not what."""
    names = ("format", "path", "repo", "revision", "files", "text_field", "file_seed", "tokens", "validation_fraction")
    new = [name for name in ("kind", "bad_lines") if getattr(config, name) != getattr(DataConfig, name)]
    return {name: getattr(config, name) for name in (*names, *new)}
