"""`--json` on the verbs that print results: one document on stdout and nothing beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.main import main
from pipeline.config import RunConfig, run_settings
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.synthetic_study import valley, write_study


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_fit_prints_what_fit_json_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "study", valley(-0.5))
    assert printed(capsys, "fit", str(folder)) == json.loads((folder / "fit.json").read_text())
    frame = (folder / "runs.csv").read_text().splitlines()
    rows = [frame[0] + ",tokens_k", *(f"{line},{k}" for k in (1, 2) for line in frame[1:])]
    (tmp_path / "two.csv").write_text("\n".join(rows))
    two = printed(
        capsys, "fit", str(tmp_path / "two.csv"), "--axis", "width,tokens_k", "--columns", "loss=final_train_loss"
    )
    assert two["axes"] == ["width", "tokens_k"]
    assert two["optima"]


def test_theory(capsys: pytest.CaptureFixture[str]) -> None:
    one = printed(capsys, "theory", "--param", "sp", "--optimizer", "sgd", "--model", "mlp", "--alpha", "1/2")
    assert (one["param"], one["max_stable"]["exponent"], one["alpha"]) == ("sp", "-1/2", "1/2")
    every = printed(capsys, "theory", "--all")
    assert {(entry["param"], entry["optimizer"], entry["loss"]) for entry in every} >= {("mup", "adamw", "mse")}


def test_train_prints_its_result(tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_settings(tiny)))
    argv = ("train", "--config", str(tmp_path / "run.yaml"))
    first = printed(capsys, *argv)
    assert (first["run"], first["status"], first["steps"]) == (str(tiny.run_dir), "completed", 12)
    assert printed(capsys, *argv) == first, "and again of the finished run"


@pytest.mark.slow
def test_report_prints_what_fit_json_holds_and_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "study", valley(-0.5))
    found = printed(capsys, "report", str(folder))
    files = found.pop("files")
    assert found == json.loads((folder / "fit.json").read_text())
    assert {Path(file).name for file in files} > {"report.html", "fit.json", "exponents.csv", "lr_transfer.png"}
    assert all(Path(file).is_file() for file in files)


def test_data(text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (str(text_file), "--vocab_size", "300")
    assert main(["data", "prepare", *source, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["splits"]["train"]["tokens"] > 1000
    (info,) = printed(capsys, "data", "info", *source)["prepared"]
    assert info == {key: value for key, value in made.items() if key != "already_prepared"}
    every = printed(capsys, "data", "info")
    assert info in every["prepared"]
    assert "dclm" in every["recipes"]
    assert printed(capsys, "data", "verify", *source) == {"folder": made["folder"], "damages": []}
    gone = printed(capsys, "data", "info", str(text_file), "--vocab_size", "299")
    assert gone["prepared"] == []
    assert gone["would_be"] != made["folder"]


def test_export(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run = changed(tiny, steps=3)
    train(run, show_progress=False)
    made = printed(capsys, "export", str(run.run_dir))
    assert (made["step"], made["folder"]) == (3, str(run.run_dir / "export"))
    assert "torch/model.py" in made["files"]
    assert made["load"].keys() == {"litgpt", "torch"}
    assert made["left_out"][0].startswith("torch/ instead of hf/")


def test_a_sweep(tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Of runs that are there already: what it says while it goes stands in the other stream."""
    folder = write_study(tmp_path / "runs" / "study", valley(-0.5))
    run = next(folder.glob("*/config.yaml"))
    settings = {"widths": [64, 128], "lrs": [2**-9, 2**-7, 2**-5], "out": str(tmp_path / "runs"), "study": "study"}
    recipe = tmp_path / "study.yaml"
    recipe.write_text(
        yaml.safe_dump({k: v for k, v in yaml.safe_load(run.read_text()).items() if k != "recorded"} | settings)
    )
    monkeypatch.setattr("pipeline.sweep.launch.local.run_study", lambda *_: {})
    assert main(["sweep", "--config", str(recipe), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert len(found["runs"]) == len(list(folder.glob("*/config.yaml")))
    assert any("best learning rate" in answer or "optim" in answer for answer in found["answers"])
    assert err.startswith(f"study {folder}: 6 runs, ")
    assert main(["sweep", "--config", str(recipe), "--json", "--dry_run"]) == 2
