"""`--json` on the verbs that print results: one document on stdout and nothing beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.main import main
from pipeline.config import RunConfig, run_settings
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
