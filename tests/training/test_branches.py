"""Stop-and-branch: a run that another one left at the beginning of its decay is the undisturbed one, bit for bit."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig, shared_steps
from pipeline.entries.schedules import SCHEDULES
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import at_step, steps
from tests.training.test_trainer import curve


@pytest.fixture
def stable(tiny: RunConfig) -> RunConfig:
    """A GPT of 12 steps, of which the last 3 decay."""
    return changed(tiny, schedule="wsd", decay_fraction=0.25, checkpoint_interval=100)


MLP: dict[str, Any] = {
    "model": ModelConfig(kind="mlp", n_layer=3),
    "data": DataConfig(format="digits"),
    "optimizer": "sgd",
    "grad_clip": None,
    "weight_decay": None,
    "embedding_init": "constant",
}


def weights(config: RunConfig) -> dict[str, Any]:
    """The last weights and the optimizer's state."""
    return {name: value.tolist() for name, value in load_file(RunDir(config.run_dir).checkpoint / SHARD).items()}


SHARD = "shard-00000.safetensors"


def starts(config: RunConfig) -> list[int]:
    return [json.loads(line)["step"] for line in RunDir(config.run_dir).starts_file.read_text().splitlines()]


def alone(config: RunConfig) -> RunConfig:
    """The same, undisturbed."""
    there = changed(config, study="alone", branch_steps=())
    train(there)
    return there


@pytest.mark.parametrize(
    "settings",
    [
        {"diagnostics": DiagnosticsConfig(interval=2), "log_interval": 4, "micro_batch": 2},
        MLP | {"diagnostics": DiagnosticsConfig(sharpness_interval=2, sharpness_probe=4, ntk=True)},
        pytest.param(
            MLP | {"optimizer": "adam", "schedule": "constant", "decay_fraction": 0.1}, marks=pytest.mark.slow
        ),
    ],
    ids=["GPT", "MLP, sharpness", "MLP, constant"],
)
def test_branches_are_the_undisturbed_runs_bit_for_bit(stable: RunConfig, settings: dict[str, Any]) -> None:
    long = dataclasses.replace(stable, **settings, branch_steps=(4, 8))
    train(long)
    decay = 0 if long.schedule == "constant" else 1
    for length, branched_at in ((4, 3), (8, 7 - decay)):
        branch = long.branch(length)
        assert steps(branch) == [f"step-{branched_at:08d}.ckpt"], "as though interrupted there"
        train(branch)
        assert starts(branch) == [branched_at]
        assert (
            RunDir(branch.run_dir).recorded()["branched"].items()
            >= {"from": long.run_name, "step": branched_at}.items()
        )
        undisturbed = alone(branch)
        assert curve(branch) == curve(undisturbed)
        assert weights(branch) == weights(undisturbed)
        assert steps(branch) == [f"step-{length:08d}.ckpt"], "what it began from is used up"
        RunDir(branch.run_dir).require_sealed(branch, RunDir(branch.run_dir).records())
    undisturbed = alone(long)
    assert (curve(long), weights(long)) == (curve(undisturbed), weights(undisturbed)), "leaving them changes nothing"


