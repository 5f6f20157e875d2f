"""What there is to export of a run: the weights of its last checkpoint, and the tokenizer of its data."""

import sys
from dataclasses import dataclass
from pathlib import Path

import litgpt
import torch
from torch import Tensor

from pipeline.cache import cache_root
from pipeline.config import RunConfig
from pipeline.data.shards import TOKENIZER, read_manifest
from pipeline.entries.kinds import KINDS
from pipeline.entries.load import load
from pipeline.errors import RequestError
from pipeline.files import file_sha256
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.training.checkpoint.files import Checkpoint, newest


@dataclass(frozen=True)
class Exportable:
    """What an export takes from a run."""

    run: RunDir
    config: RunConfig
    architecture: litgpt.Config
    step: int
    """Of the checkpoint."""
    data_fingerprint: str
    weights: dict[str, Tensor]
    """By litgpt's parameter names."""


def exportable(run: RunDir) -> Exportable:
    """Raises `RequestError` where there is nothing that can be exported."""
    config = _config(run)
    checkpoint = _checkpoint(run, config)
    weights = {
        name.removeprefix("model."): checkpoint.tensor(name) for name in checkpoint.shapes if name.startswith("model.")
    }
    if config.model.tie_embeddings:  # litgpt and transformers keep two tensors
        weights["transformer.wte.weight"] = weights["lm_head.weight"].clone()
    architecture = load(f"{config.kind.module}:litgpt_config")(config.model, config.width, config.seq_len)
    _check_weights(weights, architecture, run)
    return Exportable(run, config, architecture, checkpoint.step, checkpoint.state["data"]["manifest"], weights)


def _config(run: RunDir) -> RunConfig:
    if not run.path.is_dir():
        raise RequestError(f"no such run: {run.path}")
    if not run.config_file.exists():
        raise RequestError(f"{run.path} is not a run (it has no config.yaml): give one, such as runs/STUDY/RUN")
    config = run.config()
    if not config.kind.exported:
        known = " and ".join(kind.plural for kind in KINDS.values() if kind.exported)
        raise RequestError(f"{run.path} trained {config.kind.singular}: only {known} are exported")
    return config


def _checkpoint(run: RunDir, config: RunConfig) -> Checkpoint:
    checkpoint, complaints = newest(run.checkpoints)
    if checkpoint is None and complaints:
        raise RequestError(f"{complaints[0]}: delete {run.path} to run it again")
    if checkpoint is None:
        raise RequestError(f"{run.path} has no checkpoint: {_why_no_checkpoint(run.result(), config)}")
    for complaint in complaints:
        print(f"{complaint}; taking step {checkpoint.step}", file=sys.stderr)
    return checkpoint


def _why_no_checkpoint(result: RunResult | None, config: RunConfig) -> str:
    if result is None:
        first = min(config.checkpoint_interval, config.last_step)
        return f"it has not come to its first, at step {first}; the same pipeline train command continues it"
    if not config.keep_checkpoint:
        return "it ran with --keep_checkpoint false; delete it and run it again with true"
    if result.status == "diverged":
        return f"it diverged at step {result.diverged_at}, before its first"
    return "it was deleted; delete the run to run it again"


def _check_weights(weights: dict[str, Tensor], architecture: litgpt.Config, run: RunDir) -> None:
    with torch.device("meta"):
        expected = litgpt.GPT(architecture).state_dict()
    for name in sorted(weights.keys() | expected.keys()):
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape:
            raise RequestError(
                f"checkpoint {run.checkpoint} is not of the model in config.yaml ({name} differs): "
                f"delete {run.path} to run it again"
            )


def tokenizer_of(config: RunConfig, data_fingerprint: str) -> Path | None:
    """The tokenizer.json of the data that the run trained on, among the data prepared here; None if it is gone."""
    data = config.data
    folders = [Path(data.path)] if data.format == "shards" else sorted(cache_root().glob(f"{data.name}-*"))
    tokenizers = {}
    for folder in folders:
        try:
            manifest = read_manifest(folder)
            tokenizer = manifest["tokenizer"]
            if data.mode == "stream":  # its own fingerprint is of its files; prepared is the validation split alone
                mine = manifest["name"] == data.name and set(manifest["splits"]) == {"val"}
                mine &= tokenizer["name"] == data.tokenizer
            else:
                mine = manifest["fingerprint"] == data_fingerprint
            if mine and file_sha256(folder / TOKENIZER) == tokenizer["sha256"]:
                tokenizers[tokenizer["sha256"]] = folder / TOKENIZER
        except (RequestError, OSError, KeyError):
            continue
    return next(iter(tokenizers.values())) if len(tokenizers) == 1 else None  # of two that differ either may be its
