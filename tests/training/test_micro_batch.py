"""The largest micro-batch that fits: the choice, its record, and what is said where there was too much."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.config import RunConfig, config_hash, run_settings
from pipeline.data.open import open_data
from pipeline.run.directory import RunDir
from pipeline.training import micro_batch
from pipeline.training.micro_batch import HEADROOM, out_of_memory
from pipeline.training.module import TrainingModule
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.training.test_trainer import curve

CPU = torch.device("cpu")


@pytest.fixture
def module(tiny: RunConfig) -> TrainingModule:
    config = changed(tiny, global_batch=48, micro_batch="auto")
    return TrainingModule(config, open_data(config))


def given(patched: pytest.MonkeyPatch, weights: float, *, free: float, fixed: float = 0.0) -> None:
    """A device with so much free memory, on which a sequence takes 1 MB, a pass `fixed` and gradients what weights
    do."""
    patched.setattr(micro_batch, "_free", lambda device, processes: free)
    patched.setattr(micro_batch, "_in_use", lambda device: 5e6)
    patched.setattr(micro_batch, "_peak", lambda module, size, device: 5e6 + weights + fixed + size * 1e6)


@pytest.mark.parametrize(("processes", "share"), [(1, 48), (2, 24), (3, 16), (48, 1)])
def test_the_choice_is_the_largest_divisor_that_fits(
    module: TrainingModule, monkeypatch: pytest.MonkeyPatch, processes: int, share: int
) -> None:
    config = dataclasses.replace(module.config, devices=processes)
    weights = 4.0 * sum(p.numel() for p in module.parameters())
    standing = 3 * weights  # gradients and Adam's two moments
    for fixed in (0.0, 3e6):
        chosen = []
        for room in range(60):  # sequences for which there is room, and half a one
            free = ((room + 0.5) * 1e6 + standing + fixed) / HEADROOM
            given(monkeypatch, weights, free=free, fixed=fixed)
            chosen.append(micro_batch._largest(module, config, CPU))
        divisors = [d for d in range(1, share + 1) if share % d == 0]
        assert chosen == [max((d for d in divisors if d <= room), default=1) for room in range(60)]
    given(monkeypatch, weights, free=0.0)
    assert micro_batch._largest(module, config, CPU) == 1


def test_what_is_measured_grows_with_the_batch_and_leaves_no_trace(
    module: TrainingModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of this model over 2048 tokens of 16384 entries: logits alone are far above the noise of malloc."""
    config = changed(module.config, seq_len=512, model_vocab_size=16384, global_batch=16, micro_batch="auto")
    real = TrainingModule(config, open_data(config))
    before = {name: p.clone() for name, p in real.named_parameters()}
    few, more = (micro_batch._peak(real, size, CPU) for size in (1, 8))
    assert more - few > 7 * 512 * 32 * 4, "at least what the last layer puts out"
    chosen = []
    for free in (0.0, 1e7, 1e8, 1e9, 1e13):
        monkeypatch.setattr(micro_batch, "_free", lambda device, processes, free=free: free)
        chosen.append(micro_batch._largest(real, config, CPU))
    assert (chosen[0], chosen[-1]) == (1, 16)
    assert chosen == sorted(chosen)
    assert all(16 % size == 0 for size in chosen)
    assert all(torch.equal(p, before[name]) for name, p in real.named_parameters())
    assert all(p.grad is None for p in real.parameters())


def test_free_memory_is_shared_and_within_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = micro_batch._free(CPU, 1)
    total = micro_batch._kilobytes("meminfo", "MemTotal")
    assert 0 < whole < total
    assert micro_batch._free(CPU, 4) == pytest.approx(whole / 4, rel=0.2)
    monkeypatch.setattr(micro_batch, "_kilobytes", lambda file, key: 8e9)
    cgroup = {"memory.max": "3000000000\n", "memory.current": "1000000000\n"}
    exists, read = Path.exists, Path.read_text
    monkeypatch.setattr(Path, "exists", lambda self: self.name in cgroup or exists(self))
    monkeypatch.setattr(Path, "read_text", lambda self, *a: cgroup.get(self.name) or read(self, *a))
    assert micro_batch._free(CPU, 2) == 1e9
    cgroup["memory.max"] = "max\n"
    assert micro_batch._free(CPU, 2) == 4e9
    cgroup["memory.max"] = "30000000000\n"
    assert micro_batch._free(CPU, 2) == 4e9


