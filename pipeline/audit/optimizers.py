"""What an optimizer does to a tensor, seen from one step on a gradient that is made up: its family and its rate."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.audit.builds import Built
from pipeline.diagnostics.operator_norm import rms_operator_norm
from pipeline.errors import RequestError, in_a_line

SIZE = 1024.0
"""Of the made-up gradient's entries."""
FEW, FLAT = 8, 1.6
"""Entries that tell an optimizer's family. Largest over root-mean-square singular value of an update: below it, it is
orthogonalized (five steps of Newton-Schulz leave .15 to 1.2, and so at most 1.5)."""


@dataclass(frozen=True)
class Response:
    """To a gradient of independent entries, from a fresh state and without weight decay."""

    family: str
    """sgd: along the gradient. adam: entries of one size. muon: singular values of one size. other."""
    rate: float
    """The learning rate of sgd (update over gradient) and adam (RMS of the update), with every factor that the
    optimizer puts on it. muon: the update's operator norm between RMS norms."""


def responses(built: Built) -> dict[str, Response]:
    """Of every trained tensor. Uses the build up: weights and the optimizer's state have moved. Raises `RequestError`
    for an optimizer that makes no step."""
    generator = torch.Generator().manual_seed(0)
    before = {}
    for name, p in built.parameters.items():
        before[name] = p.detach().clone()
        p.grad = _gradient(p, generator)
        if torch.finfo(p.dtype).bits < 32:  # a weight would swallow its update
            p.detach().zero_()
            before[name].zero_()
    without_decay(built)
    for optimizer in built.optimizers:
        try:
            optimizer.step()
        except (TypeError, RuntimeError, AssertionError, ValueError) as error:
            said = f"{type(optimizer).__name__} made no step at width {built.width}: {in_a_line(error)}"
            raise RequestError(said) from error
    found = {}
    for name, p in built.parameters.items():
        assert p.grad is not None
        rounding = 2 * torch.finfo(p.dtype).eps * before[name].abs().max().item()
        found[name] = _response((p.detach() - before[name]).double(), p.grad.double(), rounding)
    for name, p in built.parameters.items():
        if p.numel() < FEW and found[name].rate > 0:  # which has little more than a sign and a size
            families = [found[other].family for other in found if built.parameters[other].numel() >= FEW]
            found[name] = Response(max(families, key=families.count, default="other"), found[name].rate)
    if not any(one.rate > 0 for one in found.values()):
        raise RequestError(f"the first step of width {built.width} moves nothing: is its learning rate 0 (a warm-up)?")
    return found


def _gradient(p: Tensor, generator: torch.Generator) -> Tensor:
    """No entry is so small that eps would count, and a matrix is nearly of rank one, so that the singular values of its
    update tell whether it was orthogonalized."""
    size = SIZE * (0.5 + torch.rand(p.shape, generator=generator))
    sign = torch.where(torch.rand(p.shape, generator=generator) < 0.9, 1.0, -1.0)
    for d, length in enumerate(p.shape):
        ends = torch.randn(length, generator=generator).sign()
        sign = sign * ends.view([-1 if place == d else 1 for place in range(p.ndim)])
    return (size * sign).to(p)


def without_decay(built: Built) -> None:
    """Weight decay is read, not mixed into what updates measure."""
    for group in built.groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0


def _response(update: Tensor, gradient: Tensor, rounding: float) -> Response:
    rms = update.square().mean().sqrt().item()
    if rms == 0:
        return Response("other", 0.0)
    entries = update.abs()
    if update.numel() > 1:
        cosine = torch.nn.functional.cosine_similarity(update.flatten(), gradient.flatten(), dim=0).item()
        if abs(cosine) > 0.9999:
            return Response("sgd", rms / gradient.square().mean().sqrt().item())
    if (entries.max() - entries.min()).item() < 0.02 * rms + rounding:
        return Response("adam", rms)
    if update.ndim == 2 and min(update.shape) >= FEW:
        norm, _ = rms_operator_norm(update)
        sigma = norm.item() / math.sqrt(update.shape[1] / update.shape[0])
        if sigma / (torch.linalg.vector_norm(update).item() / math.sqrt(min(update.shape))) < FLAT:
            return Response("muon", norm.item())
    return Response("other", rms)
