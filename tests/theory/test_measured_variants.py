"""The predictions for variants of the MLP, and for tied embeddings, against float64 networks written out here; and the
edges of random features and of the two-layer linear model against the largest rate at which they do not diverge."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.parameterization.rules import TABLE, Factor, Parameterization
from pipeline.theory.edges import edges
from pipeline.theory.network import Setting
from pipeline.theory.orders import power
from pipeline.theory.predict import predict
from tests.support.ruled import params_of
from tests.theory.test_measured import BASE, BATCH, D_IN, READOUT, Array, H, Measured, check, gpt_run, mlp, rms


def variant_run(
    setting: Setting, alpha: Fraction, width: int, seed: int, steps: int, lr: float, classes: int
) -> Measured:
    """h_1 = W_1 x; h_l = [h_(l-1) +] W_l relu(norm(h_(l-1))); f = V relu(norm(h_L)), gradients by autograd."""
    random = torch.Generator().manual_seed(seed)
    data = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    # one class lacks examples: else the gradients of the readout's bias cancel
    y, m = torch.arange(BATCH) % (classes - 1), width / BASE
    names = ["input", *(f"hidden{i + 1}" for i in range(setting.depth - 2)), "output"]
    dims = [D_IN, *[width] * (setting.depth - 1), classes]
    tensors: dict[str, Tensor] = {}
    roles: dict[str, Any] = {}
    for i, name in enumerate(names):
        roles[name] = "hidden" if name.startswith("hidden") else name
        std = (2 / (D_IN if i == 0 else BASE)) ** 0.5 * m ** -float(setting.init_exponent(roles[name]))
        std *= READOUT if name == "output" and not setting.logit_norm else 1
        tensors[name] = torch.randn(dims[i + 1], dims[i], generator=random, dtype=torch.float64) * std
        if setting.biases:
            roles[f"b {name}"] = "finite" if name == "output" else "vector"
            tensors[f"b {name}"] = torch.zeros(dims[i + 1], dtype=torch.float64)
        if setting.norms and name != "output":
            roles[f"g {name}"] = "vector"
            tensors[f"g {name}"] = torch.ones(width, dtype=torch.float64)
    start = {name: tensor.clone() for name, tensor in tensors.items()}
    moves = [name for name, role in roles.items() if setting.has(role)]

    def forward() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What each weight reads, and what follows it."""
        reads, makes, x, h = {}, {}, data, torch.zeros(1)
        for name in names:
            reads[name] = x
            made = x @ tensors[name].T + (tensors[f"b {name}"] if setting.biases else 0)
            h = h + made if setting.residual and roles[name] == "hidden" else made
            makes[name] = h
            z = h * h.square().mean(1, keepdim=True).rsqrt() if setting.norms and name != "output" else h
            reads[f"g {name}"] = z
            x = (z * tensors[f"g {name}"] if setting.norms and name != "output" else z).relu()
        return reads, makes

    reads_0, measured = {}, {}
    for step in range(steps):
        for name in moves:
            tensors[name].requires_grad_()
        reads, makes = forward()
        f = F.layer_norm(makes["output"], (classes,)) if setting.logit_norm else makes["output"]
        loss = (
            F.cross_entropy(f, y)
            if setting.loss == "cross_entropy"
            else (f - F.one_hot(y, classes)).square().sum(1).mean()
        )
        gradients = dict(zip(moves, torch.autograd.grad(loss, [tensors[name] for name in moves]), strict=True))
        if step == 0:
            reads_0 = {name: value.detach() for name, value in reads.items()}
            measured = {(name, "gradient"): rms(gradients[name]) for name in names if name in moves}
            measured |= {(name, "output"): rms(makes[name].detach()) for name in names}
        with torch.no_grad():
            for name in moves:
                move = gradients[name].sign() if setting.family == "adam" else gradients[name]
                tensors[name] = tensors[name] - lr * m ** -float(alpha + setting.lr_exponent(roles[name])) * move
    with torch.no_grad():
        reads, _ = forward()
    for name in names:
        measured[name, "effective"] = rms(reads[name] @ (tensors[name] - start[name]).T)
        measured[name, "propagating"] = rms((reads[name] - reads_0[name]) @ start[name].T)
    last = names[-2]
    if setting.norms and f"g {last}" in moves:
        measured["vector", "effective"] = rms((tensors[f"g {last}"] - 1) * reads[f"g {last}"])
        measured["vector", "propagating"] = rms(reads[f"g {last}"] - reads_0[f"g {last}"])
    elif setting.biases and f"b {last}" in moves:
        measured["vector", "effective"] = rms(tensors[f"b {last}"])
    if setting.biases:
        measured["finite", "effective"] = rms(tensors["b output"])
    return measured


