"""DDP, FSDP2 and DeepSpeed's ZeRO in two real processes against one: curves, weights, checkpoints, exports."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from pipeline.config import DataConfig, ModelConfig, RunConfig, run_settings
from pipeline.export.litgpt import export
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import INTERRUPTED
from tests.support.wandb_offline import require_mirrored
from tests.training.test_trainer import curve, start_cli

pytestmark = pytest.mark.slow
STRATEGIES = ["ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"]


@pytest.fixture
def recipe(tiny: RunConfig) -> RunConfig:
    """All that several processes might get wrong: rates per role, accumulation, clipping, decay, unequal validation."""
    return changed(
        tiny, width=64, param="mup", steps=50, warmup_steps=5, global_batch=8, micro_batch=2, grad_clip=0.5,
        val_interval=20, val_sequences=5, checkpoint_interval=20,
    )  # fmt: skip


def of(config: RunConfig, optimizer: str) -> RunConfig:
    lr, decay = (1e-2, 0.1) if optimizer == "adamw" else (0.3, 0.0)
    return changed(config, optimizer=optimizer, lr=lr, weight_decay=decay)


def parallel(config: RunConfig, strategy: str, study: str = "") -> RunConfig:
    return changed(config, strategy=strategy, devices=2, study=study or strategy)


def run_all(runs: list[tuple[int | None, RunConfig]], folder: Path) -> str:
    """Train these one after another in the same two processes."""
    calls = []
    for i, (stop, config) in enumerate(runs):
        (folder / f"{i}.yaml").write_text(yaml.safe_dump(run_settings(config)))
        calls.append([stop, ["train", "--config", str(folder / f"{i}.yaml")]])
    (folder / "calls.json").write_text(json.dumps(calls))
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "several_runs.py"),
        str(folder / "calls.json"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stdout
    assert "Traceback" not in ended.stdout
    return ended.stdout


def off(ours: RunConfig, theirs: RunConfig) -> dict[str, float]:
    """Largest relative difference of every recorded value, over all steps."""
    rows = list(zip(curve(ours), curve(theirs), strict=True))
    assert [a["step"] for a, _ in rows] == list(range(1, theirs.steps + 1))
    assert all(a.keys() == b.keys() for a, b in rows)
    worst: dict[str, float] = {}
    for a, b in rows:
        for key in b:
            worst[key] = max(worst.get(key, 0.0), abs(a[key] - b[key]) / max(abs(b[key]), 1e-30))
    return worst


def weights_off(ours: RunConfig, theirs: RunConfig) -> float:
    """Largest relative Frobenius distance of a saved tensor, optimizer's state included."""
    a, b = (Checkpoint(RunDir(c.run_dir).checkpoint) for c in (ours, theirs))
    assert a.shapes == b.shapes
    pairs = [(a.tensor(name).float(), b.tensor(name).float()) for name in b.shapes]
    return max((x - y).norm().item() / max(y.norm().item(), 1e-30) for x, y in pairs)


def sizes(config: RunConfig) -> list[int]:
    return [path.stat().st_size for path in sorted(RunDir(config.run_dir).checkpoint.glob("*.safetensors"))]


