"""Float32 matrix products on a CPU, by the faster of torch's two libraries: MKL or oneDNN, twice as fast on AMD's.

Shapes: B rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FROM = 2**20  # multiplications: there oneDNN wins

_packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_onednn = None if _packet is None else _packet.default
"""What torch.compile makes of a linear layer; None where torch was built without oneDNN."""


def library() -> str:
    """Whose products large ones are."""
    return "torch" if _onednn is None else "oneDNN"


def product(a_BI: Tensor, b_OI: Tensor) -> Tensor:
    """``a @ b.T`` (B, O), without a gradient."""
    if not _pays(a_BI, b_OI):
        return a_BI @ b_OI.T
    assert _onednn is not None
    result: Tensor = _onednn(a_BI, b_OI, None, "none", [], "")
    return result


def _pays(a: Tensor, b_OI: Tensor) -> bool:
    return (
        a.numel() * b_OI.shape[0] >= FROM
        and _onednn is not None
        and a.dtype == b_OI.dtype == torch.float32
        and a.is_cpu
    )


class _Product(torch.autograd.Function):
    """Differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, a_BI: Tensor, b_OI: Tensor) -> Tensor:
        ctx.save_for_backward(a_BI, b_OI)
        return product(a_BI, b_OI)

    @staticmethod
    def backward(ctx: Any, g_BO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a_BI, b_OI = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        return _multiplied(g_BO, b_OI.T) if of_a else None, _multiplied(g_BO.T, a_BI.T) if of_b else None


def _multiplied(a_BI: Tensor, b_OI: Tensor) -> Tensor:
    result: Tensor = _Product.apply(a_BI, b_OI)  # type: ignore[no-untyped-call]
    return result


class Linear(nn.Linear):
    """torch's, with these products where nothing else (autocast, shards) has a say in them."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if torch.is_autocast_enabled("cpu") or type(weight) not in (Tensor, nn.Parameter) or not _pays(input, weight):
            return F.linear(input, weight, self.bias)
        output = _multiplied(input.reshape(-1, input.shape[-1]), weight).view(*input.shape[:-1], -1)
        return output if self.bias is None else output + self.bias


def quicken_(model: nn.Module) -> None:
    """Make every plain linear layer a `Linear`, in place."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
