"""The short loop of a run in one process: bit for bit what Lightning's own loop does."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig
from pipeline.run.directory import RunDir
from pipeline.training import trainer
from pipeline.training.descent import Descent

TINY = ModelConfig(n_layer=1, head_size=8, vocab_size=300)
SETTINGS: dict[str, dict[str, Any]] = {
    "accumulation, clipping, warm-up": {"model": TINY, "micro_batch": 2, "seq_len": 8, "grad_clip": 0.5},
    "coordinate checks": {"model": TINY, "seq_len": 8, "diagnostics": DiagnosticsConfig(interval=2)},
    "an MLP under Adam": {"model": ModelConfig(kind="mlp", n_layer=3), "data": DataConfig(format="digits"),
                          "optimizer": "adam", "width": 24},
}  # fmt: skip


def run_of(out: Path, settings: dict[str, Any]) -> RunConfig:
    text = out.parent / "text.txt"
    text.write_text("\n\n".join(f"the number {i} and the number {i * i}" for i in range(200)))
    common = {"data": DataConfig(path=str(text), format="text"), "width": 16, "global_batch": 4, "steps": 6}
    common |= {"warmup_steps": 2, "lr": 1e-2, "val_interval": 3, "base_width": 16, "val_sequences": 6, "out": str(out)}
    return RunConfig(**common | settings)


def outcome(config: RunConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    trainer.train(config, show_progress=False)
    run = RunDir(config.run_dir)
    records = [{k: v for k, v in r.items() if k != "tokens_per_second"} for r in run.records()]
    weights = load_file(next(run.checkpoints.glob("step-*/*.safetensors")))
    return records, {name: value.tolist() for name, value in weights.items()}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_short_loop_takes_the_steps_of_lightnings(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Descent, "suits", lambda module: False)
    short = outcome(run_of(tmp_path / "short", settings))
    monkeypatch.setattr(trainer, "shorten", lambda *_: None)
    assert outcome(run_of(tmp_path / "lightning", settings)) == short