@pytest.mark.parametrize(
    ("strategy", "optimizer", "momentum", "expected"),
    [
        # n = 4 processes, 1000 fp32 weights: bytes of gradients, a master copy or the sharded weights, moments
        ("auto", "adamw", 0.0, 4000 + 8000),
        ("ddp", "adam", 0.0, 4000 + 8000),
        ("ddp", "sgd", 0.0, 4000),
        ("ddp", "sgd", 0.9, 4000 + 4000),
        ("fsdp", "adamw", 0.0, 1000 + 1000 + 2000),
        ("fsdp", "sgd", 0.0, 1000 + 1000),
        ("deepspeed_zero1", "adamw", 0.0, 4000 + 1000 + 2000),
        ("deepspeed_zero1", "sgd", 0.9, 4000 + 1000 + 1000),
        ("deepspeed_zero2", "adamw", 0.0, 1000 + 1000 + 2000),
        ("deepspeed_zero3", "adamw", 0.0, 1000 + 1000 + 2000),
        ("deepspeed_zero3", "sgd", 0.0, 1000 + 1000),
    ],
)
def test_what_stays_between_passes_is_counted(
    tiny: RunConfig, strategy: str, optimizer: str, momentum: float, expected: float
) -> None:
    config = changed(
        tiny, strategy=strategy, optimizer=optimizer, momentum=momentum, weight_decay=0.0, devices=2, num_nodes=2,
        micro_batch=1,
    )  # fmt: skip
    assert micro_batch._standing(4000.0, config) == expected


def test_it_is_found_once_recorded_and_used_again(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tiny, optimizer="sgd", lr=0.3, micro_batch="auto")
    calls: list[tuple[int, str]] = []

    def largest(module: TrainingModule, config: RunConfig, device: torch.device) -> int:
        calls.append((config.world_size, config.strategy))
        return 2

    passes: list[int] = []
    original = TrainingModule.training_step

    def training_step(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        passes.append(len(batch))
        if self.trainer.global_step == 6 and len(calls) == 1 and len(passes) == 13:
            raise MemoryError("stop here")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(micro_batch, "_largest", largest)
    monkeypatch.setattr(TrainingModule, "training_step", training_step)
    with pytest.raises(MemoryError):
        train(config)
    run = RunDir(config.run_dir)
    expected = {"value": 2, "processes": 1, "strategy": "auto", "device": "cpu"}
    assert run.recorded()["micro_batch"] == expected
    train(config)
    assert calls == [(1, "auto")], "the second start reads it"
    assert set(passes) == {2}
    assert len(passes) == 13 + 2 * 8
    fixed = changed(tiny, optimizer="sgd", lr=0.3, micro_batch=2, study="fixed")
    train(fixed)
    assert curve(config) == curve(fixed)
    assert config_hash(config) == config_hash(fixed)


@pytest.mark.parametrize(
    "recorded",
    [
        {"processes": 2, "strategy": "auto", "device": "cpu"},
        {"processes": 1, "strategy": "fsdp", "device": "cpu"},
        {"processes": 1, "strategy": "auto", "device": "NVIDIA H100 80GB HBM3"},
    ],
)
def test_elsewhere_it_is_measured_anew(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, recorded: dict[str, object]
) -> None:
    config = changed(tiny, micro_batch="auto", steps=1, warmup_steps=0)
    run = RunDir(config.run_dir)
    run.create(config, open_data(config).fingerprint)
    run.record(micro_batch={"value": 1, **recorded})
    versions = run.recorded()["versions"]
    monkeypatch.setattr(micro_batch, "_largest", lambda *_: 2)
    train(config)
    assert run.recorded()["micro_batch"] == {"value": 2, "processes": 1, "strategy": "auto", "device": "cpu"}
    assert run.recorded()["versions"] == versions
    assert yaml.safe_load(run.config_file.read_text())["micro_batch"] == "auto"


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (12, "out of memory with --micro_batch 12: use --micro_batch 6, or auto"),
        (9, "out of memory with --micro_batch 9: use --micro_batch 3, or auto"),
        (7, "out of memory with --micro_batch 7: use --micro_batch 1, or auto"),
        (1, "out of memory with one sequence at a time: shard the model (--strategy fsdp) over more --devices"),
    ],
)
def test_what_to_change_when_memory_was_short(size: int, line: str) -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), size) == line
    words = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    assert out_of_memory(RuntimeError(words), size) == line
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), size) is None


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.cli.main import main
from pipeline.training.recorder import Recorder

original = Recorder.on_train_start
def start(self, trainer, module):
    original(self, trainer, module)
    used = 1024 * int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmSize")).split()[1])
    resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, used + 60_000_000))
Recorder.on_train_start = start
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_real_shortage_is_one_line_that_names_the_micro_batch(tiny: RunConfig, tmp_path: Path) -> None:
    """As under ``ulimit -v``: 64 sequences of 128 tokens leave more than 60 MB of activations."""
    config = changed(tiny, width=128, seq_len=128, global_batch=64, micro_batch=64, steps=2, val_sequences=2)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_settings(config)))
    command = [sys.executable, "-c", OUT_OF_MEMORY, "train", "--config", str(tmp_path / "run.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended.stderr
    line = "out of memory with --micro_batch 64: use --micro_batch 32, or auto"
    assert ended.stderr.splitlines()[-1] == f"pipeline: error: {line}"
    assert "Traceback" not in ended.stderr
    assert line in RunDir(config.run_dir).result_file.read_text()
    fewer = changed(config, micro_batch=1, model_n_layer=2)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_settings(fewer)))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
