"""Where a model's tensors stand: what owns and calls them, which of their dimensions grow with the width, and the role
that follows.

A tensor has an *end* per module that owns it: a tied embedding has two, with one role each.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import nn

from pipeline.audit.builds import Built
from pipeline.diagnostics.layers import transposed_types, walk
from pipeline.errors import RequestError, require
from pipeline.parameterization.rules import Role

Shape = Literal["linear", "embedding", "raw"]
Shapes = Mapping[int, tuple[int, ...]]
"""By width."""


@dataclass(frozen=True)
class End:
    """A tensor as one of its owners uses it."""

    label: str
    """The tensor's name; of a second end with the owner's."""
    tensor: str
    owner: str
    """Name of the module."""
    shape: Shape
    fan_in: float
    """Width exponent of the number of terms that each output sums; 0 for what does not grow."""
    grows: tuple[int, ...]
    """The tensor's dimensions that grow with the width."""
    sums: tuple[int, ...] | None = ()
    """The dimensions that each output sums over; None: a module of the user's own knows."""
    role: Role = "finite"
    inner: bool = False
    """Sums over the width into a fixed number of outputs, but is no readout: fixed KV heads, a router."""
    alone: bool = True
    """Its owner has no other matrix, so that what it does is this tensor's doing."""
    tied: bool = False


def ends_of(builds: Sequence[Built]) -> list[End]:
    """Of models at several widths, narrowest first, without the roles that only a pass can tell. Raises `RequestError`
    where their tensors are not the same ones or no width can be seen in them."""
    first = builds[0]
    for other in builds[1:]:
        differing = sorted(first.parameters.keys() ^ other.parameters.keys())
        require(
            not differing,
            f"shapes do not scale: {differing[0] if differing else ''} is at only one of widths {first.width} and "
            f"{other.width}: let the width change sizes alone",
        )
    widths = [built.width for built in builds]
    shapes = {name: {b.width: tuple(b.parameters[name].shape) for b in builds} for name in first.parameters}
    growing = {name: _growing(name, widths, of) for name, of in shapes.items()}
    require(any(growing.values()), f"build ignores width: every tensor has one shape at {', '.join(map(str, widths))}")
    owners: dict[str, list[tuple[str, str, nn.Module]]] = {name: [] for name in first.parameters}
    names = {id(p): name for name, p in first.parameters.items()}
    for path, module in walk(first.model):
        for attribute, p in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(p) in names:
                owners[names[id(p)]].append((path, attribute, module))
    found = []
    for name, of in owners.items():
        for place, (path, attribute, module) in enumerate(of):
            label = name if not place else f"{name} as {path}.{attribute}"
            end = _end(label, name, path, module, widths, shapes[name], growing[name])
            found.append(replace(end, tied=len(of) > 1))
    return found


def _growing(name: str, widths: Sequence[int], shapes: Shapes) -> tuple[int, ...]:
    """The dimensions that grow. Raises `RequestError` for one that goes with the width in no way that is understood."""
    said = ", ".join("x".join(map(str, shapes[w])) or "scalar" for w in widths)
    lengths = {len(shape) for shape in shapes.values()}
    require(len(lengths) == 1, f"shapes do not scale: {name} is {said} at widths {', '.join(map(str, widths))}")
    grows = []
    for d in range(lengths.pop()):
        sizes = [shapes[w][d] for w in widths]
        if len(set(sizes)) == 1:
            continue
        rising = all(b > a for a, b in itertools.pairwise(sizes))
        if not rising or _exponent(widths, sizes) > 1.25:
            raise RequestError(
                f"shapes do not scale: {name} is {said} at widths {', '.join(map(str, widths))}: a dimension has to "
                "stay or to grow like the width"
            )
        grows.append(d)
    return tuple(grows)


def _exponent(widths: Sequence[int], sizes: Sequence[float]) -> float:
    return float(np.polyfit(np.log(widths), np.log(sizes), 1)[0])


def _end(
    label: str, name: str, path: str, module: nn.Module, widths: Sequence[int], shapes: Shapes, grows: tuple[int, ...]
) -> End:
    n_dims = len(shapes[widths[0]])
    matrices = sum(p.ndim > 1 for p in module.parameters(recurse=False))
    end = End(label, name, path, "raw", 0.0, grows, alone=matrices <= 1 and not any(module.children()))
    inputs: tuple[int, ...] | None = None
    if n_dims > 1 and isinstance(module, nn.Embedding):
        end, inputs = replace(end, shape="embedding"), ()
        require(0 not in grows, f"{name}: the embedding's number of rows grows with the width")
    elif n_dims > 1 and isinstance(module, transposed_types()):
        end, inputs = replace(end, shape="linear"), (0,)
    elif n_dims > 1 and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        out = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
        end, inputs = replace(end, shape="linear"), tuple(d for d in range(n_dims) if d != out)
    end = replace(end, sums=None if n_dims > 1 and inputs is None else inputs or ())
    if not grows:
        return end
    if n_dims == 1:
        return replace(end, role="vector")
    if inputs is None:  # a parameter of a module of the user's own: which dimension is summed over, a pass tells
        require(
            len(grows) < 3, f"{name}: {len(grows)} of its dimensions grow with the width, no rule is for more than 2"
        )
        return replace(end, role="hidden", fan_in=1.0) if len(grows) == 2 else replace(end, role="input", inner=True)
    fan_in = _exponent(widths, [math.prod(shapes[w][d] for d in inputs) for w in widths]) if inputs else 0.0
    sums, spreads = any(d in inputs for d in grows), any(d not in inputs for d in grows)
    role: Role = "hidden" if sums and spreads else "output" if sums else "input"
    return replace(end, role=role, fan_in=fan_in)
