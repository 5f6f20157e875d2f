"""This machine: the devices that a run on it can have."""

import ctypes
import os
from pathlib import Path

from pipeline.console import plural
from pipeline.errors import require
from pipeline.processes import cores

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")
"""Of NVIDIA's cards, on Windows' Linux, on Jetsons, and of AMD's."""


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return []  # without the second that it takes to import torch
    import torch

    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(index) for index in range(count)])[:count]


SHARED = 4
"""Processes that may share a core; more than that is a slip of the keyboard."""


def check_devices(devices: int) -> None:
    """Raises `RequestError` where this machine has fewer GPUs or, without one, far fewer cores."""
    found = len(gpus())
    there = plural(found, "GPU") if found else plural(cores(), "core")
    most = found or SHARED * cores()
    require(devices <= most, f"--devices {devices}: this machine has {there}; give at most {most}")


def arithmetic() -> dict[str, str]:
    """What the last bits of a run's numbers depend on beside its settings: the device, of a CPU its instructions, and
    the libraries."""
    import torch

    from pipeline.products import library

    version = str(torch.__version__)
    if gpus():
        return {"torch": version, "device": torch.cuda.get_device_name()}
    return {"torch": version, "device": torch.backends.cpu.get_cpu_capability(), "products": library()}


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = 32 * 2**20  # glibc takes no more


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed for the next step, which on CPUs spares a small model a fifth of its time:
    the system would give every page of activations and logits anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None and not gpus():
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, 2**30)
