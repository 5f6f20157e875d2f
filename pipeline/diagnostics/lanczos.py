"""Lanczos: the largest eigenvalues of a symmetric operator that is only known by its products with vectors.

Shapes: P dimensions, K basis vectors.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

FRESH = 0.3  # share of the start that is random, so that a start on the wrong eigenvector does not stay there


def random_vector(size: int, seed: int, dtype: torch.dtype) -> Tensor:
    """A unit vector on the CPU, the same in every process."""
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return vector.div_(torch.linalg.vector_norm(vector))


@torch.no_grad()
def largest_eigenvalues(
    product: Callable[[Tensor], Tensor], start: Tensor, *, count: int, iterations: int
) -> tuple[list[float], Tensor]:
    """The algebraically largest `count` eigenvalues, descending, and the sum of their unit eigenvectors: the next
    `start`.

    Lanczos with full reorthogonalization: at most `iterations` products with vectors of the shape, dtype and device of
    `start` (P,), whose basis of `iterations` vectors is held where `start` is. Where the vectors seen so far span an
    invariant subspace, it goes on from a random vector. An operator that gives numbers that are not finite has
    eigenvalues nan. Fewer than `count` eigenvalues where P or `iterations` is smaller.
    """
    size = start.numel()
    iterations = min(iterations, size)
    basis_KP = start.new_empty(iterations, size)
    projected_KK = torch.zeros(iterations, iterations, dtype=torch.float64)
    vector = random_vector(size, 0, start.dtype).to(start.device)
    length = torch.linalg.vector_norm(start).item()
    if 0 < length < math.inf:
        vector = FRESH * vector + start / length
    vector /= torch.linalg.vector_norm(vector)
    largest = 0.0
    for k in range(iterations):
        basis_KP[k] = vector
        seen_KP = basis_KP[: k + 1]
        image = product(vector)
        if not image.isfinite().all():
            return [math.nan] * min(count, iterations), start
        largest = max(largest, torch.linalg.vector_norm(image).item())
        along_K, rest = _split(image, seen_KP)
        projected_KK[k, : k + 1] = projected_KK[: k + 1, k] = along_K.double().cpu()
        length = torch.linalg.vector_norm(rest).item()
        if length <= 10 * torch.finfo(start.dtype).eps * largest:
            _, rest = _split(random_vector(size, k + 1, start.dtype).to(start.device), seen_KP)
            length = torch.linalg.vector_norm(rest).item()
        vector = rest / length
    values, vectors = torch.linalg.eigh(projected_KK)
    combination_K = vectors[:, -count:].sum(1).to(basis_KP)
    return values[-count:].flip(0).tolist(), combination_K @ basis_KP


def _split(vector: Tensor, basis_KP: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients along an orthonormal basis, and what is orthogonal to it: twice, which is enough."""
    along_K = basis_KP @ vector
    rest = vector - along_K @ basis_KP
    again_K = basis_KP @ rest
    return along_K + again_K, rest - again_K @ basis_KP
