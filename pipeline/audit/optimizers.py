"""What an optimizer does to a tensor, seen from one step on a gradient that is made up: its family and its rate."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.audit.builds import Built
from pipeline.diagnostics.operator_norm import rms_operator_norm
from pipeline.errors import RequestError, in_a_line

FLAT = 1.6
"""Largest over root-mean-square singular value: below it the update is orthogonalized (a random matrix has 2; five
steps of Newton-Schulz leave .15 to 1.2, and so at most 1.5)."""


@dataclass(frozen=True)
class Response:
    """To a gradient of independent normal entries of RMS one, from a fresh state and without weight decay."""

    family: str
    """sgd: along the gradient. adam: entries of one size. muon: singular values of one size. other."""
    rate: float
    """RMS of the update's entries: the learning rate of sgd and adam, with every factor that the optimizer puts on it.
    muon: its operator norm between RMS norms."""


def responses(built: Built) -> dict[str, Response]:
    """Of every trained tensor. Uses the build up: weights and the optimizer's state have moved. Raises `RequestError`
    for an optimizer that makes no step."""
    generator = torch.Generator().manual_seed(0)
    before = {}
    for name, p in built.parameters.items():
        before[name] = p.detach().clone()
        gradient = torch.randn(p.shape, generator=generator)
        p.grad = (gradient / gradient.square().mean().sqrt()).to(p)
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
        if p.numel() == 1 and found[name].rate > 0:  # which has a sign and a size, and so tells nothing
            families = [found[other].family for other in found if built.parameters[other].numel() > 1]
            found[name] = Response(max(families, key=families.count, default="other"), found[name].rate)
    if not any(one.rate > 0 for one in found.values()):
        raise RequestError(f"the first step of width {built.width} moves nothing: is its learning rate 0 (a warm-up)?")
    return found


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
            return Response("sgd", rms)
    if (entries.max() - entries.min()).item() < 0.02 * rms + rounding:
        return Response("adam", rms)
    if update.ndim == 2 and min(update.shape) > 1:
        norm, _ = rms_operator_norm(update)
        sigma = norm.item() / math.sqrt(update.shape[1] / update.shape[0])
        if sigma / (torch.linalg.vector_norm(update).item() / math.sqrt(min(update.shape))) < FLAT:
            return Response("muon", norm.item())
    return Response("other", rms)
