"""Exports: a run's checkpoint as a folder that litgpt and, where it knows the architecture, transformers load."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import litgpt
import torch
from torch import Tensor

from pipeline import __version__
from pipeline.cache import cache_root
from pipeline.cli.arguments import RequestParser
from pipeline.config import RunConfig, config_hash
from pipeline.data.shards import TOKENIZER, read_manifest
from pipeline.errors import RequestError
from pipeline.export.neox import WEIGHTS, beyond_neox, write_neox, write_tokenizer, write_weights
from pipeline.files import atomic, file_sha256, write_atomic
from pipeline.models.gpt import litgpt_config
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.training.checkpoint.files import newest

LIT_MODEL = "lit_model.pth"
NOTE = "export.json"


@dataclass(frozen=True)
class Exportable:
    """What an export takes from a checkpoint."""

    step: int
    data_fingerprint: str
    weights: dict[str, Tensor]
    """By litgpt's parameter names."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    folder: Path
    step: int
    files: tuple[str, ...]
    """Relative to the folder."""
    left_out: tuple[str, ...]
    """What was not written and why, one line each."""


def export(run_dir: Path, out: Path, *, lit_model: bool = False) -> Exported:
    """Write the last checkpoint of a GPT's run to the folder `out`, which appears whole or not at all.

    The folder holds litgpt's parameters (model.safetensors, in the checkpoint's dtype) and model_config.yaml; hf/ where
    transformers' GPTNeoX is the same model; the tokenizer of the run's data where the data cache has it; and
    export.json. With `lit_model` also lit_model.pth, the copy of the weights that litgpt's own commands read. An
    earlier export of the same step is replaced. Raises `RequestError` for what the user must change, `OSError` where
    the disk fails.
    """
    run = RunDir(run_dir)
    config = _config(run)
    checkpoint = _checkpoint(run, config)
    architecture = litgpt_config(config.model, config.width, config.seq_len)
    _check_weights(checkpoint.weights, architecture, run)
    _check_free(out, config, checkpoint.step)
    tokenizer = _find_tokenizer(config, checkpoint.data_fingerprint)
    obstacles = beyond_neox(architecture)
    with _whole(out) as scratch:
        _write_litgpt(scratch, checkpoint.weights, architecture, lit_model)
        if not obstacles:
            write_neox(scratch / "hf", checkpoint.weights, architecture, tokenizer)
        for folder in [scratch] if obstacles else [scratch, scratch / "hf"]:
            write_tokenizer(folder, tokenizer, config.seq_len)
        files = _seal(scratch)
        write_atomic(scratch / NOTE, json.dumps(_note(run, config, checkpoint, files), indent=2) + "\n")
    left_out = []
    if obstacles:
        left_out.append(f"no hf/: transformers' GPTNeoX has no {', '.join(obstacles)}")
    if tokenizer is None:
        left_out.append(f"no {TOKENIZER}: {_where_data_is(config)} has none of the data that the run trained on")
    return Exported(out, checkpoint.step, (*files, NOTE), tuple(left_out))


# ---------------------------------------------------------------------------------------------------------------------
# What there is to export


def _config(run: RunDir) -> RunConfig:
    if not run.path.is_dir():
        raise RequestError(f"no such run: {run.path}")
    if not run.config_file.exists():
        raise RequestError(f"{run.path} is not a run (it has no config.yaml): give one, such as runs/STUDY/RUN")
    config = run.config()
    if config.model.kind != "gpt":
        raise RequestError(f"{run.path} trained an MLP: only GPTs are exported")
    return config


def _checkpoint(run: RunDir, config: RunConfig) -> Exportable:
    checkpoint, complaints = newest(run.checkpoints)
    if checkpoint is None and complaints:
        raise RequestError(f"{complaints[0]}: delete {run.path} to run it again")
    if checkpoint is None:
        raise RequestError(f"{run.path} has no checkpoint: {_why_no_checkpoint(run.result(), config)}")
    for complaint in complaints:
        print(f"{complaint}; taking step {checkpoint.step}", file=sys.stderr)
    weights = {
        name.removeprefix("model."): checkpoint.tensor(name) for name in checkpoint.shapes if name.startswith("model.")
    }
    return Exportable(checkpoint.step, checkpoint.state["data"]["manifest"], weights)


def _why_no_checkpoint(result: RunResult | None, config: RunConfig) -> str:
    if result is None:
        first = min(config.checkpoint_interval, config.steps)
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
                f"checkpoint {run.checkpoint} is not of the model in config.yaml ({name} differs): delete {run.path} to "
                "run it again"
            )