def test_what_is_there_is_left_alone_and_a_resumed_run_leaves_the_rest(
    stable: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = changed(stable, branch_steps=(4, 8), checkpoint_interval=2)
    finished, going = long.branch(4), long.branch(8)
    train(finished)
    before = {path: path.stat().st_mtime_ns for path in finished.run_dir.rglob("*")}

    def crash(*_: Any) -> None:
        raise MemoryError("crash")

    with monkeypatch.context() as patched:
        at_step(5, crash, patched)
        with pytest.raises(MemoryError):
            train(long)
    assert {path: path.stat().st_mtime_ns for path in finished.run_dir.rglob("*")} == before
    assert not going.run_dir.exists()
    train(long)
    assert starts(long) == [0, 4]
    (RunDir(going.run_dir).metrics_file).write_text("")  # by hand
    with pytest.raises(RequestError, match=r"metrics\.jsonl is gone, so the run cannot go on"):
        train(going)
    shutil.rmtree(going.run_dir)
    shutil.rmtree(long.run_dir)
    RunDir(going.run_dir).create(going, "x")
    with RunDir(going.run_dir).lock():
        train(long)
    assert steps(going) == [], "somebody trains it"
    shutil.rmtree(long.run_dir)
    shutil.rmtree(going.run_dir)
    with monkeypatch.context() as patched:
        at_step(5, crash, patched)
        with pytest.raises(MemoryError):
            train(going)
    train(long)
    assert steps(going) == ["step-00000004.ckpt", "step-00000002.ckpt"], "it has begun by itself"


def test_a_run_that_diverges_leaves_what_lies_before(stable: RunConfig) -> None:
    long = changed(stable, optimizer="sgd", lr=3e2, grad_clip=None, weight_decay=0.0, steps=40, warmup_steps=1)
    at = train(long).diverged_at
    assert at is not None
    assert 3 < at < 30, "else this tests nothing"
    shutil.rmtree(long.run_dir)
    long = changed(long, branch_steps=(4, 39))
    train(long)
    early, late = long.branch(4), long.branch(39)
    assert Checkpoint(RunDir(early.run_dir).checkpoint).step == 3
    assert not late.run_dir.exists()
    assert train(late).diverged_at == at
    rare = changed(long, log_interval=100, val_interval=100, branch_steps=tuple(range(4, 40, 3)), study="rare")
    train(rare)
    assert curve(rare) == curve(alone(rare)), "a divergence is seen when it would have been"
    assert [length for length in rare.branch_steps if steps(rare.branch(length))] == [
        length for length in rare.branch_steps if shared_steps(rare, length) < at
    ]


SETTINGS: list[dict[str, Any]] = [
    {"schedule": "wsd", "decay_fraction": fraction, "warmup_steps": warmup}
    for fraction in (0.01, 0.3, 0.9, 1.0)
    for warmup in (0, 5)
] + [{"schedule": name, "decay_fraction": 0.1, "warmup_steps": 5} for name in SCHEDULES if name != "wsd"]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: " ".join(map(str, s.values())))
def test_shared_steps_are_those_of_the_same_learning_rate(stable: RunConfig, settings: dict[str, Any]) -> None:
    """By brute force."""
    long = changed(stable, steps=60, **settings)
    factor = SCHEDULES[long.schedule].factor
    for length in range(6, 60):
        short = long.branch(length)
        same = next((s for s in range(length) if factor(short, s) != factor(long, s)), length)
        same = min(same, length - 1)
        expected = same if same > long.warmup_steps and long.schedule in ("wsd", "constant") else 0
        found = shared_steps(long, length)
        assert found <= same
        assert found == expected or settings["decay_fraction"] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": "cosine", "decay_fraction": 0.1},
        {"branch_steps": (12,)},
        {"branch_steps": (2,)},
        {"branch_steps": (0,)},
        {"stop_after": 9},
        {"steps_scaling": "power", "base_steps": 10},
        {"weight_decay_scaling": "timescale", "base_steps": 10},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_shares_nothing_is_refused(stable: RunConfig, change: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"^--branch_steps \d+: shares nothing with this run of 12 steps"):
        changed(stable, **{"branch_steps": (8,)} | change)


def test_branch_steps_are_no_part_of_a_runs_identity(stable: RunConfig, tmp_path: Path) -> None:
    long = changed(stable, branch_steps=(8,))
    assert long.run_name == stable.run_name
    assert long.branch(8).run_name == changed(stable, steps=8).run_name
    RunDir(long.run_dir).create(long, "x")
    assert RunDir(long.run_dir).config() == changed(long, branch_steps=()), "nor of what repeats it"
