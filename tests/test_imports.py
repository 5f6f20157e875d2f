"""What a command imports, and what it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run.directory import RunDir

UNNEEDED = ("wandb", "plotly", "datasets", "deepspeed", "matplotlib", "transformers", "scipy", "pandas", "sklearn")


def said(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert ended.returncode == 0
    return ended.stdout


@pytest.mark.slow
def test_training_needs_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """Digits and text, with what is not needed not to be had."""
    text = "--model.n_layer 1 --seq_len 16 --global_batch 2 --val_sequences 2"
    for name, data in {"digits": "--config mlp-digits", "text": text}.items():
        arguments = (
            f"train --width 32 --steps 2 --warmup_steps 0 --wandb disabled {data} --out {tmp_path} --study {name}"
        )
        said(f"""
import sys
sys.modules |= dict.fromkeys({UNNEEDED!r})
sys.argv[1:] = {arguments.split()!r}
from pipeline.cli.main import main
sys.exit(main())
""")
    runs = [RunDir(path.parent).result() for path in tmp_path.glob("*/*/result.json")]
    assert [run.status for run in runs if run is not None] == ["completed", "completed"]


@pytest.mark.slow
def test_lightning_comes_without_the_metrics_and_they_are_there_when_wanted() -> None:
    code = """
import sys
from pipeline.imports import spare_metrics
spare_metrics()
import lightning.pytorch
print("transformers" in sys.modules, end=" ")
import torchmetrics
from torchmetrics import MeanMetric, Metric
metric = MeanMetric()
metric.update(3.0)
print(float(metric.compute()), isinstance(metric, Metric), sys.modules["torchmetrics"].__file__ is not None)
"""
    assert said(code).split() == ["False", "3.0", "True", "True"]


def test_looking_at_a_study_loads_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pipeline.cli.main import main
print(main(["sweep", "status", {str(tmp_path)!r}]), main(["fit", {str(tmp_path)!r}]), "torch" in sys.modules)
"""
    assert said(code).split()[-3:] == ["2", "2", "False"]
