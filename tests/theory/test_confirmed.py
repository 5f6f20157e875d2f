"""Theory against real training, through the callback and the analysis of `pipeline coordcheck`.

Settings and bounds of the perceptrons are those of tests/test_slopes.py, whose reasons hold here: with 20 seeds 0.1
after one step and 0.15 after three, a few seeds tell exponents apart that differ by 1/2. Here the probe is the first
training batch, and the runs are in single precision, in which updates of 1e-6 of a weight still have four digits.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.analysis.inside.check import Ladder
from pipeline.analysis.inside.lr_rules import ladders, recorded, remember
from pipeline.analysis.inside.regime import inside
from pipeline.analysis.inside.theory import readout_slope
from pipeline.analysis.study.load import load_study
from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, MultConfig, RunConfig
from pipeline.training.trainer import train

BASE = 256
Trained = Callable[..., Ladder]

DIGITS = RunConfig(
    base_width=BASE, lr=1e-4, optimizer="sgd", steps=3, warmup_steps=0, lr_min_ratio=1.0, global_batch=64, grad_clip=None,
    embedding_init="constant", val_interval=3, checkpoint_interval=3, keep_checkpoint=False, wandb="disabled",
    model=ModelConfig(kind="mlp", n_layer=3), data=DataConfig(name="digits", format="digits"),
    diagnostics=DiagnosticsConfig(first=3, probe=64),
)  # fmt: skip
WIDTHS = (128, 256, 512, 1024)
STEP_1, STEP_3, FEW_SEEDS = 0.1, 0.15, 0.3


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """Trains the runs of a coordinate check and analyses them."""

    def check(base: RunConfig, lr_exponent: Fraction, widths: tuple[int, ...], seeds: int) -> Ladder:
        for width in widths:
            for seed in range(seeds):
                lr = base.lr * (width / BASE) ** float(lr_exponent)
                run = dataclasses.replace(base, width=width, lr=lr, seed=seed, out=str(tmp_path), study="check")
                train(run, show_progress=False)
        remember(tmp_path / "check", [(base.lr, lr_exponent)])
        study = load_study([tmp_path / "check"])
        [found] = ladders(study, recorded(study))
        return found

    return check


def measured(ladder: Ladder, quantity: str, step: int, *labels: str) -> list[float]:
    found = [ladder.group(quantity, label, step) for label in labels]
    return [e.exponent for e in found if e is not None]


MLP_LAYERS = ("input", "first hidden", "readout")
MUP = dataclasses.replace(DIGITS, param="mup", lr=1e-3, mult=MultConfig(output_init=0.0625))
FULL_ALIGN = dataclasses.replace(DIGITS, param="sp_full_align", lr=1e-3)


def test_fig_4_with_a_few_seeds(trained: Trained) -> None:
    ladder = trained(DIGITS, Fraction(-1, 2), (128, 256, 512), 3)
    assert measured(ladder, "effective", 3, *MLP_LAYERS) == pytest.approx([-1, 0, 0.5], abs=FEW_SEEDS)


@pytest.mark.slow
def test_fig_4(trained: Trained) -> None:
    """SP, SGD, lr ~ n^-1/2: updates vanish in the input layer, hold in the hidden one, explode in the readout."""
    ladder = trained(DIGITS, Fraction(-1, 2), WIDTHS, 20)
    assert measured(ladder, "effective", 1, *MLP_LAYERS) == pytest.approx([-1, 0, 0.5], abs=STEP_1)
    assert measured(ladder, "effective", 3, *MLP_LAYERS) == pytest.approx([-1, 0, 0.5], abs=STEP_3)
    assert [ladder.group("effective", label, 3).predicted for label in MLP_LAYERS] == [-1, 0, 0.5]  # type: ignore[union-attr]
    assert measured(ladder, "propagating", 3, "first hidden") == pytest.approx([-1], abs=STEP_3)
    found = inside(ladder)
    assert found is not None
    assert found.regime == "controlled divergence"


@pytest.mark.slow
def test_mup_updates_every_layer_alike(trained: Trained) -> None:
    ladder = trained(MUP, Fraction(0), WIDTHS, 20)
    assert measured(ladder, "effective", 1, *MLP_LAYERS) == pytest.approx([0, 0, 0], abs=STEP_1)
    assert measured(ladder, "effective", 3, *MLP_LAYERS) == pytest.approx([0, 0, 0], abs=STEP_3)
    readout = ladder.group("propagating", "readout", 3)
    assert readout is not None
    assert readout.predicted == pytest.approx(readout_slope(WIDTHS, 10) - 0.5)
    assert readout.exponent == pytest.approx(readout.predicted, abs=0.1)
    found = inside(ladder)
    assert found is not None
    assert found.regime == "stable"


@pytest.mark.slow
def test_the_readout_of_sp_full_align_passes_on_what_its_operator_norm_says(trained: Trained) -> None:
    """F.32: all weights update alike, but W_0 dx grows like |W_0|, 1 + sqrt(n/d_out)."""
    ladder = trained(FULL_ALIGN, Fraction(0), WIDTHS, 20)
    assert measured(ladder, "effective", 3, *MLP_LAYERS) == pytest.approx([0, 0, 0], abs=STEP_3)
    for step in (1, 3):
        [slope] = measured(ladder, "propagating", step, "readout")
        assert slope == pytest.approx(readout_slope(WIDTHS, 10), abs=0.1)


@pytest.mark.slow
def test_e16_a_gpt_with_adam(trained: Trained, text_file: Path) -> None:
    """SP, AdamW, lr ~ 1/n: embedding and norms vanish like their learning rate; all matrices learn at every width.
    Queries and keys are not bounded: their gradients pass through the softmax of attention."""
    base = RunConfig(
        base_width=BASE, lr=1e-3, steps=5, warmup_steps=0, lr_min_ratio=1.0, global_batch=8, seq_len=32,
        val_interval=5, val_sequences=8, checkpoint_interval=5, keep_checkpoint=False, wandb="disabled",
        model=ModelConfig(n_layer=2, vocab_size=300), diagnostics=DiagnosticsConfig(first=5),
        data=DataConfig(name="corpus", format="text", path=str(text_file), validation_fraction=0.2),
    )  # fmt: skip
    ladder = trained(base, Fraction(-1), (64, 128, 256, 512), 2)
    for step in (3, 4, 5):
        vanishing = measured(ladder, "effective", step, "embedding", "norms", "norms (first block)")
        assert vanishing == pytest.approx([-1] * 3, abs=0.1)
        groups = ("v", "v (first block)", "attn.proj", "mlp.fc", "mlp.fc (first block)", "mlp.proj", "readout")
        assert measured(ladder, "effective", step, *groups) == pytest.approx([0] * 7, abs=0.3)
        of_weight = {e.label: e.exponent for e in ladder.by_weight if (e.quantity, e.step) == ("effective", step)}
        assert of_weight["transformer.h.1.mlp.fc.weight"] == pytest.approx(0, abs=0.3)
        assert len(measured(ladder, "effective", step, "q", "k")) == 2
