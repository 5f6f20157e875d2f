"""The mirror in TensorBoard, read back by TensorBoard's own reader."""

import math
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import at_step


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def require_mirrored(run: RunDir) -> None:
    records, found = run.records(), scalars(run.path)
    for key in {key for record in records for key in record} - {"step"}:
        want = [(record.step, record.number(key)) for record in records if key in record]
        assert [step for step, _ in found[key]] == [step for step, _ in want]
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in want], rel=1e-6, nan_ok=True)
    result = run.result()
    assert result is not None
    for key, value in result.final.items():
        if value is not None:
            assert found[key] == [(result.steps, pytest.approx(value))]


def test_a_run_and_one_that_was_interrupted_and_went_on(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tiny, mirrors=("tensorboard",))

    def stop(*_: object) -> None:
        raise OSError("the cable was pulled")

    with monkeypatch.context() as patched:
        at_step(6, stop, patched)
        with pytest.raises(OSError, match="cable"):
            train(config, show_progress=False)
    assert max(step for step, _ in scalars(config.run_dir)["loss"]) == 6
    train(config, show_progress=False)
    assert len(RunDir(config.run_dir).starts_file.read_text().splitlines()) == 2
    assert len(list((config.run_dir / "tensorboard").iterdir())) == 1
    require_mirrored(RunDir(config.run_dir))


def test_what_is_not_finite_is_nan(tiny: RunConfig) -> None:
    config = changed(tiny, mirrors=("tensorboard",), optimizer="sgd", weight_decay=0.0, lr=1e30, grad_clip=None)
    assert train(config, show_progress=False).status == "diverged"
    require_mirrored(RunDir(config.run_dir))
    assert math.isnan(scalars(config.run_dir)["loss"][-1][1])
