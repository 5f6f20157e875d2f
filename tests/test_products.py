"""Matrix products by oneDNN: torch's own, and derivatives of any order."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline import products
from pipeline.products import Linear, product, quicken_


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FROM", 0)


def close(found: Tensor, exact: Tensor, scale: Tensor) -> bool:
    """To float32's rounding of sums of terms whose absolute values add up to `scale`."""
    return bool(((found.double() - exact).abs() <= 2e-6 * scale + 1e-12).all())


@pytest.mark.parametrize("shape", [(64, 128, 256), (1, 512, 4096), (200, 70, 300), (3, 1, 1)])
def test_products_are_torchs(shape: tuple[int, int, int]) -> None:
    b, i, o = shape
    a, w = torch.randn(b, i), torch.randn(o, i)
    exact, scale = a.double() @ w.double().T, a.double().abs() @ w.double().abs().T
    assert close(product(a, w), exact, scale)
    assert close(product(a, torch.empty(i, o).copy_(w.T).T), exact, scale)  # not contiguous
    assert close(product(a.T.contiguous().T, w), exact, scale)
    assert torch.equal(product(a.double(), w.double()), exact)


def test_what_is_not_finite_stays_so() -> None:
    a, w = torch.randn(64, 128), torch.randn(64, 128)
    a[3, 5], w[7, 9] = torch.inf, torch.nan
    assert torch.equal(product(a, w).isfinite(), (a @ w.T).isfinite())


@pytest.mark.parametrize("bias", [False, True])
def test_layers_have_torchs_derivatives_of_first_and_second_order(bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 30, bias=bias), nn.Tanh(), nn.Linear(30, 5, bias=bias))
    exact = copy.deepcopy(net).double()
    quicken_(net)
    assert [type(layer) for layer in net] == [Linear, nn.Tanh, Linear]
    x, v = torch.randn(2, 7, 40), [torch.randn(p.shape) for p in net.parameters()]

    def derivatives(model: nn.Module, x: Tensor, v: list[Tensor]) -> list[Tensor]:
        parameters = list(model.parameters())
        first = torch.autograd.grad(model(x).square().mean(), parameters, create_graph=True)
        along = torch.stack([(g * u).sum() for g, u in zip(first, v, strict=True)]).sum()
        return [*first, *torch.autograd.grad(along, parameters)]

    found, wanted = derivatives(net, x, v), derivatives(exact, x.double(), [u.double() for u in v])
    assert all(torch.allclose(f.double(), w, rtol=1e-4, atol=1e-5) for f, w in zip(found, wanted, strict=True))


def test_autocast_and_other_types_go_torchs_way() -> None:
    layer, x = Linear(64, 64), torch.randn(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
