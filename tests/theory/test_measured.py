"""The predictions against networks: float64 nets of growing width, a few tiny steps, slopes of log RMS over log width.

Tolerance 0.15: with these widths, seeds and depths, slopes scatter by about 0.03 and finite width bends those of the
readout by up to 0.08. The constant multiplier of the readout is 1/8, so that the softmax stays far from saturation and
chi is the same at all widths.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.parameterization.rules import TABLE, Role
from pipeline.theory.network import Setting
from pipeline.theory.orders import ZERO
from pipeline.theory.predict import predict

H = Fraction(1, 2)
D_IN, BATCH, BASE = 16, 4, 128
READOUT = 1 / 8
ROLE: dict[str, Role] = {"input": "input", "vector": "vector", "output": "output"}
Measured = dict[tuple[str, str], float]
Array = NDArray[np.float64]


def rms(a: Array | Tensor) -> float:
    return float((a**2).mean()) ** 0.5


def mlp_run(setting: Setting, alpha: Fraction, width: int, seed: int, steps: int, lr: float, classes: int) -> Measured:
    """A ReLU MLP in numpy, gradients by hand, He initialization at the base width, as the rules scale it."""
    data = np.random.default_rng(99)
    x_in, y = data.standard_normal((D_IN, BATCH)), np.eye(classes)[np.arange(BATCH) % classes].T
    roles: list[Role] = ["input", *(["hidden"] * (setting.depth - 2)), "output"]
    dims, m = [D_IN, *[width] * (setting.depth - 1), classes], width / BASE
    rng = np.random.default_rng(seed)
    w_0, lrs = [], []
    for i, role in enumerate(roles):
        std = np.sqrt(2 / (D_IN if i == 0 else BASE)) * m ** -float(setting.init_exponent(role))
        std *= (READOUT if setting.readout_init == "standard" else 0) if role == "output" else 1
        w_0.append(rng.standard_normal((dims[i + 1], dims[i])) * std)
        lrs.append(lr * m ** -float(alpha + setting.lr_exponent(role)))

    def forward(weights: list[Array]) -> list[Array]:
        xs = [x_in]
        for weight in weights[:-1]:
            xs.append(np.maximum(weight @ xs[-1], 0))
        return [*xs, weights[-1] @ xs[-1]]

    xs_0 = xs = forward(w_0)
    weights, measured = list(w_0), {}
    names = [f"hidden{i}" if role == "hidden" else role for i, role in enumerate(roles)]
    for step in range(steps):
        odds = np.exp(xs[-1] - xs[-1].max(0))
        signal = (odds / odds.sum(0) if setting.loss == "cross_entropy" else xs[-1]) - y
        gradients = []
        for weight, x, x_next in list(zip(weights, xs, xs[1:], strict=False))[::-1]:
            signal = signal if weight is weights[-1] else signal * (x_next > 0)
            gradients.append(signal @ x.T)
            signal = weight.T @ signal
        gradients.reverse()
        if step == 0:
            measured = {(name, "gradient"): rms(g) for name, g in zip(names, gradients, strict=True)}
            measured |= {(name, "output"): rms(x) for name, x in zip(names, xs[1:], strict=True)}
        if setting.family == "adam":
            gradients = [np.sign(g) for g in gradients]
        weights = [weight - rate * g for weight, rate, g in zip(weights, lrs, gradients, strict=True)]
        xs = forward(weights)
    for i, name in enumerate(names):
        measured[name, "effective"] = rms((weights[i] - w_0[i]) @ xs[i])
        measured[name, "propagating"] = rms(w_0[i] @ (xs[i] - xs_0[i]))
    return measured


class Residual(torch.nn.Module):
    """h = embedding; h += W_l norm(h), gelu between; logits = readout norm(h). Norms with gains and biases.

    With `values`, the last block is attention to a single token by one key/value head of 8 rows for all width / 8
    heads.
    """

    def __init__(self, width: int, blocks: int, classes: int, values: bool) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(BATCH, width)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width, eps=1e-12) for _ in range(blocks + 1))
        self.hidden = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.readout = torch.nn.Linear(width, classes, bias=False)
        self.values = torch.nn.Linear(width, 8, bias=False) if values else None

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the normalized inputs: of every hidden weight (after gelu), of the readout, and its norm's."""
        h, inputs = self.embedding(tokens), []
        for norm, hidden in zip(self.norms, self.hidden, strict=False):
            inputs.append(F.gelu(norm(h)))
            if self.values is not None and hidden is self.hidden[-1]:
                inputs[-1] = norm(h)
                h = h + hidden(self.values(inputs[-1]).repeat(1, h.shape[-1] // 8))
            else:
                h = h + hidden(inputs[-1])
        last = self.norms[-1](h)
        return self.readout(last), [*inputs, last, F.layer_norm(h, h.shape[-1:], eps=1e-12)]


def gpt_run(setting: Setting, alpha: Fraction, width: int, seed: int, steps: int, lr: float, classes: int) -> Measured:
    torch.manual_seed(seed)
    blocks, m = setting.depth - 2, width / BASE
    net = Residual(width, blocks, classes, setting.kv_heads == "fixed").double()
    if setting.tied:
        net.embedding.weight = net.readout.weight
    weights: dict[str, Tensor] = {"input": net.embedding.weight, "output": net.readout.weight}
    weights |= {f"hidden{i + 1}": layer.weight for i, layer in enumerate(net.hidden)}
    if net.values is not None:
        weights["key_value"] = net.values.weight
    gains = [norm.weight for norm in net.norms] + [norm.bias for norm in net.norms]
    with torch.no_grad():
        for name, weight in weights.items():
            role = ROLE.get(name, "hidden")
            std = BASE ** -(0.5 if role != "input" or setting.embedding != "constant" else 0) * (
                READOUT if role == "output" else 1
            )
            weight.normal_(std=std * m ** -float(setting.init_exponent(role)))
    w_0 = {name: weight.detach().clone() for name, weight in weights.items()}
    tokens, y = torch.arange(BATCH), torch.arange(BATCH) % classes
    measured: Measured = {}
    inputs_0: list[Tensor] = []
    for step in range(steps):
        logits, inputs = net(tokens)
        net.zero_grad()
        F.cross_entropy(logits, y).backward()
        if step == 0:
            inputs_0 = [x.detach() for x in inputs]
            measured = {(name, "gradient"): rms(w.grad) for name, w in weights.items() if w.grad is not None}
            measured["vector", "gradient"] = rms(net.norms[-1].weight.grad)
        with torch.no_grad():
            moved = {name: w for name, w in weights.items() if not setting.tied or name != "input"}
            for role_of, tensors in (("vector", gains), *((name, [w]) for name, w in moved.items())):
                role = ROLE.get(role_of, "hidden")
                for tensor in tensors:
                    assert tensor.grad is not None
                    move = tensor.grad.sign() if setting.family == "adam" else tensor.grad
                    tensor -= lr * m ** -float(alpha + setting.lr_exponent(role)) * move
    with torch.no_grad():
        _, inputs = net(tokens)
        measured["input", "effective"] = rms(weights["input"] - w_0["input"])
        places = {f"hidden{i + 1}": i for i in range(blocks)} | {"output": blocks}
        if net.values is not None:
            del places[f"hidden{blocks}"]
            places["key_value"] = blocks - 1
        for name, i in places.items():
            measured[name, "effective"] = rms(inputs[i] @ (weights[name] - w_0[name]).T)
            measured[name, "propagating"] = rms((inputs[i] - inputs_0[i]) @ w_0[name].T)
        measured["vector", "effective"] = rms((net.norms[-1].weight - 1) * inputs[-1])
        measured["vector", "propagating"] = rms(inputs[-1] - inputs_0[-1])
    return measured


Run = Callable[[Setting, Fraction, int, int, int, float, int], Measured]


def check(
    setting: Setting,
    alpha: Fraction,
    steps: int = 1,
    *,
    run: Run = mlp_run,
    lr: float = 1e-3,
    widths: tuple[int, ...] = (128, 256, 512),
    seeds: int = 12,
    classes: int = 4,
    small_steps: bool = True,
    only: tuple[str, ...] = ("gradient", "output", "effective", "propagating"),
    layers: tuple[str, ...] = (),
) -> None:
    """Every quantity measured after `steps` (gradients and outputs at initialization) has the predicted slope."""
    prediction = predict(setting, alpha, small_steps)
    logs = []
    for width in widths:
        runs = [run(setting, alpha, width, seed, steps, lr, classes) for seed in range(seeds)]
        logs.append({key: np.mean([np.log(max(r[key], 1e-300)) for r in runs]) for key in runs[0]})
    wrong = []
    for name, quantity in logs[0]:
        layer = prediction.layer(name)
        expected = getattr(layer.at(steps) if quantity in ("effective", "propagating") else layer.initial, quantity)
        measured = [log[name, quantity] for log in logs]
        if quantity not in only or (layers and name not in layers):
            continue
        if expected == ZERO:
            if max(measured) > np.log(1e-12):
                wrong.append(f"{name} {quantity}: measured {np.exp(max(measured)):.1e}, predicted exactly zero")
            continue
        slope = float(np.polyfit(np.log(widths), measured, 1)[0])
        if not abs(slope - float(expected.exponent)) < 0.15:
            wrong.append(f"{name} {quantity}: measured {slope:.2f}, predicted {expected.exponent}")
    assert not wrong, "\n".join(wrong)


def mlp(name: str, optimizer: Any = "sgd", **rest: Any) -> Setting:
    return Setting(TABLE[name], optimizer, model="mlp", **({"depth": 4} | rest))


@pytest.mark.parametrize(
    ("name", "optimizer", "alpha", "lr"),
    [
        ("sp", "sgd", H, 1e-4),
        ("sp", "sgd", Fraction(1), 1e-4),
        ("mup", "sgd", Fraction(0), 1e-3),
        ("ntp", "sgd", Fraction(0), 1e-3),
        ("sp_full_align", "sgd", Fraction(0), 1e-3),
        ("musoli", "sgd", Fraction(0), 1e-3),
        ("sp_transition", "sgd", Fraction(0), 1e-3),
        ("sp", "adam", Fraction(1), 1e-6),
        ("mup", "adam", Fraction(0), 1e-6),
        ("musoli", "adam", Fraction(0), 1e-6),
    ],
)
def test_one_step_of_an_mlp(name: str, optimizer: str, alpha: Fraction, lr: float) -> None:
    check(mlp(name, optimizer), alpha, lr=lr)


def test_three_steps_of_an_mlp() -> None:
    check(mlp("sp", depth=3), H, 3, lr=1e-4)


def test_mse_has_the_same_first_step() -> None:
    check(mlp("sp", depth=3, loss="mse"), Fraction(1), lr=1e-3)


def test_constant_rate_in_sp_departs_as_in_figure_e2() -> None:
    check(mlp("sp", depth=3), Fraction(0), 3, lr=1e-4)


def test_zero_readout_as_in_figure_e3() -> None:
    check(mlp("sp", depth=3, readout_init="zero"), Fraction(0), 1, lr=1e-4)
    check(mlp("sp", depth=3, readout_init="zero"), Fraction(0), 3, lr=1e-4)


def test_a_readout_that_its_update_outgrew_no_longer_aligns_with_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers, constant rate, the initial readout so small that the limit shows: the input layer learns like n^0
    from the second step on, and W_0 dx stays at n^0, as features now move along the readout's update."""
    monkeypatch.setattr(f"{__name__}.READOUT", 1e-6)
    setting = mlp("sp", depth=2)
    check(
        setting, Fraction(0), 3, lr=1e-5, widths=(256, 1024, 4096), small_steps=False, only=("effective", "propagating")
    )


def test_many_outputs_make_the_readout_pass_on_features_without_amplification() -> None:
    check(
        mlp("sp_full_align", depth=3, d_out="large"),
        Fraction(0),
        widths=(64, 128, 256),
        seeds=4,
        classes=4096,
        only=("propagating",),
    )


@pytest.mark.parametrize("embedding_init", ["neox", "constant"])
@pytest.mark.parametrize(
    ("name", "optimizer", "alpha"), [("sp", "sgd", H), ("mup", "sgd", Fraction(0)), ("sp", "adam", Fraction(1))]
)
def test_one_step_of_a_normalized_residual_network(
    name: str, optimizer: Any, alpha: Fraction, embedding_init: Any
) -> None:
    setting = Setting(TABLE[name], optimizer, depth=4, d_out="finite", embedding_init=embedding_init)
    check(setting, alpha, run=gpt_run, lr=1e-6 if optimizer == "adam" else 1e-4, seeds=8)


@pytest.mark.parametrize(("optimizer", "alpha"), [("sgd", H), ("adam", Fraction(1))])
def test_keys_and_values_of_a_fixed_number_of_heads_act_as_output(optimizer: Any, alpha: Fraction) -> None:
    setting = Setting(TABLE["sp"], optimizer, depth=4, kv_heads="fixed")
    lr = 1e-6 if optimizer == "adam" else 1e-4
    check(setting, alpha, run=gpt_run, lr=lr, seeds=8, layers=("key_value",))
