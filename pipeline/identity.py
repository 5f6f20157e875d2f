"""A run's identity: which of its settings count, and the hash of them that ends its name.

A setting counts where it changes the mathematics of the run. One that is added later counts only where it differs from
its default, so that a study keeps its names while the settings grow; those of `SETTLED` count always, as they did when
names were settled. Files count by what they hold, not by how their path is spelled.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cache import content_sha256
from pipeline.entries.losses import LOSSES
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.entries.schedules import SCHEDULES
from pipeline.entries.texts import kind_anew, unused
from pipeline.entries.vectors import VECTORS
from pipeline.files import matching

Settings = Mapping[str, Any]
"""Flat: ``{"width": 256, "model.n_layer": 6, ...}``, of plain values."""

SETTLED = frozenset({
    "width", "param", "lr", "optimizer", "loss", "z_loss", "seed", "steps", "warmup_steps", "lr_min_ratio",
    "global_batch", "seq_len", "precision", "val_sequences",
    "base_width", "embedding_init", "readout_init", "depth_scaling", "base_depth",
    "weight_decay", "weight_decay_scaling", "betas", "eps", "momentum", "grad_clip",
    "model.kind", "model.n_layer", "model.activation", "model.name", "model.head_size", "model.kv_heads",
    "model.mlp_ratio", "model.vocab_size", "model.qk_norm", "model.train_norms",
    "mult.input_init", "mult.hidden_init", "mult.output_init",
    "mult.input_lr", "mult.vector_lr", "mult.hidden_lr", "mult.output_lr", "mult.finite_lr",
    "data.name", "data.format", "data.path", "data.repo", "data.revision", "data.files", "data.text_field",
    "data.file_seed", "data.tokens", "data.tokenizer", "data.validation_fraction",
    "data.mode", "data.lanes", "data.era",
})  # fmt: skip

# What does not change the mathematics of a run: where it goes, what it runs on, what it writes and how often; and what
# was found in the data's files, whose content counts.
ELSEWHERE = frozenset({
    "out", "study", "mirrors", "devices", "num_nodes", "strategy", "micro_batch",
    "log_interval", "val_interval", "checkpoint_interval", "checkpoint_minutes", "keep_last", "keep_checkpoint",
    "abort_after", "stall_minutes", "branch_steps",
    "data.d_in", "data.n_classes", "data.n_train",
    "data.license", "data.citation", "data.workers", "data.write_through", "data.stall_seconds", "data.max_document",
})  # fmt: skip
ELSEWHERE_SECTIONS = ("diagnostics.", "wandb.")


def counted(settings: Settings, defaults: Settings) -> dict[str, Any]:
    """The settings that may change the mathematics, as they were given, without new ones at their defaults."""
    return {
        key: value
        for key, value in settings.items()
        if key in SETTLED
        or (key == "micro_batch" and LOSSES[settings["loss"]].of_micro_batch)
        or (key not in ELSEWHERE and not key.startswith(ELSEWHERE_SECTIONS) and value != defaults.get(key))
    }


def config_hash(settings: Settings, defaults: Settings) -> str:
    """8 hex digits over the settings that change the mathematics of this very run: `counted`, without new ones that are
    idle in it and with settled ones that are at their defaults, files by their content."""
    idle, sources = _idle(settings), _sources(settings)
    known = {
        key: defaults[key] if key in idle else value
        for key, value in counted(settings, defaults).items()
        if key in SETTLED or key not in idle
    }
    if "data.path" in sources:  # says how its files are read
        known.pop("data.kind", None)
    return _digest(known | sources)


def older_hash(settings: Settings, defaults: Settings) -> str:
    """The same as it was before idle settings and the spelling of paths were left out: runs named by it keep their
    names."""
    return _digest(counted(settings, defaults))


def _digest(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _idle(settings: Settings) -> set[str]:
    """Settings that change nothing beside these others."""
    said = {name: settings[f"data.{name}"] for name in ("format", "mode", "repo", "path")}
    idle = {f"data.{name}" for name in unused(said)}
    own = OPTIMIZERS[settings["optimizer"]].settings
    idle |= {name for entry in OPTIMIZERS.values() for name in entry.settings if name not in own}
    if not settings["weight_decay"]:
        idle |= {"weight_decay_scaling"}
    if settings.get("stop_after") == settings["steps"]:
        idle |= {"stop_after"}
    if settings["depth_scaling"] == "none":
        idle |= {"base_depth"}
    idle |= {name for entry in SCHEDULES.values() for name in entry.settings} - SCHEDULES[settings["schedule"]].settings
    return idle


def _sources(settings: Settings) -> dict[str, Any]:
    """What the files that the settings name hold; nothing for files that are not here, which stay known by their
    paths."""
    found: dict[str, Any] = {}
    if path := settings["data.path"]:
        if settings["data.format"] == "shards":
            content: Any = _prepared(path)
        elif settings["data.format"] in VECTORS:
            content = _vectors(path)
        else:
            content = _files(path, settings["data.kind"])
        if content is not None:
            found |= {"data.path": content, "data.name": ""}
    if settings["data.repo"] and settings["data.kind"] == "auto" and (kind := kind_anew(settings["data.files"])):
        found["data.kind"] = kind
    tokenizer = Path(settings["data.tokenizer"])
    if settings["data.format"] != "shards" and tokenizer.is_file():
        found["data.tokenizer"] = content_sha256(tokenizer)
    return found


def _files(pattern: str, kind: str) -> list[list[str]] | None:
    """Suffixes and checksums, in the order of reading; and how a file is read, where names are older than that."""
    return [
        ["".join(path.suffixes), content_sha256(path), *filter(None, [kind_anew(path.name, kind)])]
        for path in matching(pattern)
    ] or None


def _vectors(path: str) -> list[list[str]] | None:
    """Splits and checksums, in the order of reading."""
    from pipeline.vectors.find import source_files  # not for text, which needs no numpy yet

    return [[split, content_sha256(file)] for split, file in source_files(path)] or None


def _prepared(folder: str) -> str | None:
    """The fingerprint of prepared shards."""
    try:
        return str(json.loads((Path(folder) / "manifest.json").read_bytes())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whoever opens it says what is wrong with it
