"""A probe's forward pass, which leaves no trace: eager, in full precision, without dropout, gradients or randomness."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pipeline.diagnostics.layers import Layer
from pipeline.diagnostics.precision import full_precision

Before = Callable[[Layer], None]
After = Callable[[Layer, Tensor, Tensor], None]
"""Of a layer, with its input and its output."""


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While it lasts: evaluation mode, no gradients, fp32 proper, eager execution; afterwards all as before."""
    training = [module for module in model.modules() if module.training]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
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


@contextmanager
def hooked(layers: list[Layer], after: After, before: Before | None = None) -> Iterator[None]:
    """Call `before` and `after` each layer's forward, next to it: strategies that gather its weights for the forward
    pass have done so, and have not given them up again."""
    handles: list[RemovableHandle] = []

    def on_entry(layer: Layer) -> Callable[..., None]:
        return lambda module, args: before(layer) if before else None

    def on_exit(layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            after(layer, args[0] if args else next(iter(kwargs.values())), output)

        return hook

    try:
        for layer in layers:
            if before:
                handles.append(layer.module.register_forward_pre_hook(on_entry(layer)))
            handles.append(layer.module.register_forward_hook(on_exit(layer), with_kwargs=True, prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
