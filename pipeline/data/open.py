"""From a run's settings to its data, whatever the kind: what training reads, in order, and the validation split."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.data.batches import Batch, Shuffled, TrainingSamples
from pipeline.data.order import Samples
from pipeline.data.preparing.prepare import open_source, prepare, prepared_folder
from pipeline.data.preparing.vectors import prepare_vectors
from pipeline.data.shards import MANIFEST, read_manifest
from pipeline.data.vectors import Examples, load_examples
from pipeline.data.windows import TokenWindows
from pipeline.entries.losses import LOSSES
from pipeline.entries.vectors import Vectors
from pipeline.errors import RequestError


@dataclass(frozen=True)
class Data:
    """What a run trains on and is validated with, and a hash that changes with their content."""

    train: TrainingSamples
    val: Samples[Batch]
    fingerprint: str


def open_data(config: RunConfig) -> Data:
    """Open the run's data, preparing text first where that has not been done yet. Raises `RequestError`."""
    if (vectors := config.data.vectors) is not None:
        train, val = _examples(config, vectors)
        fingerprint = hashlib.sha256((train.sha256 + val.sha256).encode()).hexdigest()
        return Data(Shuffled(train, config.seed, config.global_batch, config.last_batch), val, fingerprint)
    if config.data.mode == "stream":
        return _open_stream(config)
    if config.data.repo:
        _require_prepared(config)
    folder = prepare(config.data, config.model.vocab_size)
    manifest = _check_vocabulary(folder, config)
    windows = TokenWindows(folder, "train", config.seq_len)
    return Data(
        Shuffled(windows, config.seed, config.global_batch),
        TokenWindows(folder, "val", config.seq_len),
        manifest["fingerprint"],
    )


def _examples(config: RunConfig, vectors: Vectors) -> tuple[Examples, Examples]:
    folder = prepare_vectors(config.data) if vectors.from_files else None
    values, noise = LOSSES[config.loss].scalar, config.data.label_noise
    train = load_examples(vectors, "train", label_noise=noise, values=values, folder=folder)
    return train, load_examples(vectors, "val", values=values, folder=folder)


def _require_prepared(config: RunConfig) -> None:
    """Hours of download and tokenizing are not for a training job to start unasked. Raises `RequestError`."""
    data, folder = config.data, prepared_folder(config.data, config.model.vocab_size)
    if not (folder / MANIFEST).exists():
        tokens = f" --tokens {data.tokens}" if data.tokens else ""
        raise RequestError(
            f"{data.name} is not prepared ({folder}): run pipeline data prepare {data.name}{tokens} first, with "
            "the settings of --data, or train with --data.mode stream"
        )


def _check_vocabulary(folder: Path, config: RunConfig) -> dict[str, Any]:
    manifest = read_manifest(folder)
    entries, rows = manifest["tokenizer"]["entries"], config.model.vocab_size
    if entries > rows:
        raise RequestError(f"--data.tokenizer has {entries} entries, more than --model.vocab_size {rows}")
    return manifest


def _open_stream(config: RunConfig) -> Data:
    """Training windows as they are read; validation windows from the first validation documents, prepared once."""
    from pipeline.data.streaming.stream import StreamedWindows

    # a little more than asked for, since the last window of a shard is seldom full
    tokens = (config.val_sequences + config.val_sequences // 50 + 8) * config.seq_len
    wanted = dataclasses.replace(config.data, mode="prepared", write_through="", tokens=tokens)
    validation = prepare(wanted, config.model.vocab_size, ("val",))
    manifest = _check_vocabulary(validation, config)
    source = open_source(config.data)
    train = StreamedWindows(
        source, config.data, validation, seq_len=config.seq_len, global_batch=config.global_batch, seed=config.seed
    )
    content = [manifest["fingerprint"], manifest["tokenizer"]["sha256"], [f.sha256 or f.name for f in source.files]]
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Data(train, TokenWindows(validation, "val", config.seq_len), fingerprint)
