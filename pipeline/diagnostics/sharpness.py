"""Sharpness: the largest eigenvalues of the training loss's Hessian, and the largest of the NTK (Noci et al. 2024).

Learning rates transfer across widths where the sharpness does not depend on width over training; along it, the largest
eigenvalue of the neural tangent kernel tells whether features are learned.

Shapes: R rows of the probe (sequences or examples), each of positions of which there are N; V outputs; P trained
weights.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.diagnostics.lanczos import largest_eigenvalues, random_vector
from pipeline.diagnostics.precision import measured
from pipeline.losses import COMPUTE, normalized

CHUNK_POSITIONS = 1024
COLD = 3  # times as many iterations in a first measurement, which starts from a random vector


def plain_loss(logits_NV: Tensor, targets_N: Tensor, loss: str, z_loss: float = 0.0, scale: float = 1.0) -> Tensor:
    """The mean loss of `pipeline.losses.linear_loss`, differentiable any number of times, from all logits at once."""
    value = scale * COMPUTE[loss].per_row(logits_NV, targets_N).mean()
    return value + z_loss * logits_NV.logsumexp(1).square().mean() if z_loss else value


class Sharpness:
    """Measures the Hessian of the mean loss over a fixed probe with respect to the weights that are being trained.

    `model` maps `inputs` (R, ...) to hidden states; the weight and bias of its `readout` make them logits, normalized
    where it says so; `targets` are those of `linear_loss`, one per position. Everything is computed in fp32, or fp64 if
    the model is: no autocast, no TF32, math attention (others have no second derivative), in eval mode and without
    `torch.compile`. The model, its gradients, its mode and torch's random state are left as they are.

    Each measurement is `iterations` Hessian-vector products, each of the time of 2 to 3 training steps on the probe,
    and starts from the eigenvectors of the last one; the first takes three times as many. With 10 iterations, every 20
    steps of a GPT (n = 64, 3 blocks, Adam), the warm-started sharpness and NTK were within 1e-5 of 60 iterations' and
    the second eigenvalue within 3e-3; the first measurement, from a random vector, within 1e-4.

    Memory beside the model: as many vectors of P as there are iterations and a few more, on the model's device where
    half of its free memory holds them, else on the CPU; and the second-order graph, logits included, of
    `chunk_positions` positions but at least one row. A probe that is a single chunk keeps its graph for all iterations,
    which saves a third of the time.

    With `reduce`, which averages a tensor over data-parallel ranks, every rank holds an equal share of the probe, all
    measure at the same time, and all get the eigenvalues of the whole probe.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss: str,
        *,
        eigenvalues: int = 1,
        iterations: int = 10,
        ntk: bool = False,
        reduce: Callable[[Tensor], Tensor] | None = None,
        z_loss: float = 0.0,
        scale: float = 1.0,
        chunk_positions: int = CHUNK_POSITIONS,
    ) -> None:
        self.model, self.loss, self.z_loss, self.scale = model, loss, z_loss, scale
        self.eigenvalues, self.iterations, self.ntk = eigenvalues, iterations, ntk
        self._reduce = reduce or (lambda vector: vector)
        self._positions = targets.numel()
        rows = max(1, chunk_positions * len(inputs) // self._positions)
        targets = targets.view(len(inputs), -1)
        self._chunks = list(zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True))
        self._starts: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Where the next measurement starts from. Without it, that one takes as long as the first."""
        return dict(self._starts)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._starts = dict(state)

    def measure(self) -> dict[str, float]:
        """`sharpness/1`, `sharpness/2`, ...: the algebraically largest eigenvalues of the Hessian, in descending order;
        with `ntk`, `ntk/1`: the largest eigenvalue of J J^T / N, where J (N V, P) is the Jacobian of the logits of all
        positions. It is computed as that of J^T J / N, which sums over positions and ranks. nan where the loss is."""
        device = next(self.model.parameters()).device
        with torch.inference_mode(False), sdpa_kernel(SDPBackend.MATH), measured(self.model, device):
            weights = _Weights(self.model)
            values = self._largest("sharpness", weights, _Hessian(self, weights), self.eigenvalues)
            if self.ntk:
                values |= self._largest("ntk", weights, _Kernel(self, weights), 1)
        return values

    def _largest(
        self, name: str, weights: "_Weights", product: Callable[[Tensor], Tensor], count: int
    ) -> dict[str, float]:
        size, dtype, device = weights.size, weights.dtype, weights.device
        start = self._starts.get(name)
        if start is not None and start.shape == (size,):
            vector, iterations = start, self.iterations
        else:
            vector, iterations = random_vector(size, -1, dtype), COLD * self.iterations
        place = device if _fits(iterations + 3, size * dtype.itemsize, device) else torch.device("cpu")
        values, vector = largest_eigenvalues(
            lambda v: self._reduce(product(v.to(device))).to(place),
            vector.to(place, dtype),
            count=count,
            iterations=iterations,
        )
        if all(map(math.isfinite, values)):
            self._starts[name] = vector.cpu()
        return {f"{name}/{i}": value for i, value in enumerate(values, 1)}


def _fits(vectors: int, bytes_per_vector: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return vectors * bytes_per_vector < free / 2


class _Weights:
    """The model's weights, detached from it; those that are trained, as one vector."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.fixed: dict[str, Tensor] = {}
        self.trained: dict[str, Tensor] = {}
        first = next(model.parameters())
        self.device, self.dtype = first.device, torch.promote_types(first.dtype, torch.float32)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            value = tensor.detach().to(self.dtype) if tensor.is_floating_point() else tensor
            (self.trained if tensor.requires_grad else self.fixed)[name] = value
        self.size = sum(tensor.numel() for tensor in self.trained.values())
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        readout = model.readout
        assert isinstance(readout, nn.Linear)
        self._weight = names[id(readout.weight)]
        self._bias = None if readout.bias is None else names[id(readout.bias)]
        self._normalize = getattr(readout, "normalize", False)

    def leaves(self) -> list[Tensor]:
        return [tensor.detach().requires_grad_() for tensor in self.trained.values()]

    def logits(self, trained: list[Tensor], inputs: Tensor) -> Tensor:
        """(N, V) of some rows."""
        tensors = self.fixed | dict(zip(self.trained, trained, strict=True))
        h = functional_call(self.model, tensors, (inputs.to(self.dtype) if inputs.is_floating_point() else inputs,))
        bias = None if self._bias is None else tensors[self._bias]
        logits_NV = F.linear(h.flatten(0, -2), tensors[self._weight], bias)
        return normalized(logits_NV) if self._normalize else logits_NV

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        parts = torch.split(vector, [tensor.numel() for tensor in self.trained.values()])
        return [part.view_as(tensor) for part, tensor in zip(parts, self.trained.values(), strict=True)]

    def flatten(self, tensors: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in tensors])


