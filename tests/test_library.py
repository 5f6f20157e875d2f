"""`import pipeline`: light until used, and the same answers as the verbs."""

import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import pandas as pd
import pytest
import torch

import pipeline
from tests.support.synthetic_study import valley, write_study


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_study(Path("runs/demo"), valley(-0.5), params=("sp", "mup"), seeds=(0, 1))


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; began = time.process_time(); import pipeline; dir(pipeline); seconds = time.process_time() - began\n"
        "print(seconds, *sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(out) & {"torch", "numpy", "pandas", "matplotlib", "yaml"}
    assert float(out[0]) < 0.1


def test_fits_need_no_torch(demo: Path) -> None:
    code = (
        "import sys, pipeline\n"
        f"pipeline.predict({str(demo)!r}, 512)\n"
        "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(pipeline, name) is not None for name in pipeline.__all__)
    assert dir(pipeline) == pipeline.__all__
    with pytest.raises(AttributeError, match="no attribute 'fits'"):
        _ = pipeline.fits


def test_a_frame_is_fitted_as_a_study_is(demo: Path) -> None:
    """No run of the valley is unstable by its trajectory alone, so that the two have the same to go by."""
    by_path, frame = pipeline.fit(demo), pipeline.load_runs(demo)
    assert (len(frame), frame["loss"].isna().sum()) == (84, frame["diverged"].sum())
    by_frame = pipeline.fit(frame)
    assert isinstance(by_frame, type(by_path))
    for one, other in zip(by_path.groups, by_frame.groups, strict=True):
        assert one.optimal.exponent == pytest.approx(other.optimal.exponent)
        assert one.max_stable.exponent == pytest.approx(other.max_stable.exponent)
    assert not [note for note in by_frame.study.notes if "Warning" in note]
    narrow = pipeline.fit(frame[frame["width"] < 256])
    assert narrow.groups[0].widths[-1].width == 128
    renamed = frame[["param", "width", "lr", "seed", "loss"]].rename(columns={"width": "n"})
    assert pipeline.fit(renamed, columns={"width": "n"}).groups[0].param == "sp"
    assert pipeline.load_runs(renamed, columns={"width": "n"})["width"].max() == 256
    assert pipeline.load_runs(demo, metric="val")["loss"].min() == pytest.approx(frame["loss"].min() + 0.1)


def test_what_the_library_refuses(demo: Path) -> None:
    frame = pipeline.load_runs(demo)
    for wrong, line in [
        (lambda: pipeline.fit("none"), "none: no such study folder"),
        (lambda: pipeline.fit([]), "no runs: name a study folder or a table"),
        (lambda: pipeline.fit([demo, frame]), "the table is a table and runs/demo is none"),
        (lambda: pipeline.fit(frame, metric="val"), "--metric is for study folders"),
        (lambda: pipeline.fit(demo, columns={"width": "n"}), "--columns is for tables of runs: runs/demo is none"),
        (lambda: pipeline.fit(frame.drop(columns="lr")), "the table"),
        (lambda: pipeline.fit(pd.concat([frame, frame["lr"]], axis=1)), "two columns of the table are called 'lr'"),
        (lambda: pipeline.fit(pd.DataFrame()), "the table holds no runs"),
        (lambda: pipeline.predict(demo, 512, level=2), "level must lie between 0 and 1, got 2"),
        (lambda: pipeline.predict(pipeline.fit(demo), 512, 3), "the runs differ in width alone"),
    ]:
        with pytest.raises(pipeline.RequestError) as error:
            wrong()
        assert line in str(error.value)
        assert "\n" not in str(error.value)


def test_two_axes(demo: Path) -> None:
    frame = pipeline.load_runs(demo).query("param == 'sp'")
    frame = pd.concat([frame.assign(tokens=n, lr=frame["lr"] * n**-0.25) for n in (1, 16)])
    fitted = pipeline.fit(frame, axis="width,tokens", columns={"tokens": "tokens"})
    with pytest.raises(pipeline.RequestError, match="give both"):
        pipeline.predict(fitted, 512)
    (one,) = pipeline.predict(fitted, 512, 64)
    assert one.optimal is not None
    assert one.optimal.value == pytest.approx(8e-3 * 8**-0.5 * 64**-0.25, rel=0.2)


def test_figures_are_matplotlibs(demo: Path) -> None:
    fitted = pipeline.fit(demo)
    for draw in (pipeline.figures.lr_transfer, pipeline.figures.comparison, pipeline.figures.best_losses):
        assert isinstance(draw(fitted), matplotlib.figure.Figure)
    assert pipeline.figures.update_sizes(fitted) == {}


def test_groups_keep_the_weight_decay_of_the_user() -> None:
    from pipeline.models.roles import by_name, linear
    from pipeline.parameterization import rules
    from pipeline.parameterization.rules import Width
    from pipeline.scaling import Scaling

    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 4))
    specs = by_name(
        model, [*linear(model[0], "input", 0.1), *linear(model[1], "hidden", 0.1), *linear(model[2], "output", 0.1)]
    )
    scaling = Scaling(rules.get("mup"), "adam", Width(n=64, n_base=16, d_out=4))

    def decays(weight_decay: float | None = None, **options: object) -> dict[float, float]:
        groups = pipeline.apply_parameterization(model, specs, scaling, lr=1.0, weight_decay=weight_decay, **options)
        optimizer = torch.optim.AdamW(groups, weight_decay=0.3)
        return {group["lr"]: group["weight_decay"] for group in optimizer.param_groups}

    assert decays() == {1.0: 0.3, 0.25: 0.3}, "the optimizer's own"
    assert decays(0.0) == {1.0: 0.0, 0.25: 0.0}
    assert decays(0.1) == {1.0: 0.1, 0.25: 0.4}, "lr * decay stays"
    assert decays(0.1, weight_decay_scaling="constant") == {1.0: 0.1, 0.25: 0.1}
