"""Operator norms of weights and their updates, from a few products with the matrix.

Shapes: A is (m, n) = (fan_out, fan_in); S = min(m, n); Q of K basis vectors, as rows; B rows of a block.
"""

import math

import torch
from torch import Tensor

from pipeline.diagnostics.precision import full_precision

BLOCK = 4  # a product with so many vectors costs little more than with one: it takes the time of reading A
EXACT = 96  # up to this S the whole Gram matrix is the cheaper way
MOST = 60  # steps


@torch.no_grad()
def operator_norm(
    A: Tensor, start: Tensor | None = None, *, tolerance: float = 1e-4, most: int = MOST
) -> tuple[Tensor, Tensor]:
    """The largest singular value of a dense (m, n) matrix, and its right singular vector (n,): the next call's `start`.

    Block Golub-Kahan-Lanczos with full reorthogonalization, on the normal equations of the smaller side. Ends when the
    a-posteriori bound on the relative error (Kato-Temple, with the gap to the second Ritz value) is below `tolerance`
    and the second Ritz value could not turn out to be the first, or after `most` steps. The result is below the true
    norm but for rounding; measured errors are below `tolerance`. `start` is blended with random vectors, so that it
    cannot hide the top singular vector. Deterministic: the random numbers depend on the shape alone.

    In fp32, or fp64 if A is. A zero matrix has norm 0; one with entries that are not finite, nan.
    """
    A = A.to(torch.promote_types(A.dtype, torch.float32))
    m, n = A.shape
    with full_precision(A.device):
        low, high = (bound.item() for bound in A.aminmax())
        scale = max(-low, high)  # entries as small as 1e-20 have squares that vanish
        if not 0 < scale < math.inf:
            return A.new_tensor(0.0 if scale == 0 else math.nan), A.new_full((n,), n**-0.5)
        tall = A if m >= n else A.T
        if min(m, n) <= EXACT:
            scaled = tall / scale
            values, vectors = torch.linalg.eigh((scaled.T @ scaled).double())
            value, vector = values[-1].item(), vectors[:, -1].to(A)
        else:
            near = None
            if start is not None and 0 < torch.linalg.vector_norm(start).item() < math.inf:
                near = start.to(A) if m >= n else A @ start.to(A) / scale
            value, vector = _lanczos(tall, scale, near, tolerance, most)
        if m < n:
            vector = vector @ A / scale
        return A.new_tensor(math.sqrt(value) * scale), vector / torch.linalg.vector_norm(vector)


def _lanczos(tall: Tensor, scale: float, near: Tensor | None, tolerance: float, most: int) -> tuple[float, Tensor]:
    """Largest eigenvalue, and its eigenvector, of G = A^T A / scale^2 for A of shape (L, S), L >= S."""
    generator = torch.Generator().manual_seed(tall.shape[0] << 32 | tall.shape[1])
    block_BS = torch.randn(BLOCK, tall.shape[1], generator=generator, dtype=tall.dtype).to(tall.device)
    if near is not None:
        block_BS[0] += near * (torch.linalg.vector_norm(block_BS[0]) / torch.linalg.vector_norm(near))
    block_BS, _ = _orthonormal(block_BS)
    Q_KS = block_BS
    G_KK = torch.zeros(0, 0, dtype=torch.float64)
    value, combination_K = 0.0, torch.zeros(0)
    most = min(most, tall.shape[1] // BLOCK)
    for step in range(most):
        image_BS = ((block_BS @ tall.T) / scale) @ tall / scale
        projection_BK = image_BS @ Q_KS.T
        G_KK = _bordered(G_KK, projection_BK.double().cpu())
        rest_BS = image_BS - projection_BK @ Q_KS
        rest_BS -= (rest_BS @ Q_KS.T) @ Q_KS
        next_BS, R_BB = _orthonormal(rest_BS)
        if step < 8 or step % 3 == 0 or step == most - 1:
            values, vectors = torch.linalg.eigh(G_KK)
            value, combination_K = values[-1].item(), vectors[:, -1]
            second, first = torch.linalg.vector_norm(R_BB.double().cpu() @ vectors[-BLOCK:, -2:], dim=0).tolist()
            gap = value - values[-2].item()
            error = first * min(1.0, 2 * first / gap if gap > 0 else 1.0) / (2 * value)  # half of the gap may yet close
            if error <= tolerance and second <= gap / 2 + 2 * tolerance * value:
                break
        block_BS, _ = _orthonormal(next_BS - (next_BS @ Q_KS.T) @ Q_KS)  # a rest that is rounding is not orthogonal yet
        Q_KS = torch.cat((Q_KS, block_BS))
    return value, combination_K.to(Q_KS) @ Q_KS[: len(combination_K)]


def _orthonormal(block_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows Q and R^T with block = R^T Q."""
    Q_SB, R_BB = torch.linalg.qr(block_BS.T)
    return Q_SB.T.contiguous(), R_BB


def _bordered(G_KK: Tensor, rows_BK: Tensor) -> Tensor:
    """The symmetric matrix whose last rows (and columns) are `rows_BK`."""
    n_rows, size = rows_BK.shape
    grown = torch.empty(size, size, dtype=rows_BK.dtype)
    grown[: size - n_rows, : size - n_rows] = G_KK
    grown[size - n_rows :] = rows_BK
    grown[:, size - n_rows :] = rows_BK.T
    return grown


def rms_operator_norm(
    A: Tensor, start: Tensor | None = None, *, tolerance: float = 1e-4, most: int = MOST
) -> tuple[Tensor, Tensor]:
    """`operator_norm` between RMS norms, for A of shape (fan_out, fan_in): sqrt(fan_in / fan_out) sigma_max."""
    sigma, vector = operator_norm(A, start, tolerance=tolerance, most=most)
    return sigma * math.sqrt(A.shape[1] / A.shape[0]), vector


def update_rank(A: Tensor, sigma: Tensor) -> Tensor:
    """|A|_F / sigma_max, between 1 (rank one) and sqrt(min(m, n)); nan for a zero matrix."""
    scale = sigma.clamp_min(torch.finfo(sigma.dtype).tiny)
    return torch.where(sigma > 0, torch.linalg.vector_norm(A / scale), math.nan)
