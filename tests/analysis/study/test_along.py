"""Studies whose runs differ in further settings: families apart, and fits along other axes than width."""

import dataclasses

import pytest

from pipeline.analysis.fit.study_fit import fit, fit_study
from pipeline.analysis.fit.surface import fit_surfaces
from pipeline.analysis.page import words
from pipeline.analysis.study.along import along
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.measure import TRAINING_LOSS
from pipeline.errors import RequestError
from tests.support.synthetic_study import BASE, valley, write_run, write_study


def deep(n_layer):
    return dataclasses.replace(BASE.model, n_layer=n_layer)


def by_depth_and_steps(folder, widths=(64,)):
    """Optima at lr ~ depth^-1 steps^-1/2, exactly."""
    for n_layer in (2, 4, 8):
        for steps in (60, 120):
            at = 1.6e-2 * (n_layer / 2) ** -1 * (steps / 60) ** -0.5
            write_study(folder, valley(0.0, at), widths=widths, steps=steps, model=deep(n_layer))
    return load_study([folder])


def test_cells_are_told_apart_with_readable_names(tmp_path):
    fitted = fit_study(by_depth_and_steps(tmp_path, widths=(64, 128)), TRAINING_LOSS)
    assert [words.group_title(group) for group in fitted.groups] == [
        f"SP · AdamW · {steps} steps · {depth} layers" for steps in (60, 120) for depth in (2, 4, 8)
    ]
    assert [group.config.model.n_layer for group in fitted.groups] == [2, 4, 8, 2, 4, 8]
    assert all(len(group.grid.runs) == 14 for group in fitted.groups)
    for group, (depth, steps) in zip(fitted.groups, [(d, s) for s in (60, 120) for d in (2, 4, 8)], strict=True):
        for w in group.widths:
            assert w.best.value == pytest.approx(1.6e-2 * 2 / depth * (60 / steps) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.n_layer", "4", "4 layers"),
        ("grad_clip", "null", "no clipping"),
        ("grad_clip", "0.5", "clipping at 0.5"),
        ("model.qk_norm", "false", "no qk-norm"),
        ("mult.hidden_lr", "0.5", f"hidden lr {words.TIMES} 0.5"),
        ("warmup_steps", "0", "no warm-up"),
        ("momentum", "0.9", "momentum 0.9"),
        ("depth_scaling", "sqrt", "depth scaling sqrt"),
        ("stop_after", "20", "stopped after step 20"),
        ("corpus", "c4", "c4"),
    ],
)  # fmt: skip
def test_settings_have_words(name, value, said):
    assert words.cell(name, value) == said


def test_widths_of_other_settings_are_not_borrowed(tmp_path):
    """At the base width all parameterizations are one model only where the other settings are the same."""
    write_study(tmp_path, valley(-0.5), params=("sp",), seeds=(0,))
    write_study(tmp_path, valley(0.0), params=("mup",), seeds=(1,))
    shared = fit([tmp_path]).groups
    assert [group.borrowed for group in shared] == [7, 7]
    write_study(tmp_path, valley(0.0), params=("mup",), seeds=(2,), readout_init="zero")
    apart = {tuple(group.key.values())[3]: group for group in fit([tmp_path]).groups if group.param == "mup"}
    assert (apart["standard"].borrowed, apart["zero"].borrowed) == (7, 0)


def test_depth_and_steps_are_axes(tmp_path):
    study = by_depth_and_steps(tmp_path)
    by_depth = along(study, ["depth"])
    assert by_depth.group == ("param", "optimizer", "loss", "steps")
    for group in fit_study(by_depth, TRAINING_LOSS).groups:
        assert group.optimal.exponent == pytest.approx(-1, abs=0.05)
        assert [w.width for w in group.widths] == [2, 4, 8]
    for name in ("steps", "tokens"):
        found = fit_study(along(study, [name]), TRAINING_LOSS).groups
        assert [group.key["model.n_layer"] for group in found] == ["2", "4", "8"]
        assert [group.optimal.exponent for group in found] == pytest.approx([-0.5] * 3, abs=0.05)
    tokens = along(study, ["tokens"]).runs
    assert sorted(set(tokens["width"])) == [60 * 8 * 64, 120 * 8 * 64]


def test_two_axes_at_once(tmp_path):
    study = along(by_depth_and_steps(tmp_path), ["depth", "steps"])
    assert study.group == ("param", "optimizer", "loss")
    (group,) = fit_surfaces(study, TRAINING_LOSS).groups
    assert [exponent.median for exponent in group.exponents] == pytest.approx([-1, -0.5], abs=0.05)


def test_widths_keep_families_apart_along_another_axis(tmp_path):
    study = along(by_depth_and_steps(tmp_path, widths=(64, 128)), ["n_layer"])
    assert study.axis.name == "depth"
    assert study.group == ("param", "optimizer", "loss", "model_width", "steps")
    titles = [words.group_title(group) for group in fit_study(study, TRAINING_LOSS).groups]
    assert titles[0] == "SP · AdamW · width 64 · 60 steps"
    assert len(titles) == 4


def test_what_goes_along_with_an_axis_is_said(tmp_path):
    for n_layer, warmup_steps in ((2, 3), (4, 6)):
        write_study(tmp_path, valley(0.0), widths=(64,), warmup_steps=warmup_steps, model=deep(n_layer))
    study = along(load_study([tmp_path]), ["depth"])
    assert study.group == ("param", "optimizer", "loss")
    assert study.notes == (
        "With the depth changes warmup_steps: what is fitted is the way of all of them together.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        ("batch", "--axis batch: it is 8 in all runs of "),
        ("warmup", "--axis: unknown key warmup, did you mean warmup_steps?"),
        ("schedule", "--axis schedule: it is cosine in sp-"),
    ],
)
def test_what_is_no_axis_is_refused(tmp_path, axis, says):
    write_run(tmp_path, BASE, 5.0)
    with pytest.raises(RequestError) as caught:
        along(load_study([tmp_path]), [axis])
    assert str(caught.value).startswith(says)