def test_two_processes_are_one(recipe: RunConfig, tmp_path: Path) -> None:
    """Loss, gradient norm, validation and rates under AdamW and SGD, weights under SGD; norms also fixed; bf16; MLPs;
    AdamW's state handed from strategy to strategy whenever the second process is asked to stop.

    One test, since two processes take longer to start than to train all this.
    """
    frozen = changed(recipe, model_train_norms=False)
    adamw = {s: of(frozen if s in ("deepspeed_zero1", "deepspeed_zero3") else recipe, "adamw") for s in STRATEGIES}
    sgd = of(recipe, "sgd")
    bf16 = changed(of(recipe, "adamw"), precision="bf16-mixed", steps=20)
    mlp = RunConfig(
        width=32, base_width=16, param="mup", lr=0.1, optimizer="sgd", momentum=0.9, steps=50, warmup_steps=0,
        global_batch=16, micro_batch=4, val_interval=20, val_sequences=31, out=recipe.out, study="mlp", wandb="disabled",
        model=ModelConfig(kind="mlp", n_layer=3), data=DataConfig("digits", "digits"), loss="softmax_mse",
    )  # fmt: skip
    chain = changed(of(recipe, "adamw"), study="chain", checkpoint_interval=1000, wandb="offline")
    mixed = ("ddp", "fsdp", "deepspeed_zero2")
    handed = ["ddp", "fsdp", "deepspeed_zero1", "deepspeed_zero3", "deepspeed_zero2", "fsdp", "ddp"]
    run_all(
        [
            *[(None, parallel(adamw[s], s)) for s in STRATEGIES],
            *[(None, parallel(sgd, s)) for s in STRATEGIES],
            *[(None, parallel(bf16, s)) for s in mixed],
            (None, parallel(mlp, "fsdp", "mlp-fsdp")),
            *[(7 if i < len(handed) - 1 else None, parallel(chain, s, "chain")) for i, s in enumerate(handed)],
        ],
        tmp_path,
    )
    alone = [of(recipe, "adamw"), of(frozen, "adamw"), sgd, bf16, mlp]
    for config in alone:
        train(changed(config, study="alone"), show_progress=False)
    assert sum(r["grad_norm"] > 0.5 for r in curve(changed(sgd, study="alone"))) > 25, "clipping is at work"

    pairs = [(f"{s} adamw", parallel(adamw[s], s), adamw[s]) for s in STRATEGIES]
    pairs += [(f"{s} sgd", parallel(sgd, s), sgd) for s in STRATEGIES]
    pairs += [("mlp", parallel(mlp, "fsdp", "mlp-fsdp"), mlp), ("chain", parallel(chain, "ddp", "chain"), chain)]
    worst = {name: off(ours, changed(theirs, study="alone")) for name, ours, theirs in pairs}
    assert {name for name, keys in worst.items() if max(keys.values()) > 1e-4} == set(), worst
    distances = {name: weights_off(c, changed(t, study="alone")) for name, c, t in pairs if t.optimizer == "sgd"}
    assert {name for name, distance in distances.items() if distance > 1e-4} == set(), distances
    for s in mixed:
        assert max(off(parallel(bf16, s), changed(bf16, study="alone")).values()) < 0.02, s
    whole_chain = RunDir(parallel(chain, "ddp", "chain").run_dir)
    assert len(whole_chain.starts_file.read_text().splitlines()) == 7
    require_mirrored(whole_chain)  # of seven starts and two processes

    for config in (adamw, dict.fromkeys(STRATEGIES, sgd)):
        for s in STRATEGIES:
            parts, whole = sizes(parallel(config[s], s)), sum(sizes(changed(config[s], study="alone")))
            if s == "ddp":
                assert parts == [whole]
            else:
                assert len(parts) == 2
                assert all(0.4 * whole < part < 0.6 * whole for part in parts), (s, parts, whole)

    reference = export(changed(sgd, study="alone").run_dir, tmp_path / "alone").folder
    for s in ("fsdp", "deepspeed_zero3"):
        exported = export(parallel(sgd, s).run_dir, tmp_path / s).folder
        for file in ("model_config.yaml", "tokenizer.json", "tokenizer_config.json"):
            assert (exported / file).read_bytes() == (reference / file).read_bytes()
        a, b = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (exported, reference))
        assert a.keys() == b.keys()
        assert all((a[name] - b[name]).norm() <= 1e-4 * b[name].norm() for name in b)
        saved = Checkpoint(RunDir(parallel(sgd, s).run_dir).checkpoint)
        assert all(torch.equal(a[name], saved.tensor(f"model.{name}")) for name in a)


def test_variants_of_the_model_in_two_processes(recipe: RunConfig, tmp_path: Path) -> None:
    """Where the hidden states need no gradient, where the embedding needs none, and where one tensor is both ends."""
    base = changed(of(recipe, "adamw"), param="sp", steps=8, checkpoint_interval=8)
    variants = {
        "readout": changed(base, model_train="readout"),
        "no_input": changed(base, model_train="no_input"),
        "tied": changed(base, model_tie_embeddings=True),
    }
    runs = {(name, s): parallel(c, s, f"{name}-{s}") for name, c in variants.items() for s in STRATEGIES}
    run_all([(None, config) for config in runs.values()], tmp_path)
    for name, config in variants.items():
        train(changed(config, study=f"alone-{name}"), show_progress=False)
    worst = {(n, s): off(c, changed(variants[n], study=f"alone-{n}")) for (n, s), c in runs.items()}
    assert {key for key, keys in worst.items() if not max(keys.values()) < 1e-4} == set(), worst


