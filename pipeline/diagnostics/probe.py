"""A probe's forward pass, seen layer by layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pipeline.diagnostics.layers import Layer

Before = Callable[[Layer], None]
After = Callable[[Layer, Tensor, Tensor], None]
"""Of a layer, with its input and its output."""


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
