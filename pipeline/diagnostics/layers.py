"""Layers, the modules that own a model's weights, told by their type, and the names they are reported under."""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import litgpt.model
import torch
from torch import Tensor, nn

LayerKind = Literal["linear", "embedding", "norm"]
ShapeOf = Callable[[nn.Parameter], tuple[int, ...]]
"""Of a whole parameter."""


@dataclass
class Layer:
    """A module that owns a weight, a bias, or both, and has no layers inside."""

    name: str
    module: nn.Module
    kind: LayerKind
    tensors: dict[str, str]
    """Attribute (weight, bias) -> name of that parameter in the model, the first one where it is tied."""
    parts: tuple[tuple[str, int, int], ...] = ()
    """Rows of the output that are reported under names of their own; empty: all, under the layer's."""
    transposed: bool = False
    """The weight is stored (fan_in, fan_out)."""
    offset: float | None = None
    """Norms: what is added to the weight to make the gain; None until `normalized` has found it."""

    def rows(self, fan_out: int) -> tuple[tuple[str, int, int], ...]:
        return self.parts or ((self.name, 0, fan_out),)

    def tensor(self, attribute: str) -> Tensor | None:
        """The weight or the bias as it is now, to be read inside a forward hook, where strategies have gathered it."""
        value = getattr(self.module, attribute, None) if attribute in self.tensors else None
        return value.detach() if isinstance(value, Tensor) else None


def own_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(parameter.shape)


def layers(model: nn.Module, shape: ShapeOf = own_shape) -> tuple[list[Layer], dict[str, str]]:
    """The layers of a model in its order, and why any other parameter has none.

    Linear layers, embeddings and, whatever their class, modules that multiply what they normalize by a gain. litgpt's
    fused ``attn.qkv`` has the parts ``attn.q``, ``attn.k`` and ``attn.v``. `shape` is for parameters that a
    strategy has taken apart.
    """
    first: dict[int, str] = {}
    owners: list[Layer] = []
    left_out: dict[str, str] = {}
    fused: dict[int, tuple[tuple[str, int, int], ...]] = {}
    for name, module in walk(model):
        if isinstance(module, litgpt.model.CausalSelfAttention):
            fused[id(module.qkv)] = _qkv(name, module.config)
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        names = {key: first.setdefault(id(p), f"{name}.{key}" if name else key) for key, p in own.items()}
        kind = _kind(module, own, shape)
        if kind is None:
            left_out |= dict.fromkeys(names.values(), f"it belongs to a {type(module).__name__}")
            continue
        transposed = isinstance(module, transposed_types())
        owners.append(Layer(name, module, kind, names, fused.get(id(module), ()), transposed))
    return owners, left_out


def walk(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """`named_modules`, but a submodule that torch.compile wrapped is the module inside, under its own name."""
    model = inner(model)
    yield prefix, model
    for name, child in model.named_children():
        yield from walk(child, f"{prefix}.{name}" if prefix else name)


def inner(module: nn.Module) -> nn.Module:
    """The module itself, without the wrapper of torch.compile."""
    while isinstance(original := getattr(module, "_orig_mod", None), nn.Module):
        module = original
    return module


def _qkv(name: str, config: litgpt.Config) -> tuple[tuple[str, int, int], ...]:
    queries, keys = config.n_head * config.head_size, config.n_query_groups * config.head_size
    prefix = f"{name}." if name else ""
    return (
        (f"{prefix}q", 0, queries),
        (f"{prefix}k", queries, queries + keys),
        (f"{prefix}v", queries + keys, queries + 2 * keys),
    )


def _kind(module: nn.Module, own: dict[str, nn.Parameter], shape: ShapeOf) -> LayerKind | None:
    if isinstance(module, (nn.Linear, *transposed_types())):
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if any(module.children()) or not own.keys() <= {"weight", "bias"} or "weight" not in own:
        return None
    shapes = {shape(p) for p in own.values()}
    return "norm" if len(shapes) == 1 and (isinstance(module, nn.LayerNorm) or len(next(iter(shapes))) == 1) else None


def transposed_types() -> tuple[type[nn.Module], ...]:
    """The linear layer of GPT-2 in transformers, if that is in use at all."""
    module = sys.modules.get("transformers.pytorch_utils")
    return (module.Conv1D,) if module else ()


@torch.no_grad()
def normalized(layer: Layer, x: Tensor) -> Tensor | None:
    """What a norm multiplies by its gain: its own normalization, without gain and bias, of x.

    None for a module that is no such thing, e.g. a PReLU, which is found out when it is first called.
    """
    weight = layer.tensor("weight")
    assert weight is not None
    if layer.offset is None:
        if weight.shape != x.shape[x.ndim - weight.ndim :]:
            return None
        at_zero, at_one = _with_gain(layer, weight, 0.0, x), _with_gain(layer, weight, 1.0, x)
        if at_zero.shape != x.shape:
            return None
        if not at_zero.any():
            layer.offset = 0.0
        elif torch.allclose(at_one, 2 * at_zero):
            layer.offset = 1.0
        else:
            return None
    return _with_gain(layer, weight, 1.0 - layer.offset, x)


def _with_gain(layer: Layer, like: Tensor, weight: float, x: Tensor) -> Tensor:
    """The module's output if all its weights were one number and its biases zero."""
    bare = copy.copy(layer.module)
    values: dict[str, Tensor | None] = dict.fromkeys(layer.module.__dict__["_parameters"])
    values |= {key: torch.full_like(like, weight if key == "weight" else 0.0) for key in layer.tensors}
    bare.__dict__["_parameters"] = values
    result: Tensor = type(layer.module).forward(bare, x)
    return result
