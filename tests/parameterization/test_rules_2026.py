"""Rules of depth, unit scale, epsilon, decay, batch and horizon: closed forms per tensor, and the forms that they fold.

m = l = 4, z = 2, steps ratio 4 (t = 8), unless said otherwise.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig, RunConfig
from pipeline.errors import RequestError
from pipeline.parameterization import rules
from pipeline.parameterization.axes import axes_of
from pipeline.parameterization.depth import DEPTH_RULES
from pipeline.parameterization.rules import Width
from pipeline.scaling import Scaling, scaling_of
from pipeline.theory.network import Setting
from pipeline.theory.predict import predict
from tests.conftest import changed
from tests.support.ruled import params_of
from tests.test_optim import built

MODEL = ModelConfig(n_layer=8, head_size=16, vocab_size=256, mlp_ratio=2)
BASE = RunConfig(
    width=128,
    base_width=32,
    base_depth=2,
    seq_len=16,
    param="mup",
    lr=1e-2,
    weight_decay=0.1,
    eps=1e-8,
    micro_batch=8,
    model=MODEL,
)
TIGHT: dict[str, Any] = {"rel": 1e-6}


def settings(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The group of every tensor."""
    model, optimizer = built(config)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


# --- depth ---------------------------------------------------------------------------------------------------------

# name: lr, eps and decay over those of the base point at m = l = 4 (CompleteP, Table 1, folded; a = 1)
COMPLETEP = {
    "transformer.wte.weight": (1, 1, 1),
    "transformer.h.3.norm_1.weight": (1, 1 / 4, 1),
    "transformer.h.3.attn.qkv.weight": (1 / 4, 1 / 4, 4),
    "transformer.h.3.attn.qkv.bias": (1, 1 / 4, 1),
    "transformer.h.3.attn.norm_q.weight": (1, 1 / 4, 1),
    "transformer.h.3.attn.proj.weight": (1 / 16, 1, 16),
    "transformer.h.3.attn.proj.bias": (1 / 4, 1, 4),
    "transformer.h.3.mlp.fc.weight": (1 / 4, 1 / 4, 4),
    "transformer.h.3.mlp.proj.weight": (1 / 16, 1, 16),
    "transformer.ln_f.weight": (1, 1, 1),
    "lm_head.weight": (1 / 4, 1, 4),
}


def test_completep_tensor_by_tensor() -> None:
    found = settings(changed(BASE, depth_scaling="completep"))
    for name, (lr, eps, decay) in COMPLETEP.items():
        group = found[name]
        assert group["lr"] == pytest.approx(1e-2 * lr, **TIGHT), name
        assert group["eps"] == pytest.approx(1e-8 * eps, **TIGHT), name
        assert group["weight_decay"] == pytest.approx(0.1 * decay, **TIGHT), name
    model, _ = built(changed(BASE, depth_scaling="completep"))
    for tensor, std in (
        (model.transformer.h[3].attn.proj.weight, 1 / (2 * math.sqrt(128)) / 4),
        (model.transformer.h[3].mlp.proj.weight, math.sqrt(2 / (5 * 128)) / 4),
        (model.transformer.h[3].mlp.fc.weight, math.sqrt(2 / (5 * 128))),
    ):
        assert tensor.std().item() == pytest.approx(std, rel=0.02)


def test_sqrt_leaves_eps_and_muon_follows_adam_in_depth() -> None:
    assert {group["eps"] for group in settings(changed(BASE, depth_scaling="sqrt")).values()} == {1e-8}
    for rule in DEPTH_RULES.values():
        for place in ("trunk", "branch", "branch_end"):
            assert rule.lr(place, "muon") == rule.lr(place, "adam")
    assert [DEPTH_RULES["completep"].lr(p, "sgd") for p in ("trunk", "branch", "branch_end")] == [0, 1, -1]
    assert [DEPTH_RULES["sqrt"].lr(p, "sgd") for p in ("trunk", "branch", "branch_end")] == [0, 0, -1]


class Blocks(nn.Module):
    """h + multiplier * W2 tanh(W1 norm(h)) per block, float64."""

    def __init__(self, depth: int, multiplier: float) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.inner = nn.ModuleList(nn.Linear(8, 8, bias=False, dtype=torch.float64) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(8, 8, bias=False, dtype=torch.float64) for _ in range(depth))
        self.last = nn.Linear(8, 8, bias=False, dtype=torch.float64)

    def forward(self, h: Tensor) -> Tensor:
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + self.multiplier * outer(torch.tanh(inner(F.layer_norm(h, (8,)))))
        return self.last(h)


