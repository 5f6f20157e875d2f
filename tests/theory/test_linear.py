"""The two-layer linear model against explicit and autograd's gradient descent, and autograd's Hessian."""

import numpy as np
import pytest
import torch

from pipeline.parameterization.rules import TABLE
from pipeline.theory.linear import Y, descend, largest_stable, scales, sharpness, starts, step, trajectory
from tests.support.ruled import params_of

WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # all of the paper's
SEEDS = (0, 1, 2)
PARAMS = ("sp", "ntp", "mup")
LRS = np.array([0.2, 1.0, 1.9])[:, None]  # over K_0: gradient flow, the fastest, close to the edge of stability
STEPS = 60


def autograd(at, u, v, lr, steps):
    """f and K by torch's gradients of the loss, one run."""
    u, v = (torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in (u, v))
    found = []
    for _ in range(steps + 1):
        f = v @ u
        found.append((f.item(), (at.lr_u * v.detach() @ v + at.lr_v * u.detach() @ u).item()))
        du, dv = torch.autograd.grad((f - Y) ** 2 / 2, (u, v))
        with torch.no_grad():
            u -= lr * at.lr_u * du
            v -= lr * at.lr_v * dv
    return np.array(found).T


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("param", PARAMS)
def test_closed_form_is_gradient_descent_at_every_step(param, width):
    at, start = scales(TABLE[param], width), starts(TABLE[param], [width], SEEDS)
    f0, kernel0 = start.f_WS[0], start.kernel_WS[0]
    lrs = LRS / kernel0
    closed = trajectory(f0, kernel0, lrs, at.coupling, STEPS)
    explicit = descend(at, *at.weights(SEEDS), lrs, STEPS)
    for one, other in zip(closed, explicit, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    u, v = at.weights(SEEDS)
    for place in range(len(LRS)):
        by_torch = autograd(at, u[0], v[0], lrs[place, 0], STEPS)
        for one, other in zip(closed, by_torch, strict=True):
            np.testing.assert_allclose(one[:, place, 0], other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("param", params_of("sgd"))
def test_every_single_step_of_a_catapult_is_gradient_descents(param):
    """Rounding grows along a trajectory that does, but no step adds more than its own."""
    at = scales(TABLE[param], 256)
    u, v = at.weights(SEEDS)
    _, kernel0 = at.state(u, v)
    lrs = np.array([2.05, 2.2])[:, None] / kernel0
    f, kernel = descend(at, u, v, lrs, 150)
    after = step(f[:-1], kernel[:-1], lrs, at.coupling)
    size = np.abs(f[:-1]) + lrs * np.abs(f[:-1] - Y) * kernel[:-1] + 1
    assert np.abs(f).max() > 1.5
    assert (np.abs(after[0] - f[1:]) / size).max() < 1e-12
    assert (np.abs(after[1] - kernel[1:]) / kernel0).max() < 1e-12


def test_the_published_order_is_none():
    at, start = scales(TABLE["mup"], 1024), starts(TABLE["mup"], [1024], SEEDS)
    lr = 0.5 / start.kernel_WS[0]
    gradient = descend(at, *at.weights(SEEDS), lr, 20)[1]
    published = trajectory(start.f_WS[0], start.kernel_WS[0], lr, at.coupling, 20, "published")[1]
    assert np.abs(gradient - published).max() > 0.1
    assert (gradient > 0).all()


@pytest.mark.parametrize("param", params_of("sgd"))
def test_sharpness_is_the_hessians_largest_eigenvalue(param):
    at = scales(TABLE[param], 12)
    u0, v0 = at.weights([3])
    f, kernel = descend(at, u0, v0, np.array([0.7]) / at.state(u0, v0)[1], 4)

    def loss(weights):  # in the coordinates in which one learning rate serves all
        return ((weights[:12] * weights[12:]).sum() * at.coupling**0.5 - Y) ** 2 / 2

    u, v = u0[0], v0[0]
    lr = 0.7 / at.state(u, v)[1]
    for t in range(5):
        weights = torch.tensor(np.concatenate([u / at.lr_u**0.5, v / at.lr_v**0.5]), dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(loss, weights)
        found = sharpness(f[t], kernel[t], at.coupling)[0]
        assert found == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-12)
        push = lr * (f[t, 0] - Y)
        u, v = u - at.lr_u * push * v, v - at.lr_v * push * u


def test_under_sp_that_is_the_hessian_of_the_weights_themselves():
    at = scales(TABLE["sp"], 9)
    u, v = at.weights([0])
    hessian = torch.autograd.functional.hessian(
        lambda w: ((w[:9] * w[9:]).sum() - Y) ** 2 / 2, torch.tensor(np.concatenate([u[0], v[0]]))
    )
    assert sharpness(*at.state(u, v), at.coupling)[0] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item())


def test_the_largest_stable_rate_lies_between_a_stable_and_a_diverging_one():
    start = starts(TABLE["sp"], [64, 512], SEEDS)
    found = largest_stable(start, 400)
    assert found.shape == (2, 3)
    for factor, finite in ((1 - 1e-6, True), (1 + 1e-6, False)):
        f, _ = trajectory(start.f_WS, start.kernel_WS, found * factor, start.coupling_W[:, None], 400)
        assert (np.isfinite(f[-1]) == finite).all()
    # in the kernel regime, catapults end at twice the edge of stability (Lewkowycz et al., 2020)
    wide = starts(TABLE["ntp"], [2**16], SEEDS)
    np.testing.assert_allclose(largest_stable(wide, 400) * wide.kernel_WS, 4, atol=0.1)


def test_constants_of_c4_at_initialization():
    n = 4096
    for name, kernel in (("sp", n), ("ntp", 2), ("mup", 2)):
        start = starts(TABLE[name], [n], range(8))
        assert start.kernel_WS.mean() == pytest.approx(kernel, rel=0.05)
    assert [scales(TABLE[name], n).coupling for name in PARAMS] == [1, 1 / n, 1]
    assert np.abs(starts(TABLE["mup"], [n], range(8)).f_WS).max() < 4 / n**0.5
