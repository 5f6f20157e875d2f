"""Muon beside another optimizer: torch's own bit for bit, against float64, by blocks, and by what a module hands it."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import ModelConfig, RunConfig
from pipeline.losses import linear_loss
from pipeline.models.build import build
from pipeline.muon import MuonBeside
from pipeline.optim import apply_parameterization, build_optimizer
from pipeline.parameterization import rules
from pipeline.parameterization.rules import Width
from pipeline.scaling import Scaling, scaling_of
from tests.conftest import changed
from tests.test_optim import built

LR, DECAY, MOMENTUM, STEPS = 0.02, 0.1, 0.95, 20
SHAPES = ((24, 16), (16, 24), (16, 16))
TORCHS = {"spectral": "original", "original": "original", "match_rms": "match_rms_adamw"}


def gradients(seed: int, *shapes: tuple[int, ...]) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(STEPS)]


def ours(
    weights: list[Tensor], others: list[Tensor], scale: str, **group: Any
) -> tuple[list[nn.Parameter], MuonBeside]:
    matrices, rest = ([nn.Parameter(w.clone()) for w in given] for given in (weights, others))
    groups = [
        {"name": "hidden", "params": matrices, "lr": LR, "weight_decay": DECAY, **group},
        *([{"name": "vector", "params": rest, "lr": 3 * LR, "weight_decay": DECAY}] if rest else []),
    ]
    optimizer = MuonBeside(groups, beside="torch.optim:AdamW", muon_scale=scale, betas=(0.9, 0.95), eps=1e-12)
    return [*matrices, *rest], optimizer


def take(parameters: list[nn.Parameter], steps: list[list[Tensor]], *optimizers: torch.optim.Optimizer) -> None:
    for gradient in steps:
        for p, g in zip(parameters, gradient, strict=True):
            p.grad = g.clone()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("scale", TORCHS)
def test_it_is_torchs_muon_bit_for_bit_and_adamw_beside_it(scale: str) -> None:
    weights, vector = [torch.randn(shape) for shape in SHAPES], torch.randn(7)
    steps = gradients(1, *SHAPES, (7,))
    parameters, optimizer = ours(weights, [vector], scale)
    take(parameters, steps, optimizer)
    for i, (weight, shape) in enumerate(zip(weights, SHAPES, strict=True)):
        theirs = nn.Parameter(weight.clone())
        wide = min(1.0, math.sqrt(shape[0] / shape[1])) if scale == "spectral" else 1.0
        muon = torch.optim.Muon(
            [theirs], lr=LR * wide, weight_decay=DECAY / wide, momentum=MOMENTUM, adjust_lr_fn=TORCHS[scale]
        )
        take([theirs], [[g[i]] for g in steps], muon)
        assert torch.equal(parameters[i], theirs)
    theirs = nn.Parameter(vector.clone())
    adamw = torch.optim.AdamW([theirs], lr=3 * LR, weight_decay=DECAY, betas=(0.9, 0.95), eps=1e-12)
    take([theirs], [[g[-1]] for g in steps], adamw)
    torch.testing.assert_close(parameters[-1], theirs, rtol=1e-6, atol=1e-7)


def muon64(weight: Tensor, steps: list[Tensor], scale: str) -> Tensor:
    """Jordan's algorithm in float64, sum momentum as he writes it, written out again."""
    w, buffer = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    out, fan_in = weight.shape
    s = {
        "spectral": math.sqrt(out / fan_in),
        "original": math.sqrt(max(1.0, out / fan_in)),
        "match_rms": 0.2 * math.sqrt(max(out, fan_in)),
    }[scale]
    for g in steps:
        buffer = MOMENTUM * buffer + g.double()
        x = g.double() + MOMENTUM * buffer
        x = x / x.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        w = (1 - LR * DECAY) * w - LR * s * x
    return w


@pytest.mark.parametrize("scale", TORCHS)
def test_it_is_muon_in_float64_but_for_bf16(scale: str) -> None:
    for i, shape in enumerate(SHAPES):
        weight, steps = torch.randn(shape, generator=torch.Generator().manual_seed(i)), gradients(2 + i, shape)
        parameters, optimizer = ours([weight], [], scale)
        take(parameters, steps, optimizer)
        exact = muon64(weight, [g for (g,) in steps], scale)
        moved = exact - weight.double()
        assert (parameters[0].double() - exact).norm() < 1e-2 * moved.norm()