EVERY = ("gradient", "output", "effective", "propagating")
VARIANTS: dict[str, dict[str, Any]] = {
    "norms": {"norms": True},
    "fixed norms": {"norms": True, "train_norms": False},
    "biases": {"biases": True},
    "residual": {"residual": True},
    "residual with norms and biases": {"residual": True, "norms": True, "biases": True},
    "normalized logits": {"logit_norm": True, "loss": "mse"},
    "random features": {"train": "readout", "biases": True},
    "fixed input": {"train": "no_input", "norms": True},
}


@pytest.mark.parametrize(
    ("name", "optimizer", "alpha"), [("sp", "sgd", H), ("mup", "sgd", Fraction(0)), ("sp", "adam", Fraction(1))]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step_of_a_variant(variant: str, name: str, optimizer: Any, alpha: Fraction) -> None:
    setting = mlp(name, optimizer, **VARIANTS[variant])
    # the logits of muP vanish, and at these widths its norm divides by them: the limit, where epsilon acts, is not seen
    only = ("output",) if setting.logit_norm and name == "mup" else EVERY
    lr, widths, seeds = (1e-6 if optimizer == "adam" else 1e-4), (128, 256, 512), 12
    if setting.residual or optimizer == "adam":  # what vanishes is not much smaller than what stays at 128
        widths, seeds = (256, 512, 1024), 6
    check(
        setting,
        alpha,
        run=variant_run,
        only=only,
        classes=8 if setting.residual else 16,
        lr=lr,
        widths=widths,
        seeds=seeds,
    )


@pytest.mark.parametrize("residual", [False, True])
def test_residual_branches_pass_on_what_vanishing_matrices_do_not(residual: bool) -> None:
    sp = TABLE["sp"]
    weak = Parameterization("weak", {**sp.init, "hidden": Factor(Fraction(2))}, sp.lr)
    setting = Setting(weak, "sgd", model="mlp", depth=4, residual=residual)
    assert predict(setting, H).layer("input").initial.gradient == power(-H if residual else -H - 3)
    check(
        setting, H, run=variant_run, only=("gradient",), layers=("input",), widths=(256, 512, 1024), seeds=4, classes=8
    )


def test_diverging_logits_do_not_feed_back_once_they_are_normalized() -> None:
    """MSE at n^-1/2: logits grow, the loss's derivative does not, and hidden layers move by n^0 (Figure F.17)."""
    setting = mlp("sp", loss="mse", logit_norm=True)
    prediction = predict(setting, H)
    assert prediction.regime == "controlled divergence"
    assert (edges(setting).max_stable.exponent, edges(mlp("sp", loss="mse")).max_stable.exponent) == (-H, -1)
    check(setting, H, 3, run=variant_run, lr=1e-4, classes=16, seeds=16, only=("effective", "propagating"))


@pytest.mark.parametrize(("optimizer", "alpha"), [("sgd", H), ("adam", Fraction(1))])
def test_one_tensor_as_embedding_and_readout(optimizer: Any, alpha: Fraction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.theory.test_measured.READOUT", 1.0)
    setting = Setting(TABLE["sp"], optimizer, depth=4, d_out="finite", tied=True)
    lr = 1e-6 if optimizer == "adam" else 1e-4
    check(setting, alpha, run=gpt_run, lr=lr, seeds=8, layers=("input", "hidden1", "hidden2", "output", "vector"))


def edge_slope(diverges: Callable[[int, float], bool], widths: tuple[int, ...]) -> float:
    """Slope of the largest rate without divergence, by bisection in log2."""
    found = []
    for width in widths:
        low, high = -20.0, 6.0
        while high - low > 0.02:
            middle = (low + high) / 2
            low, high = (low, middle) if diverges(width, 2.0**middle) else (middle, high)
        found.append(low)
    return float(np.polyfit(np.log2(widths), found, 1)[0])


@pytest.mark.parametrize("name", ["sp", "mup", "ntp"])
def test_random_features_under_mse_are_stable_up_to_their_readouts_edge(name: str) -> None:
    setting = mlp(name, loss="mse", train="readout", depth=3)

    @functools.cache
    def features(width: int) -> tuple[Array, Array]:
        random = np.random.default_rng(0)
        x, y = random.standard_normal((8, D_IN)), np.sign(random.standard_normal(8))
        for fan_in in (D_IN, width):
            x = np.maximum(x @ random.standard_normal((fan_in, width)) * np.sqrt(2 / fan_in), 0)
        return x, y

    def diverges(width: int, lr: float) -> bool:
        (x, y), v, losses = features(width), np.zeros(width), []
        rate = lr * (width / BASE) ** -float(setting.lr_exponent("output"))
        for _ in range(60):
            error = x @ v - y
            losses.append(float(error @ error))
            v -= rate * 2 * x.T @ error / 8
        return not losses[-1] < 10 * losses[0]

    found = edges(setting)
    assert found.max_stable.exponent is not None
    assert found.max_stable.exponent == found.optimal.exponent == found.layers["output"].exponent
    assert list(found.layers) == ["output"]
    assert edge_slope(diverges, (128, 512, 2048)) == pytest.approx(float(found.max_stable.exponent), abs=0.1)


def test_random_features_have_no_edge_under_cross_entropy() -> None:
    """C.1: no activation moves; F.5.1: larger rates saturate the softmax. n^-1 is width-independent, hence optimal."""
    for optimizer in ("sgd", "adam"):
        found = edges(mlp("sp", optimizer, train="readout"))
        assert found.max_stable.exponent is None
        assert (found.optimal.exponent, found.optimal.status) == (-1, "derived")
        assert predict(mlp("sp", optimizer, train="readout"), Fraction(0)).regime == "controlled divergence"


@pytest.mark.parametrize("name", ["sp", "mup", "ntp"])
def test_remark_c19_two_layer_linear_model(name: str) -> None:
    """C.4: f = v u x on one example, x = y = 1, with the largest rate at which gradient descent does not diverge."""
    setting = Setting(TABLE[name], "sgd", "mse", model="mlp", depth=2, activation="linear")

    def diverges(width: int, lr: float) -> bool:
        random, m = np.random.default_rng(width), width / BASE
        u = random.standard_normal(width) * m ** -float(setting.init_exponent("input"))
        v = random.standard_normal(width) * BASE**-0.5 * m ** -float(setting.init_exponent("output"))
        rates = [lr * m ** -float(setting.lr_exponent(role)) for role in ("input", "output")]
        for _ in range(200):
            error = v @ u - 1
            if not abs(error) < 1e6:  # the catapult of a stable rate reaches n^1/2
                return True
            u, v = u - rates[0] * error * v, v - rates[1] * error * u
        return False

    claim = edges(setting).max_stable
    assert "C.18" in claim.source
    assert claim.exponent == {"sp": -1, "mup": 0, "ntp": 0}[name]
    assert edge_slope(diverges, (256, 1024, 4096, 16384)) == pytest.approx(float(claim.exponent), abs=0.05)


@pytest.mark.parametrize("name", params_of("sgd"))
def test_embeddings_that_always_start_as_neox(name: str) -> None:
    """F.6: std n^-1/2 under every parameterization; under SP that is neox."""
    setting = Setting(TABLE[name], "sgd", embedding_init="neox_always")
    assert setting.init_exponent("input") == H
    if name == "sp":
        assert predict(setting, H).steps == predict(Setting(TABLE[name], "sgd"), H).steps


def test_one_step_of_full_align_as_it_was_published_for_sgd() -> None:
    """F.6: constant rates, embedding std n^-1/2."""
    setting = Setting(TABLE["sp_full_align"], "sgd", depth=4, d_out="finite", embedding_init="neox_always")
    check(setting, Fraction(0), run=gpt_run, lr=1e-5, seeds=8, only=("gradient", "output", "effective"))


def test_qk_norms_as_vectors_have_the_rate_of_norms() -> None:
    """facts.md: the published SGD runs of SP-full-align gave them sqrt(m)."""
    finite, vector = (Setting(TABLE["sp_full_align"], "sgd", qk_norm_role=role) for role in ("finite", "vector"))
    rates = [predict(setting, Fraction(0)).layer("finite").weight.c for setting in (finite, vector)]
    assert rates == [0, -H]
    assert (
        not predict(Setting(TABLE["sp"], qk_norm_role="vector", train_norms=False), Fraction(1)).layer("finite").present
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "gpt", "norms": True}, "norms is for the mlp: a gpt has norms"),
        ({"model": "gpt", "logit_norm": True}, "logit_norm is for the mlp"),
        ({"model": "mlp", "tied": True}, "tied is for the gpt"),
        ({"model": "mlp", "embedding_init": "neox_always"}, "embedding_init neox_always is for the gpt"),
        ({"model": "mlp", "depth": 2, "residual": True}, "residual: a network of depth 2 has no hidden layers"),
        ({"tied": True, "embedding_init": "constant"}, "tied: under sp embedding and readout have no one rule"),
        ({"tied": True, "train": "readout"}, "would split the one tensor"),
    ],
)  # fmt: skip
def test_meaningless_variants_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting(TABLE["sp"], **wrong)