@pytest.mark.parametrize("right", [True, False])
def test_completep_is_the_multiplier_form_folded_in(right: bool) -> None:
    """Dey et al. 2025, Table 1, written with the multiplier l^-1: eps and decay too, at an eps that acts. Wrong is an
    eps at the end of branches that shrinks as inside them."""
    depth, lr, eps, decay = 4.0, 0.01, 1e-4, 0.1
    multiplied, folded = Blocks(4, 1 / depth), Blocks(4, 1.0)
    torch.manual_seed(0)
    folded.load_state_dict(multiplied.state_dict())
    scaling = Scaling(rules.get("sp"), "adam", Width(8, 8, 8), depth=depth, depth_rule=DEPTH_RULES["completep"])
    with torch.no_grad():
        for module in folded.outer:
            module.weight.mul_(scaling.init("hidden", "branch_end"))
    published = [
        {"params": [*multiplied.inner.parameters(), *multiplied.outer.parameters()], "eps": eps / depth},
        {"params": multiplied.last.parameters(), "eps": eps},
    ]
    groups = [
        {
            "params": list(modules.parameters()),
            "lr": lr * scaling.lr("hidden", place),
            "eps": eps * (scaling.eps("hidden", place) if right or place != "branch_end" else 1 / depth),
            "weight_decay": scaling.decay(decay, "hidden", place, "inverse_lr", lr),
        }
        for modules, place in ((folded.inner, "branch"), (folded.outer, "branch_end"), (folded.last, "trunk"))
    ]
    optimizers = [torch.optim.AdamW(published, lr=lr, weight_decay=decay), torch.optim.AdamW(groups)]
    x, y = torch.randn(16, 8, dtype=torch.float64), torch.randn(16, 8, dtype=torch.float64)
    off = 0.0
    for _ in range(30):
        losses = []
        for model, optimizer in zip((multiplied, folded), optimizers, strict=True):
            losses.append(F.mse_loss(model(x), y))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        off = max(off, abs(losses[0].item() - losses[1].item()))
    assert off < 1e-12 if right else off > 1e-6


# --- unit scale ----------------------------------------------------------------------------------------------------


