"""Logit statistics against their definitions on all logits at once."""

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.diagnostics.logits import logit_metrics, logit_sums
from tests.support.largest_tensor import LargestTensor

CLOSE = {"rel": 1e-10, "abs": 1e-12}


def problem(dtype: torch.dtype = torch.float64, rows: int = 301, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    h = scale * torch.randn(rows, 24, generator=g, dtype=dtype)
    weight, bias = torch.randn(97, 24, generator=g, dtype=dtype), torch.randn(97, generator=g, dtype=dtype)
    targets = torch.randint(0, 97, (rows,), generator=g)
    half = torch.arange(0, rows, 2)
    targets[half] = F.linear(h, weight, bias).argmax(1)[half]  # so that half the answers are right
    return h, weight, targets, bias


def brute_force(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    p = logits.softmax(1)
    confidence, best = p.max(1)
    correct = (best == targets).double()
    gap = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            share = inside.double().mean()
            gap += (share * (confidence[inside].mean() - correct[inside].mean()).abs()).item()
    return {
        "probe_loss": F.cross_entropy(logits, targets).item(),
        "logit_rms": logits.square().mean().sqrt().item(),
        "max_probability": confidence.mean().item(),
        "entropy": torch.distributions.Categorical(logits=logits).entropy().mean().item(),
        "accuracy": correct.mean().item(),
        "calibration_error": gap,
    }


@pytest.mark.parametrize("chunk_rows", [1, 64, 301, 4096])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scale", [0.1, 0.3, 1.0])
def test_equals_the_definitions(chunk_rows: int, with_bias: bool, scale: float) -> None:
    h, weight, targets, bias = problem(scale=scale)
    used = bias if with_bias else None
    measured = logit_metrics(logit_sums(h, weight, targets, used, chunk_rows=chunk_rows))
    expected = brute_force(F.linear(h, weight, used), targets)
    assert measured == pytest.approx(expected, **CLOSE)
    assert expected["calibration_error"] > 1e-3


def test_sums_add_up_over_batches() -> None:
    h, weight, targets, bias = problem()
    parts = [logit_sums(h[i::3], weight, targets[i::3], bias) for i in range(3)]
    whole = logit_sums(h, weight, targets, bias)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)
    assert whole.dtype == torch.float64
    assert whole.ndim == 1
    nothing = logit_sums(h[:0], weight, targets[:0], bias)
    torch.testing.assert_close(whole + nothing, whole, rtol=0, atol=0)
    assert logit_metrics(nothing) == {}


def test_low_precision_inputs_are_promoted_whatever_autocast_says() -> None:
    h, weight, targets, bias = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = logit_metrics(logit_sums(h, weight, targets, bias))
        coarse = logit_metrics(logit_sums(h.bfloat16(), weight.bfloat16(), targets, bias.bfloat16()))
    assert measured == pytest.approx(brute_force(F.linear(h, weight, bias), targets), rel=1e-5)
    rounded = [t.bfloat16().float() for t in (h, weight, bias)]
    assert coarse == pytest.approx(brute_force(F.linear(*rounded), targets), rel=1e-5)


def test_saturated_softmax() -> None:
    h, weight, targets, bias = problem(torch.float32, scale=1e3)
    measured = logit_metrics(logit_sums(h, weight, targets, bias))
    assert all(math.isfinite(value) for value in measured.values())
    assert measured["max_probability"] == pytest.approx(1, abs=1e-3)
    assert measured["entropy"] == pytest.approx(0, abs=1e-3)
    assert measured["calibration_error"] == pytest.approx(1 - measured["accuracy"], abs=1e-3)


def test_uniform_predictions_are_calibrated() -> None:
    n = 50
    sums = logit_sums(torch.zeros(n, 8), torch.ones(10, 8), torch.arange(n) % 10)
    measured = logit_metrics(sums)
    assert measured["entropy"] == pytest.approx(math.log(10))
    assert measured["probe_loss"] == pytest.approx(math.log(10))
    assert measured["max_probability"] == pytest.approx(0.1)
    assert measured["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert measured["logit_rms"] == 0


def test_bins_of_confidence() -> None:
    """Gaps of neighbouring bins do not cancel, those within a bin do."""

    def error(*positions: tuple[float, bool]) -> float:
        confidence = torch.tensor([p for p, _ in positions], dtype=torch.float64)
        h = torch.stack([confidence.log(), (1 - confidence).log()], dim=1)
        targets = torch.tensor([0 if correct else 1 for _, correct in positions])
        return logit_metrics(logit_sums(h, torch.eye(2, dtype=torch.float64), targets))["calibration_error"]

    for lower in range(8, 15):
        edge = lower / 15
        assert error((edge - 1e-6, True), (edge + 1e-6, False)) == pytest.approx(0.5, abs=1e-5)
        inside = (lower + 0.1) / 15, (lower + 0.9) / 15
        assert error((inside[0], True), (inside[1], False)) == pytest.approx(abs(sum(inside) - 1) / 2, abs=1e-9)


def test_divergence_shows_and_does_not_crash() -> None:
    h, weight, targets, bias = problem()
    h[3] = math.nan
    h[4] = math.inf
    measured = logit_metrics(logit_sums(h, weight, targets, bias))
    assert not math.isfinite(measured["probe_loss"])
    assert not math.isfinite(measured["logit_rms"])


def test_leaves_no_graph() -> None:
    h, weight, targets, bias = (t.requires_grad_() if t.is_floating_point() else t for t in problem())
    assert not logit_sums(h, weight, targets, bias).requires_grad


def test_holds_one_chunk_of_logits() -> None:
    h, weight = torch.randn(1000, 4), torch.randn(500, 4)
    with LargestTensor() as largest:
        logit_sums(h, weight, torch.zeros(1000, dtype=torch.long), chunk_rows=50)
    assert largest.elements == 50 * 500
