"""Operator norms against singular value decompositions."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.diagnostics import operator_norm as module
from pipeline.diagnostics.operator_norm import operator_norm, rms_operator_norm, update_rank

BOUND = 1e-4  # on relative errors: the default tolerance


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(values: Tensor, m: int, n: int) -> tuple[Tensor, Tensor]:
    """A matrix (m, n) with the given singular values, and its right singular vectors as rows."""
    k = len(values)
    U, V = torch.linalg.qr(gaussian(m, k, seed=1))[0], torch.linalg.qr(gaussian(n, k, seed=2))[0]
    return (U * values) @ V.T, V.T


def bulk(size: int, top: float) -> Tensor:
    return torch.linspace(0, top, size, dtype=torch.float64)


def norm(A: Tensor) -> float:
    return torch.linalg.matrix_norm(A.double(), 2).item()


def check(A: Tensor, start: Tensor | None = None) -> None:
    """In both precisions; the vector reaches the value."""
    for dtype in (torch.float32, torch.float64):
        sigma, vector = operator_norm(A.to(dtype), start)
        assert sigma.dtype == vector.dtype == dtype
        assert sigma.ndim == 0
        assert vector.shape == (A.shape[1],)
        assert sigma.item() == pytest.approx(norm(A), rel=BOUND)
        assert torch.linalg.vector_norm(vector).item() == pytest.approx(1, abs=1e-5)
        reached = torch.linalg.vector_norm(A.double() @ vector.double()).item()
        assert sigma.item() * (1 - 1e-5) < reached < norm(A) * (1 + 1e-5)


SHAPES = [(512, 512), (1000, 300), (300, 1000), (257, 3000), (200, 200), (97, 98), (98, 2000)]


@pytest.mark.parametrize("shape", [*SHAPES, (96, 96), (40, 900), (900, 40), (1, 700), (700, 1), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_gaussian_matrices(shape: tuple[int, int], seed: int) -> None:
    """The hard case: the top of the Marchenko-Pastur law, where no gap sets the largest singular value apart."""
    check(gaussian(*shape, seed=seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 5, 30])
def test_low_rank(shape: tuple[int, int], rank: int) -> None:
    check(gaussian(shape[0], rank) @ gaussian(rank, shape[1], seed=1))


@pytest.mark.parametrize("rest", [0.0, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("cluster", [(1.0, 1.0), (1.0, 0.9999), (1.0, 0.99)])
def test_clusters(cluster: tuple[float, float], rest: float) -> None:
    top = torch.linspace(*cluster, 20, dtype=torch.float64)
    check(with_spectrum(torch.cat([top, bulk(280, rest)]), 400, 300)[0])


@pytest.mark.parametrize("size", [97, 98, 99, 100, 300])
def test_equal_singular_values(size: int) -> None:
    check(torch.eye(size, dtype=torch.float64))
    check(torch.ones(size, size, dtype=torch.float64))
    check(torch.linspace(1, 0.9999, size, dtype=torch.float64).diag())


def test_power_law() -> None:
    check(with_spectrum(1 / torch.arange(1, 301, dtype=torch.float64), 300, 400)[0])


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (30, 20)])
def test_scale(scale: float, shape: tuple[int, int]) -> None:
    A = gaussian(*shape)
    sigma, vector = operator_norm(A.float() * scale)
    assert sigma.item() / scale == pytest.approx(norm(A), rel=BOUND)
    warm, _ = operator_norm(A.float() * scale, vector)
    assert warm.item() / scale == pytest.approx(norm(A), rel=BOUND)
    assert update_rank(A.float() * scale, sigma).item() == pytest.approx(A.norm().item() / norm(A), rel=2 * BOUND)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (5, 4), (1, 3)])
def test_zero_and_not_finite(shape: tuple[int, int]) -> None:
    sigma, vector = operator_norm(torch.zeros(shape))
    assert sigma.item() == 0
    assert vector.isfinite().all()
    assert update_rank(torch.zeros(shape), sigma).isnan()
    for bad in (math.nan, math.inf, -math.inf):
        A = gaussian(*shape)
        A[0, 1 if shape[1] > 1 else 0] = bad
        sigma, vector = operator_norm(A)
        assert sigma.isnan()
        assert vector.isfinite().all()
        assert update_rank(A, sigma).isnan()


@pytest.mark.parametrize("shape", [(500, 400), (400, 500)])
@pytest.mark.parametrize(
    ("second", "rest"), [(0.99, 0.5), (0.99, 0.9), (0.99, 0.97), (0.9, 0.85), (0.95, 0.94), (0.9, 0.1), (0.5, 0.4)]
)
def test_no_start_hides_the_top(shape: tuple[int, int], second: float, rest: float) -> None:
    """Nothing of the top singular vector is in the start, which even is another singular vector."""
    values = torch.cat([torch.tensor([1.0, second], dtype=torch.float64), bulk(min(shape) - 2, rest)])
    A, V = with_spectrum(values, *shape)
    for start in (V[1], 1e6 * V[1], V[-1], V[1] + V[2]):
        check(A, start)


@pytest.mark.parametrize("shape", [(512, 512), (600, 200), (200, 600)])
def test_no_start_hides_the_top_of_a_gaussian(shape: tuple[int, int]) -> None:
    for seed in range(5):
        A = gaussian(*shape, seed=seed)
        V = torch.linalg.svd(A, full_matrices=False)[2]
        for start in (V[1], V[2], V[-1], torch.zeros(shape[1]), torch.full((shape[1],), math.nan)):
            check(A, start)


def products(monkeypatch: pytest.MonkeyPatch, A: Tensor, start: Tensor | None = None) -> int:
    """How many blocks A is multiplied with."""
    count = 0
    bordered = module._bordered

    def counted(*arguments: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return bordered(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_bordered", counted)
        operator_norm(A, start)
    return count


def test_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    A = gaussian(700, 500)
    cold = products(monkeypatch, A)
    _, vector = operator_norm(A)
    moved = A + 0.02 * gaussian(700, 500, seed=9)
    assert cold <= 24
    assert products(monkeypatch, moved, vector) <= cold - 3
    assert products(monkeypatch, moved.T.contiguous(), operator_norm(A.T)[1]) <= cold - 3
    assert products(monkeypatch, gaussian(700, 2) @ gaussian(2, 500)) <= 3
    _, values, V = torch.linalg.svd(A, full_matrices=False)
    assert products(monkeypatch, A + 3 * values[0] * gaussian(700, 1) @ V[:1] / 700**0.5) <= 6


def test_ends_after_most_steps_below_the_norm() -> None:
    A = gaussian(500, 500)
    previous = 0.0
    for most in (1, 3, 10):
        value = operator_norm(A, most=most)[0].item()
        assert previous < value < norm(A)
        previous = value
    assert operator_norm(A, tolerance=1e-2)[0].item() == pytest.approx(norm(A), rel=1e-2)


def test_deterministic_and_leaves_random_state() -> None:
    A = gaussian(300, 200)
    state = torch.get_rng_state()
    first, again = operator_norm(A), operator_norm(A)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_does_not_touch_it_and_low_precision_is_promoted() -> None:
    A = gaussian(300, 200).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sigma, _ = operator_norm(A)
        coarse, _ = operator_norm(A.bfloat16())
    assert not sigma.requires_grad
    assert sigma.item() == pytest.approx(norm(A.detach()), rel=1e-5)
    assert coarse.dtype == torch.float32
    assert coarse.item() == pytest.approx(norm(A.detach().bfloat16()), rel=BOUND)


def test_strides_do_not_matter() -> None:
    A = gaussian(600, 400)
    for view in (A.T, A[::2], A[:, ::3], A[100:400, :100]):
        check(view)


def test_rms_norm_and_rank() -> None:
    A = gaussian(300, 200)
    assert rms_operator_norm(A)[0].item() == pytest.approx(norm(A) * (200 / 300) ** 0.5, rel=BOUND)
    assert rms_operator_norm(A.T)[0].item() == pytest.approx(norm(A) * (300 / 200) ** 0.5, rel=BOUND)
    one = gaussian(300, 1) @ gaussian(1, 200)
    assert update_rank(one, operator_norm(one)[0]).item() == pytest.approx(1)
    assert update_rank(torch.eye(300), operator_norm(torch.eye(300))[0]).item() == pytest.approx(300**0.5)
