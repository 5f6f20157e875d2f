"""Resuming: which checkpoint a run goes on from, and what it refuses."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import products
from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train
from tests.conftest import changed, rewrite_manifest
from tests.support.runs import at_step, steps
from tests.training.test_trainer import curve


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_few_are_kept_while_a_run_goes(tiny: RunConfig, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tiny, keep_last=keep, checkpoint_interval=2)
    seen: dict[int, list[str]] = {}
    for step in (2, 7, 11):
        at_step(step, lambda recorder, trainer: seen.update({trainer.global_step: steps(config)}), monkeypatch)
    train(config)
    expected = {step: [f"step-{s:08d}.ckpt" for s in range(step - step % 2, 0, -2)][:keep] for step in (2, 7, 11)}
    assert seen == expected
    assert steps(config) == ["step-00000012.ckpt"]


def cut_short(config: RunConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run that crashed after this step."""

    def crash(*_: Any) -> None:
        raise MemoryError("crash")

    with monkeypatch.context() as patched:
        at_step(step, crash, patched)
        with pytest.raises(MemoryError):
            train(config)
    return RunDir(config.run_dir)


def flip(checkpoint: Path) -> None:
    shard = checkpoint / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)


@pytest.mark.parametrize("keep", [1, 2])
def test_where_the_newest_is_damaged_the_one_before_is_used(
    tiny: RunConfig, keep: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And again after a second stop, before the step of the damaged one is reached."""
    undisturbed = changed(tiny, study="undisturbed")
    train(undisturbed)
    run = cut_short(tiny, 9, monkeypatch)
    assert steps(tiny) == ["step-00000008.ckpt", "step-00000004.ckpt"]
    flip(run.checkpoint)
    config = changed(tiny, keep_last=keep)
    with monkeypatch.context() as patched:
        at_step(4 + 1, lambda recorder, trainer: os.kill(os.getpid(), signal.SIGUSR1), patched)
        capsys.readouterr()
        with pytest.raises(KeyboardInterrupt):
            train(config)
    line = next(line for line in capsys.readouterr().err.splitlines() if "damaged" in line)
    assert line == (
        f"checkpoint {run.checkpoints}/step-00000008.ckpt is damaged (wrong checksum of shard-00000.safetensors); "
        "going on "
        "from step 4"
    )
    assert steps(tiny) == ["step-00000006.ckpt", "step-00000004.ckpt"][:keep]
    assert train(config).status == "completed"
    assert "damaged" not in capsys.readouterr().err
    assert curve(tiny) == curve(undisturbed)
    assert [json.loads(line)["step"] for line in run.starts_file.read_text().splitlines()] == [0, 4, 6]


def test_a_checkpoint_of_another_config_is_named(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    other = changed(tiny, lr=2e-2)
    run, theirs = cut_short(tiny, 9, monkeypatch), cut_short(other, 9, monkeypatch)
    hashes = [config.run_name.rpartition("-")[2] for config in (other, tiny)]
    shutil.rmtree(run.checkpoints)
    shutil.copytree(theirs.checkpoints, run.checkpoints, symlinks=True)
    with pytest.raises(RequestError) as error:
        train(tiny)
    assert str(error.value) == (
        f"checkpoint {run.checkpoints}/step-00000008.ckpt is of another config ({hashes[0]}, not {hashes[1]}): "
        "delete it "
        "to start the run over"
    )
    assert steps(tiny) == ["step-00000008.ckpt", "step-00000004.ckpt"], "nothing is lost"


def test_a_checkpoint_of_another_model_is_not_trained(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config says it is of this one: only somebody who wrote it so can do that."""
    wide = changed(tiny, width=64)
    run, theirs = cut_short(tiny, 5, monkeypatch), cut_short(wide, 5, monkeypatch)
    ours = Checkpoint(run.checkpoint).state
    shutil.rmtree(run.checkpoints)
    shutil.copytree(theirs.checkpoints, run.checkpoints, symlinks=True)
    rewrite_manifest(run.checkpoint, state=ours)
    with pytest.raises(ValueError, match=r"it is of another model: lm_head\.weight differs"):
        train(tiny)


def test_other_arithmetic_is_recorded_and_said(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine whose torch has no oneDNN; and back."""
    run = cut_short(tiny, 6, monkeypatch)
    began = run.recorded()["arithmetic"]
    capability = torch.backends.cpu.get_cpu_capability()
    assert began == {"torch": str(torch.__version__), "device": capability, "products": "oneDNN"}
    with monkeypatch.context() as patched:
        patched.setattr(products, "_onednn", None)
        capsys.readouterr()
        cut_short(tiny, 9, patched)
    assert capsys.readouterr().err.splitlines() == [
        f"{run.path} goes on with other arithmetic (products torch after oneDNN): the same to rounding, no longer bit "
        "for bit"
    ]
    train(tiny)
    assert capsys.readouterr().err == ""
    lines = [json.loads(line) for line in run.starts_file.read_text().splitlines()]
    found = [(line["step"], line["arithmetic"]["products"]) for line in lines]
    assert found == [(0, "oneDNN"), (4, "torch"), (8, "oneDNN")]
    assert run.recorded()["arithmetic"] == began


def test_a_failure_is_recorded_and_tried_again(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cut_short(tiny, 2, monkeypatch)
    assert json.loads(run.result_file.read_text()) == {"status": "failed", "error": "MemoryError: crash"}
    assert run.result() is None
    assert train(tiny).status == "completed"
    assert json.loads(run.result_file.read_text())["status"] == "completed"


def test_a_run_that_diverges_leaves_its_last_good_checkpoint(tiny: RunConfig) -> None:
    """A loss that is not finite ends the run, and its weights are not saved."""
    config = changed(tiny, optimizer="sgd", lr=1e4, grad_clip=None, weight_decay=0.0, checkpoint_interval=1)
    result = train(config)
    assert result.status == "diverged"
    last = Checkpoint(RunDir(config.run_dir).checkpoint)
    assert last.step < result.diverged_at
