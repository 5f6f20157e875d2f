"""Calibration by width, as runs record it."""

import dataclasses

import pandas as pd
import pytest

from analysis import calibration
from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig
from pipeline.run.directory import RunDir
from pipeline.training.trainer import train
from tests.support.synthetic_study import valley, write_study


@pytest.fixture
def study(tiny):
    """MLPs on digits, two seeds at three learning rates, of which the middle one is best."""
    base = dataclasses.replace(
        tiny, optimizer="sgd", steps=6, warmup_steps=0, global_batch=32, val_sequences=360, weight_decay=0.0, grad_clip=None,
        val_interval=6, checkpoint_interval=6, diagnostics=DiagnosticsConfig(interval=10), model=ModelConfig(kind="mlp", n_layer=2),
        data=DataConfig(name="digits", format="digits"),
    )  # fmt: skip
    runs = [dataclasses.replace(base, lr=lr, seed=seed) for lr in (1e-4, 0.1, 20.0) for seed in (0, 1)]
    for run in runs:
        train(run, show_progress=False)
    return runs


def test_it_is_told_of_the_best_learning_rate(study, tmp_path, capsys):
    folder = study[0].run_dir.parent
    assert calibration.main([str(folder), "--metric", "val", "--out", str(tmp_path / "out")]) == 0
    rows = pd.read_csv(tmp_path / "out" / "calibration.csv", comment="#").set_index("quantity")
    assert set(rows["lr"]) == {0.1}
    assert set(rows["seeds"]) == {2}
    seen = [RunDir(run.run_dir).records()[-1] for run in study if run.lr == 0.1]
    mean = {
        name: sum(one[f"val_{name}"] for one in seen) / 2
        for name in ("calibration_error", "max_probability", "accuracy")
    }
    assert rows.loc["calibration_error", "value"] == pytest.approx(mean["calibration_error"], rel=1e-3)
    assert rows.loc["too_sure", "value"] == pytest.approx(mean["max_probability"] - mean["accuracy"], rel=1e-3)
    half = 12.706 * abs(seen[0]["val_accuracy"] - seen[1]["val_accuracy"]) / 2
    assert rows.loc["accuracy", "ci_high"] - rows.loc["accuracy", "value"] == pytest.approx(half, abs=2e-3)
    assert rows.loc["calibration_error", "value"] >= abs(rows.loc["too_sure", "value"]) - 1e-4, "by the triangle"
    assert (tmp_path / "out" / "calibration.png").stat().st_size > 10_000


def test_runs_that_did_not_record_it_are_one_line(tmp_path, capsys):
    write_study(tmp_path / "study", valley(-0.5))
    assert calibration.main([str(tmp_path / "study"), "--out", str(tmp_path)]) == 2
    assert "recorded no calibration: train with --diagnostics.interval" in capsys.readouterr().err
