"""Exports: a run's checkpoint as a folder that litgpt loads, and transformers where it knows the model, else torch."""

from dataclasses import dataclass
from pathlib import Path

import litgpt
import torch
from torch import Tensor

from pipeline.cache import cache_root
from pipeline.data.shards import TOKENIZER
from pipeline.export.exportable import exportable, tokenizer_of
from pipeline.export.families import nearest
from pipeline.export.folder import check_free, finished, whole
from pipeline.export.hf import WEIGHTS, write_hf, write_tokenizer, write_weights
from pipeline.export.note import NOTE, write_note
from pipeline.export.plain_folder import MODEL, write_plain
from pipeline.files import atomic
from pipeline.run.directory import RunDir

LIT_MODEL = "lit_model.pth"


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
    one of transformers' models is the same (`pipeline.export.families`), else torch/, a model in plain torch
    (`pipeline.export.plain`); the tokenizer of the run's data where the data cache has it; and export.json. With
    `lit_model` also lit_model.pth, the copy of the weights that litgpt's own commands read. An earlier export of the
    same step is replaced. Raises `RequestError` for what the user must change, `OSError` where the disk fails.
    """
    what = exportable(RunDir(run_dir))
    check_free(out, what.config.run_name, what.step)
    tokenizer = tokenizer_of(what.config, what.data_fingerprint)
    family, lacks = nearest(what.architecture)
    with whole(out) as scratch:
        _write_litgpt(scratch, what.weights, what.architecture, lit_model)
        if lacks:
            write_plain(scratch / "torch", what.weights, what.architecture)
        else:
            write_hf(scratch / "hf", what.weights, what.architecture, family, tokenizer)
        for folder in [scratch] if lacks else [scratch, scratch / "hf"]:
            write_tokenizer(folder, tokenizer, what.config.seq_len)
        files = finished(scratch)
        write_note(scratch, what, files)
    left_out = []
    if lacks:
        nearest_one = f"transformers' {family.name} comes nearest and has no {', '.join(lacks)}"
        left_out.append(f"torch/ instead of hf/: {nearest_one}")
    if tokenizer is None:
        data = what.config.data
        place = data.path if data.format == "shards" else f"the data cache {cache_root()}"
        left_out.append(f"no {TOKENIZER}: {place} has none of the data that the run trained on")
    return Exported(out, what.step, (*files, NOTE), tuple(left_out))


def _write_litgpt(folder: Path, weights: dict[str, Tensor], architecture: litgpt.Config, lit_model: bool) -> None:
    from litgpt.utils import save_config

    save_config(architecture, folder)
    write_weights(weights, folder / WEIGHTS)
    if lit_model:
        with atomic(folder / LIT_MODEL) as stream:
            torch.save(weights, stream)


def how_to_load(exported: Exported) -> list[str]:
    """Lines of Python, each after the name of the library that loads the export with it."""
    folder = exported.folder
    lines = [
        f"litgpt: gpt = litgpt.GPT(litgpt.Config.from_checkpoint(pathlib.Path({str(folder)!r}))); "
        f"gpt.load_state_dict(safetensors.torch.load_file({str(folder / WEIGHTS)!r}))"
    ]
    if f"hf/{WEIGHTS}" in exported.files:
        lines.append(f"transformers: AutoModelForCausalLM.from_pretrained({str(folder / 'hf')!r})")
    if f"torch/{MODEL}" in exported.files:
        model, there = str(folder / "torch" / MODEL), str(folder / "torch")
        lines.append(f"torch: gpt = runpy.run_path({model!r})['load']({there!r})")
    if LIT_MODEL in exported.files and TOKENIZER in exported.files:
        lines.append(f"litgpt's API: litgpt.LLM.load({str(folder.resolve())!r})")
    return lines