def test_blocks_are_matrices_of_their_own() -> None:
    whole, rows = torch.randn(32, 16), (16, 8, 8)
    steps = gradients(5, (32, 16))
    parameters, optimizer = ours([whole], [], "spectral", blocks=rows)
    take(parameters, steps, optimizer)
    parts, of_parts = ours(list(whole.split(rows)), [], "spectral")
    take(parts, [list(g.split(rows)) for (g,) in steps], of_parts)
    assert torch.equal(parameters[0], torch.cat(list(parts)))
    fused, of_fused = ours([whole], [], "spectral")
    take(fused, steps, of_fused)
    assert not torch.allclose(fused[0], parameters[0], atol=1e-3), "fused is another optimizer"


CONFIG = RunConfig(
    width=64, base_width=32, seq_len=16, param="mup", optimizer="muon", lr=0.02,
    model=ModelConfig(n_layer=2, head_size=16, vocab_size=256, kv_heads=2),
)  # fmt: skip


def test_the_gpts_groups() -> None:
    """Muon has exactly the hidden matrices, the fused projection by its rows of q, k and v; AdamW all else."""
    model, optimizer = built(CONFIG)
    of_muon = {p for g in optimizer.param_groups if "muon_scale" in g for p in g["params"]}
    blocks = model.transformer.h
    hidden = {m.weight for b in blocks for m in (b.attn.qkv, b.attn.proj, b.mlp.fc, b.mlp.proj)}
    assert of_muon == hidden
    split = {g["blocks"]: g["params"] for g in optimizer.param_groups if "blocks" in g}
    assert split.keys() == {(64, 32, 32)}
    assert {*split[64, 32, 32]} == {b.attn.qkv.weight for b in blocks}
    tokens = torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(0))
    linear_loss(model(tokens[:, :-1]).flatten(0, 1), model.lm_head.weight, tokens[:, 1:].flatten()).loss.backward()
    optimizer.step()
    kept = {p: set(optimizer.state[p]) for g in optimizer.param_groups for p in g["params"]}
    assert all(
        keys == ({"momentum_buffer"} if p in hidden else {"step", "exp_avg", "exp_avg_sq"}) for p, keys in kept.items()
    )


def test_state_can_be_handed_on_as_torch_does() -> None:
    weights, steps = [torch.randn(8, 8)], gradients(7, (8, 8), (3,))
    parameters, optimizer = ours(weights, [torch.ones(3)], "original")
    take(parameters, steps[:10], optimizer)
    others, resumed = ours([parameters[0].detach()], [parameters[1].detach()], "original")
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take(parameters, steps[10:], optimizer)
    take(others, steps[10:], resumed)
    assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True))


@pytest.mark.parametrize("scale", TORCHS)
def test_an_update_has_the_operator_norm_of_its_shape(scale: str) -> None:
    """sv(dW) <= 1.25 lr s, with most of them near it (Newton-Schulz leaves .15 to 1.2)."""
    for shape in SHAPES:
        parameters, optimizer = ours([torch.zeros(shape)], [], scale)
        take(parameters, gradients(3, shape)[:1], optimizer)
        s = {
            "spectral": math.sqrt(shape[0] / shape[1]),
            "original": math.sqrt(max(1.0, shape[0] / shape[1])),
            "match_rms": 0.2 * math.sqrt(max(shape)),
        }[scale]
        values = torch.linalg.svdvals(parameters[0].detach()) / (LR * s)
        assert values.max() < 1.25
        assert values.median() > 0.5


def test_a_module_of_ones_own() -> None:
    """`apply_parameterization` with Muon: rates by the table, and it trains."""
    model, specs = build(CONFIG)
    scaling = Scaling(rules.get("mup"), "adam", Width(64, 32, 256), hidden="muon_rms")
    groups = apply_parameterization(model, specs, scaling, lr=0.01, weight_decay=0.1)
    rates = {g["name"]: (g["lr"], g["weight_decay"]) for g in groups}
    assert rates["hidden"] == pytest.approx((0.01 / math.sqrt(2), 0.1 * math.sqrt(2)))
    assert rates["output"] == pytest.approx((0.005, 0.2))
    assert rates["input"] == rates["vector"] == (0.01, 0.1)
    MuonBeside(groups, beside="torch.optim:AdamW", muon_scale="match_rms")


def test_sgd_beside_it() -> None:
    config = changed(CONFIG, optimizer="muon_sgd", weight_decay=0.0, momentum=0.9)
    _, optimizer = built(config)
    rates = {g["name"]: g["lr"] / 0.02 for g in optimizer.param_groups}
    assert rates == pytest.approx({"input": 2, "vector": 2, "hidden": 1, "output": 0.5, "finite": 1})
    assert {g.get("momentum") for g in optimizer.param_groups if g["name"] != "hidden"} == {0.9}
    assert scaling_of(config).family_of("hidden") == "muon"
    assert build_optimizer(config, optimizer.param_groups).param_groups
