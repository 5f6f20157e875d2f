"""The note of an export, export.json: what it is of, and the sha256 of every other file in it."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pipeline.config import config_hash
from pipeline.export.exportable import Exportable
from pipeline.files import write_atomic
from pipeline.version import __version__

NOTE = "export.json"


def write_note(folder: Path, what: Exportable, files: Mapping[str, str]) -> None:
    """`files`: the sha256 of every file, by its path in the folder."""
    config, result = what.config, what.run.result()
    versions = {name: metadata.version(name) for name in ("torch", "litgpt", "safetensors", "transformers")}
    content = {
        "run": config.run_name,
        "study": config.study,
        "step": what.step,
        "steps": config.last_step,
        "status": result.status if result else "unfinished",
        "config_hash": config_hash(config),
        "param": config.param,
        "width": config.width,
        "lr": config.lr,
        "seed": config.seed,
        "dtype": str(what.weights["lm_head.weight"].dtype).removeprefix("torch."),
        "data_fingerprint": what.data_fingerprint,
        "trained_with": what.run.recorded().get("versions", {}),
        "versions": {"pipeline": __version__, **versions},
        "files": files,
    }
    write_atomic(folder / NOTE, json.dumps(content, indent=2) + "\n")


def read_note(folder: Path) -> tuple[str, int, set[str]]:
    """Of which run and step the export is, and its files, the note among them.

    Raises `OSError`, `ValueError`, `KeyError` or `TypeError` where the folder has no good note.
    """
    note = json.loads((folder / NOTE).read_bytes())
    return note["run"], note["step"], {*note["files"], NOTE}