def test_muon_in_two_processes_is_muon_in_one(recipe: RunConfig, tmp_path: Path) -> None:
    """DDP, FSDP2, and a run handed between them, to 1e-6: bf16 in Newton-Schulz makes a difference of a last bit of a
    gradient one of 1e-3, so that both must sum the same halves. Fused projections with fixed KV heads are in it."""
    base = changed(of(recipe, "adamw"), optimizer="muon", steps=20, micro_batch=4, grad_clip=None, model_kv_heads=2)
    accumulated = changed(base, study="alone")
    chain = changed(base, study="chain", checkpoint_interval=1000)
    handed = ("ddp", "fsdp", "ddp")
    run_all(
        [
            *((None, parallel(base, s)) for s in ("ddp", "fsdp")),
            *((6 if i < 2 else None, parallel(chain, s, "chain")) for i, s in enumerate(handed)),
        ],
        tmp_path,
    )
    train(accumulated, show_progress=False)
    for ours in (parallel(base, "ddp"), parallel(base, "fsdp"), parallel(chain, "ddp", "chain")):
        assert max(off(ours, accumulated).values()) < 1e-6, ours.study
        assert weights_off(ours, accumulated) < 1e-6, ours.study
    assert len(sizes(parallel(base, "fsdp"))) == 2, "its momentum is sharded as well"


def test_a_run_is_handed_from_strategy_to_strategy(recipe: RunConfig, tmp_path: Path) -> None:
    """Through the command line, by SIGUSR1, one process and two: the curve, the weights and the momentum of one
    process."""
    config = changed(of(recipe, "sgd"), steps=100, lr=0.05, momentum=0.9, study="chain", checkpoint_interval=1000)
    undisturbed = changed(config, study="alone")
    train(undisturbed, show_progress=False)
    run, files = RunDir(config.run_dir), []
    chain = ["auto", "fsdp", "deepspeed_zero1", "deepspeed_zero3", "deepspeed_zero2", "ddp", "auto"]
    for i, strategy in enumerate(chain):
        now = changed(config, strategy=strategy, devices=1 if strategy == "auto" else 2)
        before = len(run.records())
        process = start_cli(now, tmp_path / "run.yaml")
        deadline = time.monotonic() + 150
        last = i == len(chain) - 1
        while not last and len(run.records()) < before + 5:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        if not last:
            process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=150)
        assert process.returncode == (0 if last else 1), output
        assert last or output.rstrip().endswith(INTERRUPTED), output
        assert "Traceback" not in output
        assert Checkpoint(run.checkpoint).step == len(run.records())
        files.append(len(sizes(config)))
    assert files == [1, 2, 2, 2, 2, 1, 1], "sharded where the strategy shards"
    worst = off(config, undisturbed)
    assert max(worst.values()) < 1e-4, worst
    assert weights_off(config, undisturbed) < 1e-4
    starts = [json.loads(line) for line in run.starts_file.read_text().splitlines()]
    assert [(s["strategy"], s["processes"]) for s in starts] == [(s, 1 if s == "auto" else 2) for s in chain]
    assert all(a["step"] < b["step"] for a, b in itertools.pairwise(starts))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_on_a_gpu(recipe: RunConfig, tmp_path: Path, strategy: str) -> None:
    """nccl in a world of one process against no strategy at all, and bf16 close by."""
    single: dict[str, Any] = {"devices": 1, "study": strategy}
    for optimizer, precision in itertools.product(("adamw", "sgd"), ("32-true", "bf16-mixed")):
        config = changed(of(recipe, optimizer), precision=precision)
        alone = changed(config, study="alone")
        for one in (alone, changed(config, strategy=strategy, **single)):
            process = start_cli(one, tmp_path / "run.yaml")
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
        ours = changed(config, strategy=strategy, **single)
        worst = max(off(ours, alone).values())
        assert worst < (1e-4 if precision == "32-true" else 0.05)
        if optimizer == "sgd" and precision == "32-true":
            assert weights_off(ours, alone) < 1e-4
        assert math.isfinite(worst)
