"""Real training by several processes, killed three times and continued with other numbers of them."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.config import DataConfig, ModelConfig, RunConfig, run_settings
from pipeline.data.preparing.prepare import prepare
from tests.data.streaming.test_stream import write_corpus

STEPS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> RunConfig:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), files=8, per_file=60)
    data = DataConfig(name="ddp", format="text", path=corpus, validation_fraction=0.2, lanes=4, era=8)
    tokenizer = prepare(data, 300) / "tokenizer.json"
    return RunConfig(
        width=32, base_width=32, steps=STEPS, warmup_steps=5, global_batch=8, seq_len=16, seed=5, val_sequences=8,
        val_interval=1000, checkpoint_interval=4, wandb="disabled", model=ModelConfig(n_layer=1, head_size=16, vocab_size=300),
        data=dataclasses.replace(data, tokenizer=str(tokenizer)),
    )  # fmt: skip


def start(recipe: Path, out: Path, hashes: Path, devices: int) -> subprocess.Popen[str]:
    strategy = ["--strategy", "ddp"] if devices > 1 else []
    command = [
        sys.executable, str(Path(__file__).parents[1] / "support" / "hashed_training.py"), "train", "--config", str(recipe),
        "--out", str(out), "--devices", str(devices), "--micro_batch", str(8 // devices), *strategy,
    ]  # fmt: skip
    environment = {**os.environ, "WINDOW_HASHES": str(hashes)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def windows(hashes: Path) -> dict[int, list[str]]:
    """The windows of every step that one attempt began, in the order of the global batch."""
    by_step: dict[int, dict[int, list[str]]] = {}
    if hashes.exists():
        for line in hashes.read_text().splitlines():
            step, rank, *rows = line.split()
            by_step.setdefault(int(step), {})[int(rank)] = rows
    return {step: [row for rank in sorted(ranks) for row in ranks[rank]] for step, ranks in by_step.items()}


def group(pgid: int) -> list[int]:
    """Live processes of a process group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pgid and fields[0] not in "ZX":
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["prepared", "stream"])
def test_killed_training_reads_what_undisturbed_training_does(run: RunConfig, tmp_path: Path, mode: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = run_settings(run)
    for place in ("out", "micro_batch", "devices"):
        del settings[place]
    settings["data"]["mode"] = mode
    recipe.write_text(yaml.safe_dump(settings))

    undisturbed = start(recipe, tmp_path / "undisturbed", tmp_path / "undisturbed.hashes", devices=1)
    output = undisturbed.communicate(timeout=200)[0]
    assert undisturbed.returncode == 0, output
    expected = windows(tmp_path / "undisturbed.hashes")
    assert len(expected) == STEPS

    draw = random.Random(mode)
    got: dict[int, list[str]] = {}
    for attempt, devices in enumerate([2, 4, 2, 1]):
        hashes = tmp_path / f"{attempt}.hashes"
        process = start(recipe, tmp_path / "disturbed", hashes, devices)
        if devices > 1:
            steps = draw.randint(6, 14)  # before the end: at most 3 x 15 steps pass
            while len(windows(hashes)) < steps and process.poll() is None:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            ends = time.monotonic() + 60
            while group(process.pid) and time.monotonic() < ends:  # the other ranks and all readers follow
                time.sleep(0.1)
            assert not group(process.pid), "processes outlive their run"
        output = process.communicate(timeout=200)[0]
        if devices == 1:
            assert process.returncode == 0, output
        began = windows(hashes)
        assert min(began) <= max(got, default=0) + 1, "no step is left out"
        # of the step at which it was killed, some ranks may have written nothing yet
        got |= {step: rows for step, rows in began.items() if len(rows) == run.global_batch}
    assert got == expected

    results = [
        json.loads(next((tmp_path / name).rglob("result.json")).read_text()) for name in ("undisturbed", "disturbed")
    ]
    assert results[0]["final_val_loss"] == pytest.approx(results[1]["final_val_loss"], rel=1e-4)