class _Operator(ABC):
    """Products of a symmetric matrix (P, P), the mean over the probe, with vectors: a sum over chunks of rows."""

    def __init__(self, probe: Sharpness, weights: _Weights) -> None:
        self.probe, self.weights = probe, weights
        self._kept = self._graph(*probe._chunks[0]) if len(probe._chunks) == 1 else None

    def __call__(self, vector: Tensor) -> Tensor:
        parts = self.weights.unflatten(vector)
        total = torch.zeros_like(vector)
        for chunk in self.probe._chunks:
            graph = self._kept or self._graph(*chunk)
            pairs = [(g, v) for g, v in zip(graph.gradient, parts, strict=True) if g.requires_grad]
            if pairs:
                total += self.weights.flatten(self._product(graph, *zip(*pairs, strict=True)))
        return total / self.probe._positions

    def _graph(self, inputs: Tensor, targets: Tensor) -> "_Graph":
        with torch.enable_grad():
            leaves = self.weights.leaves()
            logits_NV = self.weights.logits(leaves, inputs)
            value, weight = self._differentiated(logits_NV, targets.flatten())
            gradient = torch.autograd.grad(value, leaves, weight, create_graph=True, materialize_grads=True)
            return _Graph(leaves, value, weight, gradient)

    @abstractmethod
    def _differentiated(self, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor | None]:
        """The function of the weights whose gradient the products need, and the weights of its outputs."""

    @abstractmethod
    def _product(self, graph: "_Graph", gradient: tuple[Tensor, ...], vector: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The chunk's share, for those parts of the gradient that depend on what the products differentiate by."""


class _Graph(NamedTuple):
    leaves: list[Tensor]
    value: Tensor
    weight: Tensor | None
    gradient: tuple[Tensor, ...]


class _Hessian(_Operator):
    """The derivative of the gradient's inner product with the vector (Pearlmutter 1994)."""

    def _differentiated(self, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor | None]:
        value = plain_loss(logits_NV, targets_N, self.probe.loss, self.probe.z_loss, self.probe.scale)
        return value * len(targets_N), None

    def _product(self, graph: _Graph, gradient: tuple[Tensor, ...], vector: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept = graph is self._kept
        return torch.autograd.grad(gradient, graph.leaves, vector, retain_graph=kept, materialize_grads=True)


class _Kernel(_Operator):
    """J^T J v, where J v is the derivative of the inner product of J^T u with v by u."""

    def _differentiated(self, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor | None]:
        return logits_NV, torch.zeros_like(logits_NV).requires_grad_()

    def _product(self, graph: _Graph, gradient: tuple[Tensor, ...], vector: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert graph.weight is not None
        (along,) = torch.autograd.grad(gradient, graph.weight, vector, retain_graph=True)
        kept = graph is self._kept
        return torch.autograd.grad(graph.value, graph.leaves, along, retain_graph=kept, materialize_grads=True)