def _find_tokenizer(config: RunConfig, data_fingerprint: str) -> Path | None:
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
    return next(iter(tokenizers.values())) if len(tokenizers) == 1 else None  # two that differ: either may be the run's


def _where_data_is(config: RunConfig) -> str:
    return config.data.path if config.data.format == "shards" else f"the data cache {cache_root()}"


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of `out`, whatever is there, when the block ends without an error."""
    place = out.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise RequestError(f"cannot write {out} ({error.strerror}): give another --out") from None
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        try:
            if place.exists():
                place.rename(old)
            new.rename(place)
        except BaseException:
            if old.exists():
                old.rename(place)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_free(out: Path, config: RunConfig, step: int) -> None:
    """Raises `RequestError` unless `out` is free, or holds nothing but an earlier export of this step."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RequestError(f"{out} is a file: give another --out")
    there = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if not there and not any(out.iterdir()):
        return
    try:
        note = json.loads((out / NOTE).read_bytes())
        held, files = (note["run"], note["step"]), {*note["files"], NOTE}
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(f"{out} is not empty, and holds no export: give another --out") from None
    if held != (config.run_name, step):
        raise RequestError(
            f"{out} holds the export of step {held[1]} of {held[0]}, not of step {step} of {config.run_name}: delete it or "
            "give another --out"
        )
    if strangers := sorted(there - files):
        raise RequestError(f"{out} holds {strangers[0]}, which is not of the export: move it or give another --out")


def _write_litgpt(folder: Path, weights: dict[str, Tensor], architecture: litgpt.Config, lit_model: bool) -> None:
    from litgpt.utils import save_config

    save_config(architecture, folder)
    write_weights(weights, folder / WEIGHTS)
    if lit_model:
        with atomic(folder / LIT_MODEL) as stream:
            torch.save(weights, stream)


def _seal(folder: Path) -> dict[str, str]:
    """Make what was written durable and readable; the sha256 of every file, by its path in the folder."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        path.chmod(0o644)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[str(path.relative_to(folder))] = file_sha256(path)
    return files


def _note(run: RunDir, config: RunConfig, checkpoint: Exportable, files: dict[str, str]) -> dict[str, Any]:
    """The content of export.json."""
    result = run.result()
    return {
        "run": config.run_name,
        "study": config.study,
        "step": checkpoint.step,
        "steps": config.steps,
        "status": result.status if result else "unfinished",
        "config_hash": config_hash(config),
        "param": config.param,
        "width": config.width,
        "lr": config.lr,
        "seed": config.seed,
        "dtype": str(checkpoint.weights["lm_head.weight"].dtype).removeprefix("torch."),
        "data_fingerprint": checkpoint.data_fingerprint,
        "trained_with": run.recorded().get("versions", {}),
        "versions": {"pipeline": __version__}
        | {name: metadata.version(name) for name in ("torch", "litgpt", "safetensors", "transformers")},
        "files": files,
    }


# ---------------------------------------------------------------------------------------------------------------------
# The verb


def how_to_load(exported: Exported) -> list[str]:
    """Lines of Python, each after the name of the library that loads the export with it."""
    folder = exported.folder
    lines = [
        f"litgpt: gpt = litgpt.GPT(litgpt.Config.from_checkpoint(pathlib.Path({str(folder)!r}))); "
        f"gpt.load_state_dict(safetensors.torch.load_file({str(folder / WEIGHTS)!r}))"
    ]
    if f"hf/{WEIGHTS}" in exported.files:
        lines.append(f"transformers: AutoModelForCausalLM.from_pretrained({str(folder / 'hf')!r})")
    if LIT_MODEL in exported.files and TOKENIZER in exported.files:
        lines.append(f"litgpt's API: litgpt.LLM.load({str(folder.resolve())!r})")
    return lines


def main(argv: Sequence[str]) -> int:
    """`pipeline export RUN_DIR [--out FOLDER] [--lit_model]`. Raises `RequestError` for a wrong request."""
    parser = RequestParser(
        prog="pipeline export",
        description="The last checkpoint of a GPT's run as a folder that litgpt loads, and transformers where it can.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="runs/STUDY/RUN")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="default: RUN_DIR/export")
    parser.add_argument(
        "--lit_model",
        action="store_true",
        help="also lit_model.pth, a second copy of the weights, for litgpt's commands and litgpt.LLM.load",
    )
    flags = parser.parse_args(argv)
    exported = export(flags.run, flags.out or flags.run / "export", lit_model=flags.lit_model)
    print(f"exported step {exported.step} to {exported.folder}: {', '.join(exported.files)}")
    print(*exported.left_out, *how_to_load(exported), sep="\n")
    return 0
