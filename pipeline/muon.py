"""Muon on hidden matrices and another optimizer beside it, as one optimizer (Jordan et al. 2024).

A step of Muon orthogonalizes a matrix's momentum, all singular values alike, and takes off lr * s of it. s is a matter
of the shape (out, in):

    spectral    sqrt(out / in)             an update of operator norm lr from RMS norm to RMS norm: width-free
    original    sqrt(max(1, out / in))     Jordan's; grows with width where only the fan-in does, as for fixed KV heads
    match_rms   0.2 sqrt(max(out, in))     entries of AdamW's size (Liu et al. 2025)
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon

from pipeline.entries.load import load

ADJUSTMENTS = {"spectral": "original", "original": "original", "match_rms": "match_rms_adamw"}
"""torch's names of how learning rates are adjusted to shapes; spectral is original with a factor for wide matrices."""


class MuonBeside(Optimizer):
    """`torch.optim.Muon` on the groups called ``hidden``, the optimizer `beside` (``module:class``) on all others.

    A group's ``blocks`` are numbers of rows that are matrices of their own, such as queries, keys and values of a fused
    projection; without, its matrices are whole. Weight decay is decoupled and unadjusted, w <- w - lr wd w. A
    matrix that FSDP2 shards is gathered for its step, as orthogonalization needs all of it, and every process takes the
    same one.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        beside: str,
        muon_scale: str = "spectral",
        muon_momentum: float = 0.95,
        **settings: Any,
    ) -> None:
        super().__init__(groups, {})
        others = [group for group in self.param_groups if not _of_muon(group)]
        self._beside: Optimizer | None = load(beside)(others, **settings) if others else None
        for group in self.param_groups:
            if _of_muon(group):
                group.setdefault("weight_decay", 0.0)
                group |= {"muon_scale": muon_scale, "muon_momentum": muon_momentum}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in filter(_of_muon, self.param_groups):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)
        if self._beside is not None:
            self._beside.param_groups = [group for group in self.param_groups if not _of_muon(group)]
            self._beside.state = self.state  # one state for all, wherever it comes from
            self._beside.step()
        return loss

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        ours: tuple[Tensor, ...] = (parameter.detach(), parameter.grad, state["momentum_buffer"])
        whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in ours]
        for weight, gradient, momentum in zip(*(torch.split(one, _blocks(one, group)) for one in whole), strict=True):
            out, fan_in = weight.shape
            wide = min(1.0, math.sqrt(out / fan_in)) if group["muon_scale"] == "spectral" else 1.0
            muon(
                [weight],
                [gradient],
                [momentum],
                lr=group["lr"] * wide,
                weight_decay=group["weight_decay"] / wide,
                momentum=group["muon_momentum"],
                nesterov=True,
                ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C),
                ns_steps=DEFAULT_NS_STEPS,
                eps=EPS,
                adjust_lr_fn=ADJUSTMENTS[group["muon_scale"]],
                has_complex=False,
            )
        for mine, moved in ((ours[0], whole[0]), (ours[2], whole[2])):
            if isinstance(mine, DTensor):  # back to the shards, without a word to other processes
                mine.copy_(distribute_tensor(moved, mine.device_mesh, mine.placements, src_data_rank=None))


def _of_muon(group: dict[str, Any]) -> bool:
    return group.get("name") == "hidden"


def _blocks(matrix: Tensor, group: dict[str, Any]) -> list[int]:
    return list(group.get("blocks") or (len(matrix),))
