"""The regime of a ladder of runs: Definition 1 on records whose exponents are known, with noise, gaps and lost runs."""

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.inside import regime
from pipeline.analysis.inside.check import Ladder
from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.inside.regime import Inside, Trend, inside
from pipeline.analysis.page import figures_inside
from pipeline.analysis.page.words_regime import calibration_words, regime_words
from pipeline.analysis.study.load import load_study
from pipeline.config import RunConfig
from tests.support.synthetic_coordinates import GPT, MLP, WIDTHS, write_coordinates


def ladder_of(folder: Path) -> Ladder:
    study = load_study([folder])
    [found] = ladders(study, recorded(study))
    return found


def study(
    folder: Path,
    logits: float,
    activations: float,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    noise: float = 0.02,
    **rest: object,
) -> Inside:
    """Changes of the readout's output and of all others that go like these powers of n."""
    exponents = {("update", ""): activations, ("update", "readout.weight"): logits, ("effective", ""): 0.0,
                 ("output", ""): 0.0, ("gradient", ""): -0.5}  # fmt: skip
    folder = write_coordinates(
        folder,
        MLP,
        exponents,
        lr_exponent=Fraction(-1, 2),
        seeds=seeds,
        noise=noise,
        **rest,  # type: ignore[arg-type]
    )
    found = inside(ladder_of(folder))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("logits", "activations", "regime"),
    [(0.0, 0.0, "stable"), (-0.5, -1.0, "stable"), (0.5, 0.0, "controlled divergence"), (0.5, 0.5, "catastrophic"),
     (1.0, 0.3, "catastrophic"), (0.0, 0.5, "controlled divergence")],
)  # fmt: skip
def test_definition_1(tmp_path: Path, logits: float, activations: float, regime: str) -> None:
    found = study(tmp_path / "s", logits, activations)
    assert found.regime == regime
    assert found.trends["logit changes"].exponent == pytest.approx(logits, abs=0.05)
    assert found.trends["activation changes"].exponent == pytest.approx(activations, abs=0.05)
    assert found.trends["gradients"].exponent == pytest.approx(-0.5, abs=0.05)
    assert found.trends["activations"].exponent == pytest.approx(0, abs=0.05)
    assert regime_words(found).startswith(
        f"Regime: {regime} (theory: controlled divergence). After step 3: logit changes n^"
    )
    assert "gradients n^\u22120." in regime_words(found)
    assert "loss n^" in regime_words(found)


def test_the_readout_is_no_activation(tmp_path: Path) -> None:
    exponents = {
        ("effective", ""): 0.0,
        ("output", ""): 0.0,
        ("output", "readout.weight"): 2.0,
        ("update", ""): 0.0,
        ("update", "readout.weight"): 2.0,
    }
    found = inside(ladder_of(write_coordinates(tmp_path / "s", MLP, exponents, noise=0)))
    assert found is not None
    assert found.trends["activations"].exponent == pytest.approx(0)
    assert found.trends["activation changes"].exponent == pytest.approx(0)
    assert found.trends["logit changes"].exponent == pytest.approx(2)


def test_the_largest_layer_is_what_counts(tmp_path: Path) -> None:
    exponents = {
        ("effective", ""): 0.0,
        ("update", ""): 0.0,
        ("update", "readout.weight"): 0.0,
        ("update", "layers.1.weight"): 0.5,
    }
    found = inside(ladder_of(write_coordinates(tmp_path / "s", MLP, exponents, noise=0, widths=(256, 512, 1024))))
    assert found is not None
    assert found.trends["activation changes"].exponent == pytest.approx(0.5)


def test_logits_that_grow_show_without_their_changes(tmp_path: Path) -> None:
    """Where only the training records' logit_rms and the activations are known."""

    def extra(config: RunConfig, step: int) -> Mapping[str, float]:
        return {"logit_rms": step * config.width**0.5}

    exponents = {("effective", ""): 0.0, ("output", ""): 0.0}
    found = inside(ladder_of(write_coordinates(tmp_path / "s", MLP, exponents, extra=extra)))
    assert found is not None
    assert "logit changes" not in found.trends
    assert found.trends["logits"].exponent == pytest.approx(0.5)
    assert found.regime == "controlled divergence"


def test_values_that_grow_count_though_their_changes_do_not(tmp_path: Path) -> None:
    """As from an initialization that grows with width by itself."""

    def extra(config: RunConfig, step: int) -> Mapping[str, float]:
        return {"logit_rms": float(config.width)}

    found = study(tmp_path / "s", 0.0, 0.0, extra=extra)
    assert found.growth("logit") == "grows"
    assert found.regime == "controlled divergence"


def test_logits_of_the_probe_are_taken_where_they_are_known(tmp_path: Path) -> None:
    def extra(config: RunConfig, step: int) -> Mapping[str, float]:
        return {"logit_rms": 1.0, "probe_logit_rms": float(config.width)}

    found = inside(ladder_of(write_coordinates(tmp_path / "s", MLP, {("effective", ""): 0.0}, extra=extra)))
    assert found is not None
    assert found.trends["logits"].exponent == pytest.approx(1)