class Unit(nn.Module):
    """u-muP's form (Blake et al. 2024): every weight starts at std 1, with multipliers 1 / sqrt(fan-in) inside and
    1 / fan-in at the readout; `folded`: without."""

    def __init__(self, n: int, folded: bool) -> None:
        super().__init__()
        self.n, self.folded = n, folded
        self.embedding = nn.Embedding(12, n, dtype=torch.float64)
        self.hidden = nn.Linear(n, n, bias=False, dtype=torch.float64)
        self.readout = nn.Linear(n, 12, bias=False, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        inner, outer = (1.0, 1.0) if self.folded else (self.n**-0.5, 1 / self.n)
        return self.readout(torch.tanh(self.hidden(self.embedding(tokens)) * inner)) * outer


def test_umup_is_unit_scale_folded_in() -> None:
    """Rates eta / sqrt(fan-out) of the embedding, eta / sqrt(fan-in) of hidden weights, eta of the readout; folded, the
    factors of the table at base width 1 and std 1. Adam with an eps that vanishes, float64."""
    n, lr = 64, 0.01
    unit, folded = Unit(n, folded=False), Unit(n, folded=True)
    torch.manual_seed(1)
    scaling = Scaling(rules.get("umup"), "adam", Width(n, 1, 12))
    roles = {"embedding": "input", "hidden": "hidden", "readout": "output"}
    for name, role in roles.items():
        weight = getattr(unit, name).weight
        nn.init.normal_(weight)
        getattr(folded, name).weight.data = weight.detach() * scaling.init(role)  # type: ignore[arg-type]
    own = {"embedding": n**-0.5, "hidden": n**-0.5, "readout": 1.0}
    optimizers = [
        torch.optim.AdamW([{"params": getattr(unit, k).parameters(), "lr": lr * v} for k, v in own.items()], eps=1e-30),
        torch.optim.AdamW(
            [{"params": getattr(folded, k).parameters(), "lr": lr * scaling.lr(r)} for k, r in roles.items()],  # type: ignore[arg-type]
            eps=1e-30,
        ),
    ]
    for group in (*optimizers[0].param_groups, *optimizers[1].param_groups):
        group["weight_decay"] = 0.1 * lr / group["lr"]  # independent of rates: lr * decay alike
    tokens, y = torch.arange(12), torch.arange(12).roll(1)
    for _ in range(30):
        losses = []
        for model, optimizer in zip((unit, folded), optimizers, strict=True):
            losses.append(F.cross_entropy(model(tokens), y))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert abs(losses[0].item() - losses[1].item()) < 1e-12
    assert losses[1].item() < math.log(12) - 0.1


@pytest.mark.parametrize(
    ("name", "init", "adam"),
    [("umup", (0, 0.5, 1), (0.5, 0, 1, 1)), ("sp_embedding", (0, 0.5, 0.5), (-1, 0, 0, 0))],
)
def test_new_rows_by_hand(name: str, init: tuple[float, ...], adam: tuple[float, ...]) -> None:
    p, width = rules.get(name), Width(1024, 256, 50304)
    assert [p.init_factor(r, width) for r in ("input", "hidden", "output")] == [4**-b for b in init]  # type: ignore[arg-type]
    assert [p.lr_factor(r, "adam", width) for r in ("input", "vector", "hidden", "output")] == [4**-c for c in adam]  # type: ignore[arg-type]


# --- epsilon -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding_init", ["constant", "neox"])
@pytest.mark.parametrize("param", params_of("adamw"))
def test_epsilon_follows_the_gradients_that_theory_has(param: str, embedding_init: Any) -> None:
    """Initial gradients of a GPT, layer by layer; of qk gains the sum over heads."""
    setting = Setting(rules.get(param), embedding_init=embedding_init)
    prediction = predict(setting, 0)  # type: ignore[arg-type]
    width = Width(256, 1, 10**12)  # so that sp_transition is at its limit
    scaling = Scaling(rules.get(param), "adam", width, embedding_init=embedding_init, eps_scaling="width")
    places = {"input": "trunk", "vector": "branch", "hidden": "branch", "output": "trunk", "finite": "branch"}
    for layer, place in places.items():
        exponent = prediction.layer(layer).initial.gradient.exponent
        role = prediction.layer(layer).weight.trained_as
        measured = math.log(scaling.eps(role, place)) / math.log(256)  # type: ignore[arg-type]
        assert measured == pytest.approx(float(exponent or 0), abs=0.01), layer
    assert scaling.eps("finite", "trunk") == 1, "the readout's bias sees the loss's derivative alone"


# --- decay, batch, horizon -----------------------------------------------------------------------------------------

AXES: dict[str, Any] = {"global_batch": 16, "base_batch": 8, "steps": 400, "base_steps": 100}


def products(config: RunConfig) -> set[float]:
    """lr * decay of every group, over the base point's."""
    return {round(g["lr"] * g["weight_decay"] / (1e-2 * 0.1), 9) for g in settings(config).values()}


def test_decays_by_name() -> None:
    assert products(BASE) == {1.0}
    assert products(changed(BASE, weight_decay_scaling="constant")) == {1.0, 0.25}
    timescale = changed(BASE, weight_decay_scaling="timescale", steps=400, base_steps=100)
    assert products(timescale) == {0.25}, "lr * decay * steps stays"
    assert products(changed(timescale, batch_scaling="sqrt", global_batch=16, base_batch=8)) == {0.25}
    independent = changed(BASE, weight_decay_scaling="independent", weight_decay=3e-4)
    for lr in (1e-2, 1e-3):
        groups = settings(changed(independent, lr=lr)).values()
        assert {round(g["lr"] * g["weight_decay"], 12) for g in groups} == {3e-4}, "whatever the learning rate"


@pytest.mark.parametrize(
    ("change", "lr", "product", "eps", "betas"),
    [
        ({"batch_scaling": "sqrt"}, 2**0.5, 2**0.5, 2**-0.5, (0.9, 0.9)),
        ({"batch_scaling": "linear"}, 2, 2, 1, (0.9, 0.95)),
        ({"batch_scaling": "completedp"}, 2**0.5, 2, 2**-0.5, (0.8, 0.9)),
        ({"steps_scaling": "completedp"}, 8**-0.5, 1 / 8, 8**0.5, (1 - 0.1 / 8, 1 - 0.05 / 8)),
        # r = z / t = 1 / 4
        ({"batch_scaling": "completedp", "steps_scaling": "completedp"}, 0.5, 1 / 4, 2, (1 - 0.1 / 4, 1 - 0.05 / 4)),
        ({"batch_scaling": "sqrt", "steps_scaling": "power"}, 2**0.5 * 8**-0.3, 2**0.5 * 8**-0.3, 2**-0.5, (0.9, 0.9)),
        ({"steps_scaling": "power", "steps_exponent": 0.25}, 8**0.25, 8**0.25, 1, (0.9, 0.95)),
    ],
    ids=str,
)  # fmt: skip
def test_batch_and_horizon(
    change: dict[str, Any], lr: float, product: float, eps: float, betas: tuple[float, float]
) -> None:
    axes = dict(AXES) if change.get("steps_scaling") else {"global_batch": 16, "base_batch": 8}
    config = changed(BASE, param="sp", **axes, **change)
    groups = settings(config)
    for group in groups.values():
        assert group["lr"] == pytest.approx(1e-2 * lr, **TIGHT)
        assert group["lr"] * group["weight_decay"] == pytest.approx(1e-3 * product, **TIGHT)
        assert group["eps"] == pytest.approx(1e-8 * eps, **TIGHT)
        assert group["betas"] == pytest.approx(betas, **TIGHT)


def test_at_the_base_point_nothing_scales() -> None:
    config = changed(BASE, width=32, model_n_layer=2, depth_scaling="completep", eps_scaling="width",
                     batch_scaling="completedp", base_batch=256, steps_scaling="completedp", base_steps=1000)  # fmt: skip
    assert axes_of(config) == axes_of(BASE)
    assert {(g["lr"], g["eps"], g["weight_decay"], g["betas"]) for g in settings(config).values()} == {
        (1e-2, 1e-8, 0.1, (0.9, 0.95))
    }


def quadratic(optimizer: str, rule: str, z: int) -> float:
    """Mean loss of a noisy quadratic at the end of equal samples, over 400 copies."""
    steps = (512 if optimizer == "adamw" else 2048) // z
    config = RunConfig(
        optimizer=optimizer, lr=0.05 if optimizer == "adamw" else 0.02, weight_decay=0.0, batch_scaling=rule,
        global_batch=8 * z, base_batch=None if rule == "none" else 8, steps=steps, betas=(0.9, 0.99), warmup_steps=0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = nn.Parameter(torch.full((400,), 2.0))
    scaling = scaling_of(config)
    betas = axes_of(config).betas(config.betas)
    group = [{"params": [x], "lr": config.lr * scaling.lr("vector")}]
    step = torch.optim.SGD(group) if optimizer == "sgd" else torch.optim.Adam(group, betas=betas, eps=1e-12)
    for _ in range(steps):
        x.grad = x.detach() + 2 * torch.randn(400, generator=generator) / z**0.5
        step.step()
    return float((x.detach() ** 2).mean())


@pytest.mark.parametrize(("optimizer", "rule"), [("adamw", "sqrt"), ("sgd", "linear")])
def test_batch_rules_keep_the_noise_of_a_quadratic(optimizer: str, rule: str) -> None:
    """Where gradients are noise, four times the batch under the rule ends as noisy as the base run, and not without."""
    base = quadratic(optimizer, "none", 1)
    ruled, unscaled = quadratic(optimizer, rule, 4), quadratic(optimizer, "none", 4)
    assert abs(ruled / base - 1) < 0.2
    assert abs(unscaled / base - 1) > 0.3


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"optimizer": "sgd", "param": "umup", "weight_decay": 0.0}, "--param umup has no rule for --optimizer sgd: it is for adamw and adam"),
        ({"param": "nanochat"}, "--param nanochat has no rule for --optimizer adamw: it is for muon"),
        ({"optimizer": "muon", "strategy": "deepspeed_zero1"}, "--optimizer muon needs whole matrices, which --strategy deepspeed_zero1 takes apart: use ddp or fsdp"),
        ({"muon_scale": "original"}, "--muon_scale is Muon's, not of --optimizer adamw"),
        ({"optimizer": "sgd", "weight_decay": 0.0, "eps_scaling": "width"}, "--eps_scaling width scales Adam's eps, which --optimizer sgd does not have"),
        ({"batch_scaling": "sqrt"}, "--batch_scaling sqrt needs --base_batch, where it changes nothing"),
        ({"steps_scaling": "power"}, "--steps_scaling power needs --base_steps, where it changes nothing"),
        ({"base_batch": 8}, "--base_batch needs --batch_scaling or what --base_steps needs"),
        ({"base_steps": 8}, "--base_steps needs --steps_scaling or --weight_decay_scaling timescale"),
        ({"steps_exponent": 0.5}, "--steps_exponent needs --steps_scaling power"),
        ({"weight_decay_scaling": "timescale"}, "--weight_decay_scaling timescale needs --base_steps, where it changes nothing"),
        ({"weight_decay_scaling": "independent", "weight_decay": None},
         "--weight_decay_scaling independent: give --weight_decay, what a step at the peak learning rate takes off a weight, such as 3e-4"),
        ({"optimizer": "muon", "batch_scaling": "completedp", "base_batch": 8}, "--batch_scaling completedp has no rule for --optimizer muon"),
        ({"weight_decay_scaling": "independent", "batch_scaling": "completedp", "base_batch": 8},
         "--batch_scaling completedp scales weight decay itself: --weight_decay_scaling inverse_lr or constant"),
        ({"batch_scaling": "sqrt", "base_batch": 8, "global_batch": 256},
         "--betas [0.9, 0.95] become [0.9, -0.6] under --batch_scaling sqrt and --steps_scaling none: the run is too far from the base one"),
        ({"base_batch": 0, "batch_scaling": "sqrt"}, "--base_batch must be at least 1, got 0"),
        ({"muon_momentum": 1.0, "optimizer": "muon"}, "--muon_momentum must be in [0, 1), got 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError) as refused:
        changed(BASE, **change)
    assert str(refused.value) == line
