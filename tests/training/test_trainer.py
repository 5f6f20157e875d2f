"""Whole runs: records, exact resume, divergence, precision, accumulation, processes."""

import dataclasses
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from pipeline.config import RunConfig, run_settings
from pipeline.data.order import training_batches
from pipeline.data.preparing.prepare import prepare
from pipeline.data.windows import TokenWindows
from pipeline.entries.schedules import SCHEDULES
from pipeline.errors import RequestError
from pipeline.models import gpt
from pipeline.models.init import initialize_
from pipeline.run.directory import RunDir
from pipeline.scaling import scaling_of
from pipeline.sweep import status
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import at_step

TIMINGS = {"tokens_per_second"}


def curve(config: RunConfig) -> list[dict[str, Any]]:
    """The records without what the clock decides."""
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in RunDir(config.run_dir).records()]


def start_cli(config: RunConfig, path: Path, *flags: str) -> subprocess.Popen[str]:
    """`pipeline train` of this config in another process."""
    path.write_text(yaml.safe_dump(run_settings(config)))
    command = [sys.executable, "-m", "pipeline", "train", "--config", str(path), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_that_stops_early_is_the_beginning_of_the_longer_one(tiny: RunConfig) -> None:
    train(tiny)
    stopped = changed(tiny, stop_after=7)
    assert stopped.run_name != tiny.run_name == changed(tiny, stop_after=12).run_name
    result = train(stopped)
    assert (result.status, result.steps, result.tokens) == ("completed", 7, 7 * 64)
    assert stopped.total_tokens == result.tokens
    first = [{k: v for k, v in r.items() if not k.startswith("val_")} for r in curve(stopped)]
    assert first == [{k: v for k, v in r.items() if not k.startswith("val_")} for r in curve(tiny)[:7]]
    assert [r["step"] for r in curve(stopped) if "val_loss" in r] == [5, 7]
    assert result.final["final_train_loss"] == first[-1]["loss"]


def test_a_run_that_stops_early_resumes(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = changed(tiny, stop_after=9)
    whole = changed(stopped, out=str(tmp_path / "whole"))
    train(whole)

    def ask(recorder: Recorder, trainer: Any) -> None:
        recorder.stop.asked = True

    with monkeypatch.context() as patched:
        at_step(6, ask, patched)
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    assert status.look(stopped.study_dir).runs[0].steps == 9
    assert train(stopped).steps == 9
    assert curve(stopped) == curve(whole)


@pytest.mark.parametrize("stop_after", [0, 13])
def test_stopping_beyond_the_schedule_is_refused(tiny: RunConfig, stop_after: int) -> None:
    with pytest.raises(RequestError, match=rf"^--stop_after must be 1..steps \(12\) or null, got {stop_after}$"):
        changed(tiny, stop_after=stop_after)


def test_records_and_result(tiny: RunConfig) -> None:
    result = train(tiny)
    run = RunDir(tiny.run_dir)
    records = run.records()
    assert [r["step"] for r in records] == list(range(1, 13))
    assert set(records[0]) == {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "logit_rms"}
    assert [r["step"] for r in records if "val_loss" in r] == [5, 10, 12]
    assert [r["tokens"] for r in records] == [64 * s for s in range(1, 13)]
    assert [r["lr"] for r in records] == pytest.approx([1e-2 * SCHEDULES["cosine"].factor(tiny, s) for s in range(12)])
    assert records[0]["loss"] == pytest.approx(math.log(300), abs=0.2)
    assert result.final["final_train_loss"] == records[-1]["loss"] < records[0]["loss"] - 0.3
    assert json.loads(run.result_file.read_text()) == result.to_json()
    assert (result.status, result.steps, result.tokens, result.diverged_at) == ("completed", 12, 768, None)
    assert result.parameters == sum(p.numel() for p in gpt.build(tiny.model, 32, 16).parameters())
    assert run.checkpoint.readlink() == Path("step-00000012.ckpt")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt", "step-00000012.ckpt"]


def test_steps_are_those_of_a_plain_torch_loop(tiny: RunConfig) -> None:
    """The same run written out: plain cross-entropy, clip_grad_norm_, AdamW with one group per parameter."""
    config = changed(tiny, param="mup", width=64, steps=8, grad_clip=0.5)
    train(config)
    model = gpt.build(config.model, 64, config.seq_len)
    specs = gpt.tensor_specs(model, 32)
    initialize_(model, specs, scaling_of(config), 0)
    shrunk = {"hidden": 0.5, "output": 0.5}  # m = 2
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "lr": 1e-2 * shrunk.get(specs[n].role, 1), "weight_decay": 0.1 / shrunk.get(specs[n].role, 1)}
            for n, p in model.named_parameters()
        ],
        betas=(0.9, 0.95), eps=1e-12,
    )  # fmt: skip
    peaks = [group["lr"] for group in optimizer.param_groups]
    windows = TokenWindows(prepare(config.data, 300), "train", 16)
    batches = training_batches(windows, seed=0, first_step=0, global_batch=4, micro_batch=4, rank=0, world_size=1)
    for step, record in enumerate(curve(config)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * SCHEDULES["cosine"].factor(config, step)
        tokens = next(batches)
        logits = model.logits(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
        assert record["logit_rms"] == pytest.approx(logits.square().mean().sqrt().item(), rel=1e-4)
        optimizer.step()


def test_validation_loss_is_the_mean_over_its_windows(tiny: RunConfig) -> None:
    config = changed(tiny, steps=1, warmup_steps=0, lr=1e-30, weight_decay=0.0, val_sequences=7, micro_batch=2)
    train(config)
    model = gpt.build(config.model, 32, 16)
    initialize_(model, gpt.tensor_specs(model, 32), scaling_of(config), 0)
    import numpy as np

    tokens = TokenWindows(prepare(config.data, 300), "val", 16)[np.arange(7)]
    reference = F.cross_entropy(model.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert curve(config)[-1]["val_loss"] == pytest.approx(reference.item(), rel=1e-5)


def test_a_finished_run_is_not_touched(tiny: RunConfig) -> None:
    first = train(tiny)
    before = {f: f.stat().st_mtime_ns for f in tiny.run_dir.rglob("*") if f.is_file()}
    assert train(tiny) == first
    assert {f: f.stat().st_mtime_ns for f in tiny.run_dir.rglob("*") if f.is_file()} == before


class Crash(Exception):
    pass


@pytest.mark.parametrize(
    ("crash_at", "accumulate", "optimizer"),
    [*((step, passes, "adamw") for step in (1, 4, 5, 6, 10, 12) for passes in (1, 2)), (6, 2, "muon")],
)
def test_resume_is_bit_identical_wherever_it_stopped(
    tiny: RunConfig, crash_at: int, accumulate: int, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(tiny, micro_batch=4 // accumulate, optimizer=optimizer)
    undisturbed = changed(config, study="undisturbed")
    train(undisturbed)

    original = Recorder.on_train_batch_end

    def crash(self: Recorder, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == crash_at:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "on_train_batch_end", crash)
        with pytest.raises(Crash):
            train(config)
    assert RunDir(config.run_dir).result() is None
    assert json.loads(RunDir(config.run_dir).result_file.read_text()) == {"status": "failed", "error": "Crash: "}
    train(config)
    assert curve(config) == curve(undisturbed)
    results = [RunDir(c.run_dir).result() for c in (config, undisturbed)]
    assert results[0].final["final_train_loss"] == results[1].final["final_train_loss"]
    ours, theirs = (Checkpoint(RunDir(c.run_dir).checkpoint) for c in (config, undisturbed))
    assert {name.partition(".")[0] for name in theirs.shapes} == {"model", "optimizer"}
    assert ours.shapes == theirs.shapes
    assert all(torch.equal(ours.tensor(name), theirs.tensor(name)) for name in theirs.shapes)


def test_records_that_were_lost_before_the_checkpoint_are_missed(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Recorder.on_train_batch_end

    def crash(self: Recorder, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == 9:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "on_train_batch_end", crash)
        with pytest.raises(Crash):
            train(tiny)
    metrics = RunDir(tiny.run_dir).metrics_file
    whole = metrics.read_text()
    first, second, *rest = whole.splitlines(keepends=True)
    metrics.write_text("".join([first, *rest]))
    with pytest.raises(
        RequestError, match=r"metrics\.jsonl is damaged \(\d+ of the \d+ records up to step 8 are there\)"
    ):
        train(tiny)
    assert metrics.read_text() == "".join([first, *rest])
    metrics.write_text(whole)
    train(tiny)
    assert second in metrics.read_text()


def test_gradient_accumulation_takes_the_same_steps(tiny: RunConfig) -> None:
    """SGD: AdamW with eps 1e-12 turns gradients that are mathematically zero into noise-sign steps."""
    whole, split = (changed(tiny, optimizer="sgd", lr=0.3, study=f"m{m}", micro_batch=m) for m in (4, 1))
    train(whole)
    train(split)
    for a, b in zip(curve(whole), curve(split), strict=True):
        assert a == pytest.approx(b, rel=2e-5)


def test_an_absurd_rate_ends_as_diverged(tiny: RunConfig) -> None:
    config = changed(tiny, lr=1e9)
    result = train(config)
    records = curve(config)
    assert (result.status, result.final["final_train_loss"], result.final["final_val_loss"]) == ("diverged", None, None)
    assert result.diverged_at == result.steps == records[-1]["step"] < 12
    assert records[-1]["loss"] is None
    assert all(r["loss"] is not None for r in records[:-1])
    assert train(config) == result


def test_divergence_between_records_names_its_step(tiny: RunConfig) -> None:
    every, rare = (changed(tiny, lr=1e9, log_interval=i, study=f"log{i}") for i in (1, 7))
    assert train(every).diverged_at == train(rare).diverged_at


def test_log_interval_thins_the_records_and_changes_nothing_else(tiny: RunConfig) -> None:
    every, rare = tiny, changed(tiny, log_interval=5, study="rare")
    train(every)
    train(rare)
    assert [r["step"] for r in curve(rare)] == [1, 5, 10, 12]
    steps = {r["step"]: r for r in curve(every)}
    assert all(r == steps[r["step"]] for r in curve(rare))


def test_bf16_mixed_trains_close_to_fp32(tiny: RunConfig) -> None:
    mixed = changed(tiny, precision="bf16-mixed")
    fp32, bf16 = train(tiny), train(mixed)
    assert bf16.final["final_train_loss"] == pytest.approx(fp32.final["final_train_loss"], rel=0.03)
    assert curve(mixed)[0]["loss"] != curve(tiny)[0]["loss"]
    checkpoint = Checkpoint(RunDir(mixed.run_dir).checkpoint)
    assert {checkpoint.tensor(name).dtype for name in checkpoint.shapes} == {torch.float32}


def test_keep_checkpoint_false_leaves_none(tiny: RunConfig) -> None:
    config = dataclasses.replace(tiny, keep_checkpoint=False)
    train(config)
    assert not list(RunDir(config.run_dir).checkpoints.iterdir())
    assert train(config).status == "completed"


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "pickle"])
def test_a_damaged_checkpoint_is_one_line(tiny: RunConfig, damage: str) -> None:
    train(tiny)
    run = RunDir(tiny.run_dir)
    run.result_file.unlink()
    (shard,) = run.checkpoint.glob("*.safetensors")
    place, reason = run.checkpoints / "step-00000012.ckpt", ""
    if damage == "pickle":  # what an earlier version of the pipeline wrote, or somebody who wants it to run code
        shutil.rmtree(place)
        run.checkpoint.unlink()
        run.checkpoint.write_bytes(pickle.dumps(os.system))
        place, reason = run.checkpoint, "not a folder of this version of the pipeline"
    elif damage == "truncate":
        size = shard.stat().st_size
        os.truncate(shard, size // 2)
        reason = f"shard-00000.safetensors has {size // 2} bytes of {size}"
    elif damage == "flip":
        content = bytearray(shard.read_bytes())
        content[-7] ^= 1
        shard.write_bytes(content)
        reason = "wrong checksum of shard-00000.safetensors"
    else:
        (place / "manifest.json").write_bytes(b"")
        reason = "manifest.json: Expecting value: line 1 column 1 (char 0)"
    before = {
        path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name not in ("result.json", ".lock")
    }
    with pytest.raises(RequestError) as error:
        train(tiny)
    assert str(error.value) == (
        f"checkpoint {place} is damaged ({reason}): delete {run.checkpoints} to start the run over"
    )
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "nothing is lost"
    shutil.rmtree(run.checkpoints)
    assert train(tiny).status == "completed"


@pytest.mark.slow
def test_killed_runs_resume_bit_identically(tiny: RunConfig, tmp_path: Path) -> None:
    """SIGKILL from outside, twice, at whatever instant; then the same command to the end."""
    config = changed(tiny, steps=150, checkpoint_interval=20, val_interval=50)
    undisturbed = changed(config, study="undisturbed")
    train(undisturbed)
    for kill_at in (30, 90):
        process = start_cli(config, tmp_path / "run.yaml")
        deadline = time.monotonic() + 120
        while len(RunDir(config.run_dir).records()) < kill_at:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not RunDir(config.run_dir).result_file.exists()
    process = start_cli(config, tmp_path / "run.yaml")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.startswith("resuming")
    assert curve(config) == curve(undisturbed)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=5000)
    process = start_cli(config, tmp_path / "run.yaml")
    deadline = time.monotonic() + 120
    while len(RunDir(config.run_dir).records()) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.rstrip().endswith("pipeline: error: interrupted; the same command continues")
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_ddp_processes_train_the_same_curve(tiny: RunConfig, tmp_path: Path, optimizer: str) -> None:
    """Loss, gradient norm and validation are global whatever the world size; initial values are the same on each."""
    config = changed(tiny, optimizer=optimizer, lr=1e-2 if optimizer == "adamw" else 0.3, val_sequences=7)
    alone = changed(config, study="alone")
    train(alone)
    process = start_cli(changed(config, micro_batch=1), tmp_path / "run.yaml", "--devices=2", "--strategy=ddp")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    ours, theirs = curve(changed(config, micro_batch=1)), curve(alone)
    assert [r["step"] for r in ours] == list(range(1, 13))
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
