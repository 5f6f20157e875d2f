"""The chunked loss against torch's own, and its memory."""

import pytest
import torch
from torch.nn import functional as F

from pipeline import losses
from pipeline.losses import linear_loss
from tests.support.largest_tensor import LargestTensor


def problem(dtype: torch.dtype, rows: int = 301, vocabulary: int = 97) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    h = torch.randn(rows, 24, generator=g, dtype=dtype).requires_grad_()
    weight = torch.randn(vocabulary, 24, generator=g, dtype=dtype).requires_grad_()
    bias = torch.randn(vocabulary, generator=g, dtype=dtype).requires_grad_()
    return h, weight, bias, torch.randint(0, vocabulary, (rows,), generator=g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_rows", [1, 64, 301, 4096])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_cross_entropy(dtype: torch.dtype, chunk_rows: int, with_bias: bool) -> None:
    h, weight, bias, targets = problem(dtype)
    used = (h, weight, bias) if with_bias else (h, weight)
    ours, _, logit_rms, _ = linear_loss(h, weight, targets, bias if with_bias else None, chunk_rows=chunk_rows)
    logits = F.linear(h, weight, bias if with_bias else None)
    reference = F.cross_entropy(logits, targets)
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(logit_rms, logits.square().mean().sqrt().detach())
    # a scaled loss, as gradient accumulation makes it
    for mine, theirs in zip(torch.autograd.grad(ours / 3, used), torch.autograd.grad(reference / 3, used), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=1e-8)


def test_large_logits_stay_finite() -> None:
    h, weight, _, targets = problem(torch.float32)
    ours = linear_loss(h * 1e4, weight, targets).loss
    torch.testing.assert_close(ours, F.cross_entropy(F.linear(h * 1e4, weight), targets))


def test_divergence_shows() -> None:
    h, weight, _, targets = problem(torch.float32)
    assert not torch.isfinite(linear_loss(h * float("nan"), weight, targets).loss)


def test_autocast_computes_in_bf16_and_accumulates_in_fp32() -> None:
    h, weight, bias, targets = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = linear_loss(h, weight, targets, bias, chunk_rows=64).loss
        reference = F.cross_entropy(F.linear(h, weight, bias).float(), targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference, rtol=2e-3, atol=0)
    exact = torch.autograd.grad(F.cross_entropy(F.linear(h, weight, bias), targets), (h, weight))
    for mine, theirs in zip(torch.autograd.grad(ours, (h, weight)), exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "softmax_mse"])
def test_no_tensor_grows_with_batch_times_vocabulary(loss: str) -> None:
    sizes = {}
    for rows in (512, 4096):
        h, weight, _, targets = problem(torch.float32, rows=rows, vocabulary=2000)
        with LargestTensor() as largest:
            linear_loss(h, weight, targets, loss=loss, z_loss=1e-3, chunk_rows=128).loss.backward()
        sizes[rows] = largest.elements
    assert sizes[512] == sizes[4096] == 128 * 2000


def test_validation_forms_no_gradients() -> None:
    h, weight, _, targets = problem(torch.float32)
    with torch.no_grad():
        loss = linear_loss(h, weight, targets, chunk_rows=64).loss
    assert not loss.requires_grad
    torch.testing.assert_close(loss, F.cross_entropy(F.linear(h, weight), targets))


