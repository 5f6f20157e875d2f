"""The note of an export."""

import json
from pathlib import Path

import yaml

from pipeline.config import RunConfig, config_hash
from pipeline.export.litgpt import export
from pipeline.run.directory import RunDir
from tests.support.exports import (
    trained,
    tree,
)


def test_export_json(tiny: RunConfig, tmp_path: Path) -> None:
    exported = export(trained(tiny), tmp_path / "out")
    note = json.loads((exported.folder / "export.json").read_text())
    files = tree(exported.folder)
    assert note.pop("files") == {name: sha256 for name, sha256 in files.items() if name != "export.json"}
    recorded = yaml.safe_load(RunDir(tiny.run_dir).config_file.read_text())["recorded"]
    assert note.pop("trained_with") == recorded["versions"]
    assert note.pop("versions")["litgpt"] == recorded["versions"]["litgpt"]
    assert note == {
        "run": tiny.run_name, "study": "tests", "step": 12, "steps": 12, "status": "completed",
        "config_hash": config_hash(tiny), "param": "sp", "width": 32, "lr": 1e-2, "seed": 0, "dtype": "float32",
        "data_fingerprint": recorded["data_fingerprint"],
    }  # fmt: skip
    modes = {path.stat().st_mode & 0o777 for path in exported.folder.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert exported.folder.stat().st_mode & 0o555 == 0o555
