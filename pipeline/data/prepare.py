"""Text -> token shards on disk, once: split by document hash, tokenize, write, manifest last."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.config import DataConfig, RequestError
from pipeline.data.shards import FORMAT_VERSION, MANIFEST, Split, file_sha256
from pipeline.data.sources import documents, source_sha256

END_OF_TEXT = "<|endoftext|>"
SHARD_TOKENS = 2**27


def cache_root() -> Path:
    """$PIPELINE_CACHE, else the user's cache folder."""
    if root := os.environ.get("PIPELINE_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "width-scaling-pipeline"


def prepare(config: DataConfig, vocab_size: int) -> Path:
    """The folder of token shards for this source, tokenizer and vocabulary; prepared if it is not there yet.

    The folder's name carries a hash of everything that its content depends on, and it appears whole or not at all.
    Raises `RequestError`.
    """
    identity = {
        "format_version": FORMAT_VERSION,
        "source_sha256": source_sha256(config),
        "tokenizer": config.tokenizer if config.tokenizer == "bpe" else file_sha256(_tokenizer_file(config)),
        "vocab_size": vocab_size,
        "validation_fraction": config.validation_fraction,
        "format": config.format,
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = cache_root() / f"{config.name}-{fingerprint[:12]}"
    if (folder / MANIFEST).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise RequestError(
            f"cannot write the data cache {folder.parent} ({error.strerror}): set PIPELINE_CACHE"
        ) from None
    try:
        _write(scratch, config, vocab_size, {"fingerprint": fingerprint, **identity})
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:  # another process prepared the same folder first
            if not (folder / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def is_validation(document: str, fraction: float) -> bool:
    """Whether a document belongs to the validation split: a pure function of its text."""
    draw = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big")
    return draw < fraction * 2**64


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_size` entries or fewer (short texts have fewer merges), end-of-text first."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise RequestError(f"--model.vocab_size {vocab_size} is too small for a byte-level BPE: use 257 or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _tokenizer_file(config: DataConfig) -> Path:
    path = Path(config.tokenizer)
    if not path.is_file():
        raise RequestError(f"--data.tokenizer {config.tokenizer}: no such file (give bpe or a tokenizer.json)")
    return path


def _load_tokenizer(config: DataConfig, vocab_size: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(config.tokenizer)
    except Exception as error:  # the library raises bare Exception on a malformed file
        raise RequestError(f"--data.tokenizer {config.tokenizer} is not a tokenizer.json: {error}") from None
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise RequestError(f"--data.tokenizer {config.tokenizer} has no {END_OF_TEXT} token")
    if tokenizer.get_vocab_size() > vocab_size:
        raise RequestError(
            f"--data.tokenizer has {tokenizer.get_vocab_size()} entries, more than --model.vocab_size {vocab_size}"
        )
    return tokenizer


def _write(folder: Path, config: DataConfig, vocab_size: int, identity: dict[str, Any]) -> None:
    texts: dict[Split, list[str]] = {"train": [], "val": []}
    for document in documents(config):
        texts["val" if is_validation(document, config.validation_fraction) else "train"].append(document)
    for split, members in texts.items():
        if not members:
            raise RequestError(f"--data {config.path or config.name}: no document falls into the {split} split; "
                               "give more documents or another --data.validation_fraction")  # fmt: skip
    if config.tokenizer == "bpe":
        tokenizer = train_bpe(texts["train"], vocab_size)
    else:
        tokenizer = _load_tokenizer(config, vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))

    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    splits = {}
    for split, members in texts.items():
        shards: list[dict[str, Any]] = []
        for tokens in _shards(_encode(tokenizer, members), dtype):
            file = folder / f"{split}-{len(shards):05d}.bin"
            tokens.tofile(file)
            shards.append({"file": file.name, "tokens": tokens.size, "sha256": file_sha256(file)})
        splits[split] = {"documents": len(members), "tokens": sum(s["tokens"] for s in shards), "shards": shards}
    manifest = {
        **identity,
        "name": config.name,
        "license": config.license,
        "citation": config.citation,
        "dtype": dtype,
        "tokenizer": {
            "file": "tokenizer.json",
            "kind": identity["tokenizer"],
            "entries": tokenizer.get_vocab_size(),
            "sha256": file_sha256(folder / "tokenizer.json"),
        },
        "splits": splits,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[np.ndarray[Any, Any]]:
    """Token ids of each document, end-of-text appended."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    for start in range(0, len(texts), 256):
        for encoding in tokenizer.encode_batch_fast(texts[start : start + 256], add_special_tokens=False):
            yield np.array([*encoding.ids, end])


def _shards(pieces: Iterable[np.ndarray[Any, Any]], dtype: str) -> Iterator[np.ndarray[Any, Any]]:
    """Whole documents, gathered into shards of about SHARD_TOKENS."""
    held: list[np.ndarray[Any, Any]] = []
    size = 0
    for piece in pieces:
        held.append(piece.astype(dtype))
        size += piece.size
        if size >= SHARD_TOKENS:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)