def test_what_the_errors_leave_open_is_not_decided(tmp_path: Path) -> None:
    found = study(tmp_path / "s", 0.2, 0.0, seeds=(0, 1), noise=0.3)
    assert found.trends["logit changes"].growth == "unclear"
    assert found.regime == "undecided"
    assert "since the errors of logits" in regime_words(found)
    alone = study(tmp_path / "t", 0.5, 0.0, seeds=(0,), widths=(64, 128))
    assert alone.regime == "undecided"
    assert "since two widths with one seed allow no error" in regime_words(alone)
    exponents = {("effective", ""): 0.0}
    missing = inside(ladder_of(write_coordinates(tmp_path / "u", MLP, exponents)))
    assert missing is not None
    assert missing.regime == "undecided"
    assert "since activations were not recorded at every width" in regime_words(missing)


@pytest.mark.parametrize(
    ("exponent", "half_width", "growth"),
    [(0.5, 0.3, "grows"), (0.5, 0.45, "unclear"), (0.0, 0.2, "bounded"), (0.0, 0.3, "unclear"), (-1.0, 0.5, "bounded"),
     (0.17, 0.05, "grows"), (0.15, 0.06, "bounded"), (0.5, math.nan, "unclear")],
)  # fmt: skip
def test_growth(exponent: float, half_width: float, growth: str) -> None:
    assert Trend(exponent, half_width / 4, half_width).growth == growth


def test_wide_runs_that_all_diverge_are_a_catastrophe(tmp_path: Path) -> None:
    def lost(config: RunConfig) -> bool:
        return config.width == WIDTHS[-1]

    found = study(tmp_path / "s", 0.0, 0.0, diverged=lost)
    assert found.regime == "catastrophic"
    assert "3 of 12 runs diverged: all at width 512, none at width 64." in regime_words(found)
    some = study(tmp_path / "t", 0.0, 0.0, diverged=lambda config: lost(config) and config.seed == 0)
    assert some.regime == "stable"
    every = study(tmp_path / "u", 0.0, 0.0, diverged=lambda config: config.width in (64, 512))
    assert not every.lost


def test_a_run_that_diverged_early_leaves_the_steps_before(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    found = study(folder, 0.5, 0.0)
    for run in folder.glob("*-w512-*"):
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:2]))
    cut = inside(ladder_of(folder))
    assert cut is not None
    assert (found.step, cut.step, cut.regime) == (3, 2, "controlled divergence")


def test_a_catastrophe_at_the_first_step_is_still_told(tmp_path: Path) -> None:
    def gone(config: RunConfig, step: int) -> Mapping[str, None]:
        names = ("update", "effective", "output", "gradient")
        weights = ("layers.0.weight", "layers.1.weight", "layers.2.weight", "readout.weight")
        return {f"{name}/{weight}": None for name in names for weight in weights} if config.width == 512 else {}

    found = study(tmp_path / "s", 0.0, 0.0, extra=gone, diverged=lambda config: config.width == 512)
    assert found.regime == "catastrophic"
    assert regime_words(found).endswith("3 of 12 runs diverged: all at width 512, none at width 64.")


def test_calibration_by_width(tmp_path: Path) -> None:
    def extra(config: RunConfig, step: int) -> Mapping[str, float | None]:
        if step < 2 or (config.width == 512 and step == 3):
            return {}
        return {"val_calibration_error": 0.1 * config.seed + step, "val_max_probability": config.width / 1000}

    found = study(tmp_path / "s", 0.0, 0.0, extra=extra)
    assert found.calibration == {
        64: pytest.approx((3.1, 0.064)), 128: pytest.approx((3.1, 0.128)), 256: pytest.approx((3.1, 0.256)),
        512: pytest.approx((2.1, 0.512)),
    }  # fmt: skip
    assert calibration_words(found.calibration) == (
        "Calibration on the validation split: expected calibration error 3.100 at width 64, 2.100 at width 512; mean "
        "largest "
        "probability 0.06 at width 64, 0.51 at width 512."
    )
    assert calibration_words({64: (0.1, 0.2)}) is None
    axes = figures_inside.calibration_figure({"SP": found.calibration}).axes
    assert axes[1].lines[0].get_ydata().tolist() == pytest.approx([0.064, 0.128, 0.256, 0.512])


def test_sharpness_over_training(tmp_path: Path) -> None:
    def extra(config: RunConfig, step: int) -> Mapping[str, float | None]:
        return (
            {}
            if step == 2
            else {"sharpness/1": None if config.width == 64 else config.width / step, "sharpness/2": 7.0}
        )

    ladder = study(tmp_path / "s", 0.0, 0.0, seeds=(0, 1), extra=extra).ladder
    curves = regime.sharpness_curves(ladder)
    assert sorted(curves) == [128, 256, 512]
    steps, values = curves[256][1]
    assert steps.tolist() == [1, 3]
    assert values.tolist() == pytest.approx([256, 256 / 3])
    axes = figures_inside.sharpness_figure({"SP": curves}).axes[0]
    assert len(axes.lines) == 6
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["width 128", "width 256", "width 512"]


def test_a_setting_unknown_to_theory_still_has_its_regime(tmp_path: Path) -> None:
    found = study(tmp_path / "s", 0.5, 0.0)
    unknown = dataclasses.replace(found, ladder=dataclasses.replace(found.ladder, lr_exponent=None))
    assert unknown.regime == "controlled divergence"
    assert "theory" not in regime_words(unknown)


def test_gpts_too(tmp_path: Path) -> None:
    exponents = {("update", ""): 0.0, ("update", "lm_head.weight"): 0.5, ("output", ""): 0.0, ("effective", ""): 0.0}
    found = inside(ladder_of(write_coordinates(tmp_path / "s", GPT, exponents, lr_exponent=Fraction(-1, 2))))
    assert found is not None
    assert found.regime == "controlled divergence"
    assert np.isfinite(found.trends["loss"].exponent)
