"""The folder of an export: where it may be, what an interruption leaves, and what it replaces."""

from pathlib import Path

import pytest
import safetensors
import safetensors.torch

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.export import hf
from pipeline.export.litgpt import export
from tests.conftest import changed
from tests.support.exports import refusal, trained, tree


def test_exporting_again_replaces_the_same_step_and_nothing_else(tiny: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # empty: free
    run = trained(tiny)
    export(run, out)
    first = tree(tmp_path)
    (out / "model.safetensors").write_bytes(b"damaged since")
    export(run, out)
    assert tree(tmp_path) == first

    (out / "notes.txt").write_text("mine")
    with pytest.raises(RequestError) as refused:
        export(run, out)
    assert str(refused.value) == f"{out} holds notes.txt, which is not of the export: move it or give another --out"
    (out / "notes.txt").unlink()
    shorter = trained(changed(tiny, steps=3))
    with pytest.raises(RequestError) as refused:
        export(shorter, out)
    assert str(refused.value) == (
        f"{out} holds the export of step 12 of {run.name}, not of step 3 of {shorter.name}: delete it or give another "
        "--out"
    )
    note = (out / "export.json").read_text()
    (out / "export.json").write_text(note.replace('"step": 12', '"step": 8'))
    with pytest.raises(RequestError, match=f"holds the export of step 8 of {run.name}, not of step 12 of {run.name}: "):
        export(run, out)
    (out / "export.json").unlink()
    with pytest.raises(RequestError) as refused:
        export(run, out)
    assert str(refused.value) == f"{out} is not empty, and holds no export: give another --out"
    assert tree(out) == {name.removeprefix("out/"): sha256 for name, sha256 in first.items()
                         if name.startswith("out/") and name != "out/export.json"}  # fmt: skip


@pytest.mark.parametrize(
    "place",
    ["litgpt.write_weights", "litgpt.write_plain", "litgpt.write_tokenizer", "litgpt.write_note", "note.write_atomic"],
)
def test_an_interrupted_export_leaves_nothing(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run = trained(changed(tiny, steps=3))
    before = tree(tmp_path), sorted(run.iterdir())

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"pipeline.export.{place}", stop)
        with pytest.raises(KeyboardInterrupt):
            export(run, run / "export")
    assert (tree(tmp_path), sorted(run.iterdir())) == before
    export(run, run / "export")
    whole = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"pipeline.export.{place}", stop)
        with pytest.raises(KeyboardInterrupt):
            export(run, run / "export")
    assert tree(tmp_path) == whole


def test_a_replacement_that_fails_puts_the_old_back(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(changed(tiny, steps=3))
    export(run, run / "export")
    whole = tree(tmp_path)
    rename = Path.rename

    def fails_for_the_new(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(OSError, match="No space left"):
        export(run, run / "export")
    assert tree(tmp_path) == whole


def test_a_full_disk(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(changed(tiny, steps=3))

    def full(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(hf, "save_file", full)
    with pytest.raises(OSError, match=r"^cannot write .*model\.safetensors: I/O error: No space left on device"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_places(tiny: RunConfig, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"no such run: {tmp_path / 'none'}"
    run = trained(changed(tiny, steps=3))
    study = run.parent
    assert refusal(study) == f"{study} is not a run (it has no config.yaml): give one, such as runs/STUDY/RUN"
    file = tmp_path / "file"
    file.write_text("")
    assert refusal(run, "--out", file) == f"{file} is a file: give another --out"
    assert refusal(run, "--out", file / "x") == f"cannot write {file / 'x'} (File exists): give another --out"
    assert refusal(run, "--out", run) == f"{run} is not empty, and holds no export: give another --out"
    assert refusal(run, "--step", 3) == "--step: unknown key step"
    assert not (run / "export").exists()