def reference(name: str, z_loss: float, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The losses as their definitions read, for autograd."""
    one_hot = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    value = {
        "cross_entropy": lambda: F.cross_entropy(logits, targets),
        "mse": lambda: F.mse_loss(logits, one_hot, reduction="sum") / len(targets),
        "mse_mean": lambda: F.mse_loss(logits, one_hot),
        "softmax_mse": lambda: F.mse_loss(logits.softmax(1), one_hot, reduction="sum") / len(targets),
    }[name]()
    return value + z_loss * logits.logsumexp(1).square().mean()


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "mse_mean", "softmax_mse"])
@pytest.mark.parametrize("normalize", [False, True])
def test_without_grad_the_values_are_the_same_and_nothing_is_formed(
    name: str, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    h, weight, bias, targets = problem(torch.float64)
    settings = {"loss": name, "z_loss": 0.3, "chunk_rows": 64, "accuracy": True, "normalize": normalize}
    with_grad = linear_loss(h, weight, targets, bias, **settings)
    products: list[object] = []
    monkeypatch.setattr(losses, "product", lambda a, b: products.append(a) or a @ b.T)
    with torch.no_grad():
        without = linear_loss(h, weight, targets, bias, **settings)
    for mine, other in zip(without, with_grad, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=1e-13, atol=0)
    assert len(products) == 5, "one of every chunk: its logits"


def test_a_wide_readout_is_added_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "COLUMNS", 32)
    h, weight, _, targets = problem(torch.float64)
    ours = linear_loss(h, weight, targets, chunk_rows=64).loss
    theirs = F.cross_entropy(F.linear(h, weight), targets)
    for mine, other in zip(
        torch.autograd.grad(ours, (h, weight)), torch.autograd.grad(theirs, (h, weight)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_a_second_gradient_of_the_same_loss_is_refused() -> None:
    h, weight, _, targets = problem(torch.float32)
    loss = linear_loss(h, weight, targets).loss
    torch.autograd.grad(loss, (h, weight), retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, (h, weight))


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "mse_mean", "softmax_mse"])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("chunk_rows", [64, 4096])
@pytest.mark.parametrize("normalize", [False, True])
def test_every_loss_equals_autograd(name: str, z_loss: float, chunk_rows: int, normalize: bool) -> None:
    h, weight, bias, targets = problem(torch.float64)
    ours = linear_loss(
        h, weight, targets, bias, loss=name, z_loss=z_loss, chunk_rows=chunk_rows, accuracy=True, normalize=normalize
    )
    logits = F.linear(h, weight, bias)
    torch.testing.assert_close(ours.logit_rms, logits.square().mean().sqrt().detach())
    if normalize:
        spread = (logits - logits.mean(1, keepdim=True)).square().mean(1, keepdim=True)
        logits = (logits - logits.mean(1, keepdim=True)) / (spread + 1e-5).sqrt()
    theirs = reference(name, z_loss, logits, targets)
    torch.testing.assert_close(ours.loss, theirs)
    torch.testing.assert_close(ours.cross_entropy, F.cross_entropy(logits, targets).detach())
    torch.testing.assert_close(ours.accuracy, (logits.argmax(1) == targets).double().mean())
    parameters = (h, weight, bias)
    for mine, other in zip(
        torch.autograd.grad(ours.loss, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_only_the_loss_has_a_gradient_and_accuracy_is_asked_for() -> None:
    h, weight, _, targets = problem(torch.float32)
    output = linear_loss(h, weight, targets)
    assert [value.requires_grad for value in output] == [True, False, False, False]
    assert output.accuracy.isnan()


@pytest.mark.parametrize("chunk_rows", [64, 4096])
def test_the_scalar_loss_equals_autograd(chunk_rows: int) -> None:
    h, weight, bias, _ = problem(torch.float64, vocabulary=1)
    targets = torch.randn(len(h), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = linear_loss(h, weight, targets, bias, loss="mse_scalar", chunk_rows=chunk_rows, accuracy=True)
    outputs = F.linear(h, weight, bias)[:, 0]
    theirs = F.mse_loss(outputs, targets)
    torch.testing.assert_close(ours.loss, theirs)
    torch.testing.assert_close(ours.accuracy, (outputs.sign() == targets.sign()).double().mean())
    assert 0.1 < ours.accuracy < 0.9
    assert ours.cross_entropy.isnan(), "there are no classes"
    parameters = (h, weight, bias)
    for mine, other in zip(
        torch.autograd.grad(ours.loss, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_a_scale_multiplies_the_loss_and_not_what_is_added(z_loss: float) -> None:
    """The published GPTs' MSE: a sum over all tokens of a micro-batch."""
    h, weight, _, targets = problem(torch.float64)
    settings = {"scale": float(len(targets)), "z_loss": z_loss, "chunk_rows": 64}
    ours = linear_loss(h, weight, targets, loss="softmax_mse_sum", **settings).loss
    logits = F.linear(h, weight)
    theirs = F.mse_loss(logits.softmax(1), F.one_hot(targets, 97).double(), reduction="sum")
    theirs = theirs + z_loss * logits.logsumexp(1).square().mean()
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, (h, weight)), torch.autograd.grad(theirs, (h, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
