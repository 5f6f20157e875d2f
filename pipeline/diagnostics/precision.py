"""Precision, full, which differences and eigenvalues can be trusted to, and the mode of a model that is measured."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast on the device, and fp32 matrix products in fp32 proper, whatever training allows (TF32, bf16)."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def measured(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While it lasts: evaluation mode, `full_precision`, eager execution; afterwards mode and randomness as before."""
    training = [module for module in model.modules() if module.training]
    with ExitStack() as stack:
        stack.enter_context(full_precision(device))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True
