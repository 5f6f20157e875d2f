"""Fixtures shared by the tests: one data cache for the whole session, and a tiny run."""

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.training.health import STOP_SIGNALS

os.environ["WANDB_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job: so would be the runs that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data of the tests lives apart from the user's."""
    os.environ["PIPELINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _children() -> None:
    """A warning in a process that a test starts ends it, but for what libraries say of their own future. Not set before
    pytest starts its own workers."""
    theirs = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
    os.environ["PYTHONWARNINGS"] = ",".join(["error", *(f"ignore::{name}" for name in theirs)])


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """As they were: a verb that was called here ends with its stop signals ignored, which later children would inherit."""
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGINT)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred short paragraphs of plain text."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    words = ["the", "union", "of", "states", "and", "people", "ask", "what", "rate", "a", "wide", "network", "bears"]
    paragraphs = (
        " ".join(words[(i * 7 + j * (i % 5 + 1)) % len(words)] for j in range(20 + i % 30)) + f" {i}."
        for i in range(400)
    )
    path.write_text("\n\n".join(paragraphs))
    return path


@pytest.fixture
def tiny(text_file: Path, tmp_path: Path) -> RunConfig:
    """A run that trains in about a second."""
    return RunConfig(
        width=32,
        base_width=32,
        lr=1e-2,
        steps=12,
        warmup_steps=2,
        global_batch=4,
        seq_len=16,
        val_interval=5,
        val_sequences=8,
        checkpoint_interval=4,
        out=str(tmp_path / "runs"),
        study="tests",
        wandb="disabled",
        model=ModelConfig(n_layer=2, head_size=16, vocab_size=300),
        data=DataConfig(name="corpus", format="text", path=str(text_file), validation_fraction=0.2),
    )


def changed(config: RunConfig, **changes: object) -> RunConfig:
    """`dataclasses.replace` where model settings may be given as ``model_n_layer=1``."""
    model = {key.removeprefix("model_"): changes.pop(key) for key in list(changes) if key.startswith("model_")}
    return dataclasses.replace(config, **changes, model=dataclasses.replace(config.model, **model))


def rewrite_manifest(checkpoint: Path, **changes: Any) -> None:
    """Put something else into the manifest of a checkpoint, whose checksum then is right."""
    file = checkpoint / "manifest.json"
    content = json.loads(file.read_text()) | changes
    del content["checksum"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(content | {"checksum": checksum}))
