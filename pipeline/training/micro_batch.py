"""The micro-batch: how many sequences one forward pass can take, and what to say when there were too many."""

import re
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pipeline.config import RunConfig
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.run.directory import RunDir
from pipeline.training.module import TrainingModule
from pipeline.training.parallel.ranks import gather
from pipeline.training.parallel.strategies import strategy_of

HEADROOM = 0.9  # share of the free memory to use: allocators leave gaps, and collectives have buffers


class MicroBatch(Callback):
    """``--micro_batch auto``: the largest divisor of a device's share of the batch that fits, recorded in config.yaml.

    Activations are measured, at one and at two sequences, on the module before a strategy wraps it, and go up in
    proportion; weights, gradients and the optimizer's state are counted, as the strategy shards them.
    """

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        self.config, self.run = config, run

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        assert isinstance(module, TrainingModule)
        c, device = self.config, trainer.strategy.root_device
        place = {"processes": c.world_size, "strategy": c.strategy, "device": _name(device)}
        known = gather(self.run.recorded().get("micro_batch") if trainer.is_global_zero else None)[0]
        if known is None or {key: known[key] for key in place} != place:
            most = min(gather(_largest(module, c, device)))
            known = {"value": most, **place}
            if trainer.is_global_zero:
                self.run.record(micro_batch=known)
        module.micro_batch = known["value"]
        trainer.accumulate_grad_batches = module.accumulation


def _largest(module: TrainingModule, config: RunConfig, device: torch.device) -> int:
    share = config.global_batch // config.world_size
    few, more = 1, min(4, share)
    if few == more:
        return share
    module.to(device)
    free, before = _free(device, config.devices), _in_use(device)
    peaks = [_peak(module, size, device) for size in (few, more)]
    per_sequence = max(0.0, (peaks[1] - peaks[0]) / (more - few))
    weights = sum(4 * p.numel() for p in module.parameters())
    fixed = max(0.0, peaks[0] - before - weights - few * per_sequence)  # the gradient counts below
    module.zero_grad(set_to_none=True)
    module.cpu()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    left = HEADROOM * free - _standing(weights, config) - fixed
    return max((m for m in range(1, share + 1) if share % m == 0 and m * per_sequence <= left), default=1)


def _peak(module: TrainingModule, size: int, device: torch.device) -> float:
    """Bytes in use at the worst moment of a forward and backward pass over so many sequences."""
    batch = module.data.val[np.arange(size) % len(module.data.val)]
    batch = batch.to(device) if isinstance(batch, Tensor) else (batch[0].to(device), batch[1].to(device))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")
    torch.autograd.backward(module.loss(batch).loss)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _kilobytes("self/status", "VmHWM")


def _in_use(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _kilobytes("self/status", "VmRSS")


def _free(device: torch.device, processes: int) -> float:
    """Bytes that one process may use, beside what it uses already, where `processes` share the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _kilobytes("meminfo", "MemAvailable")
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int(used.read_text()))
    return free / processes


def _kilobytes(file: str, key: str) -> float:
    """A line such as ``VmHWM:  123 kB`` of a file in /proc, in bytes."""
    line = re.search(rf"^{key}:\s*(\d+) kB", (Path("/proc") / file).read_text(), re.MULTILINE)
    assert line is not None
    return 1024.0 * int(line[1])


def _standing(weights: float, config: RunConfig) -> float:
    """Bytes that stay between passes: gradients and the optimizer's state beside the weights that are there already."""
    moments = OPTIMIZERS[config.optimizer].moments(config)
    return weights * strategy_of(config).standing(moments, config.world_size)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


_SHORTAGE = ("can't allocate memory", "could not create a primitive")
"""Words of torch's allocator on CPUs, and of oneDNN."""


def out_of_memory(error: RuntimeError, micro_batch: int) -> str | None:
    """What to change, if that is what the error is about."""
    if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in _SHORTAGE):
        return None
    smaller = next((m for m in range(micro_batch - 1, 0, -1) if micro_batch % m == 0), None)
    if smaller is None:
        return "out of memory with one sequence at a time: shard the model (--strategy fsdp) over more --devices"
    return f"out of memory with --micro_batch {micro_batch}: use --micro_batch {smaller}, or auto"
