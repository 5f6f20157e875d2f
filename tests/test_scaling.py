"""Multipliers, depth and the public function: the factors of one run, and any module under a parameterization."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config import ModelConfig, MultConfig, RunConfig
from pipeline.errors import RequestError
from pipeline.models import gpt
from pipeline.models.build import build
from pipeline.models.init import initialize_
from pipeline.models.roles import by_name, linear, norm
from pipeline.optim import apply_parameterization
from pipeline.parameterization import rules
from pipeline.parameterization.rules import ROLES, Width
from pipeline.scaling import Scaling, scaling_of
from tests.conftest import changed
from tests.support.ruled import params_of
from tests.test_optim import built

MODEL = ModelConfig(n_layer=2, head_size=16, vocab_size=256)
BASE = RunConfig(width=64, base_width=32, seq_len=16, base_depth=2, lr=1e-2, model=MODEL)


@pytest.mark.parametrize("param", params_of("adamw"))
def test_multipliers_multiply_and_do_nothing_else(param: str) -> None:
    plain = scaling_of(changed(BASE, param=param))
    mult = MultConfig(
        input_init=2, hidden_init=3, output_init=5, input_lr=7, vector_lr=11, hidden_lr=13, output_lr=17, finite_lr=19
    )
    scaled = scaling_of(changed(BASE, param=param, mult=mult))
    init = {"input": 2, "hidden": 3, "output": 5, "vector": 1, "finite": 1}
    lr = {"input": 7, "vector": 11, "hidden": 13, "output": 17, "finite": 19}
    for role in ROLES:
        assert scaled.init(role) == pytest.approx(init[role] * plain.init(role))
        assert scaled.lr(role) == pytest.approx(lr[role] * plain.lr(role))


def test_multipliers_reach_the_model_and_the_optimizer() -> None:
    config = changed(BASE, mult=MultConfig(output_init=0.5, hidden_lr=4.0))
    (plain_model, plain_optimizer), (model, optimizer) = built(BASE), built(config)
    torch.testing.assert_close(model.lm_head.weight, plain_model.lm_head.weight / 2)
    assert torch.equal(model.transformer.h[0].mlp.fc.weight, plain_model.transformer.h[0].mlp.fc.weight)
    plain, scaled = ({g["name"]: g for g in o.param_groups} for o in (plain_optimizer, optimizer))
    assert scaled["hidden"]["lr"] == pytest.approx(4 * plain["hidden"]["lr"])
    assert scaled["hidden"]["lr"] * scaled["hidden"]["weight_decay"] == pytest.approx(BASE.lr * 0.1)
    assert scaled["output"]["lr"] == plain["output"]["lr"]


def test_momentum_and_adam() -> None:
    sgd = built(changed(BASE, optimizer="sgd", weight_decay=0.0, momentum=0.9))[1]
    adam = built(changed(BASE, optimizer="adam", weight_decay=0.0, eps=1e-8))[1]
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.9
    assert type(adam) is torch.optim.Adam
    assert (adam.defaults["betas"], adam.defaults["eps"]) == ((0.9, 0.95), 1e-8)


class Residual(nn.Module):
    """h + a * W2 tanh(W1 h) per block, with the branch multiplier a in the forward pass, in float64."""

    def __init__(self, depth: int, a: float) -> None:
        super().__init__()
        self.a = a
        self.inner = nn.ModuleList(nn.Linear(8, 8, bias=False, dtype=torch.float64) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(8, 8, bias=False, dtype=torch.float64) for _ in range(depth))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + self.a * outer(torch.tanh(inner(h)))
        return h


@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_depth_scaling_is_the_multiplier_form_folded_in(family: str) -> None:
    """Branches times a = depth^-1/2 with, under Adam, a times the learning rate inside (Yang et al. 2023b): the same
    functions all along as without multipliers, under `Scaling`'s factors."""
    depth = 4.0
    a = 1 / math.sqrt(depth)
    multiplied, folded = Residual(4, a), Residual(4, 1.0)
    scaling = Scaling(rules.get("sp"), family, Width(8, 8, 8), depth=depth)  # type: ignore[arg-type]
    torch.manual_seed(0)
    for p in multiplied.parameters():
        nn.init.normal_(p, std=0.5)
    folded.load_state_dict(multiplied.state_dict())
    with torch.no_grad():
        for module in folded.outer:
            module.weight.mul_(scaling.init("hidden", "branch_end"))
    lr = 0.05
    groups = [
        {"params": folded.inner.parameters(), "lr": lr * scaling.lr("hidden", "branch")},
        {"params": folded.outer.parameters(), "lr": lr * scaling.lr("hidden", "branch_end")},
    ]
    if family == "sgd":
        optimizers = [torch.optim.SGD(multiplied.parameters(), lr=lr), torch.optim.SGD(groups)]
    else:
        optimizers = [
            torch.optim.Adam(multiplied.parameters(), lr=lr * a, eps=1e-30),
            torch.optim.Adam(groups, eps=1e-30),
        ]
    x, y = torch.randn(16, 8, dtype=torch.float64), torch.randn(16, 8, dtype=torch.float64)
    for _ in range(5):
        outputs = []
        for model, optimizer in zip((multiplied, folded), optimizers, strict=True):
            outputs.append(model(x))
            optimizer.zero_grad()
            F.mse_loss(outputs[-1], y).backward()
            optimizer.step()
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth_scaling", ["none", "sqrt"])
def test_depth_scaling_on_the_gpt(depth_scaling: str) -> None:
    config = changed(BASE, width=32, depth_scaling=depth_scaling, model_n_layer=8)
    scaled = depth_scaling == "sqrt"
    model, optimizer = built(config)
    std = 1 / (2 * math.sqrt(32)) / 2 if scaled else 1 / (8 * math.sqrt(32))
    assert model.transformer.h[3].attn.proj.weight.std().item() == pytest.approx(std, rel=0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    block = model.transformer.h[0]
    expected = {block.attn.qkv.weight: 1 / 2, block.norm_1.weight: 1 / 2, block.mlp.proj.weight: 1 / 4, block.mlp.proj.bias: 1 / 4,
                model.lm_head.weight: 1, model.transformer.wte.weight: 1, model.transformer.ln_f.weight: 1}  # fmt: skip
    for p, factor in expected.items():
        assert rates[id(p)] == pytest.approx(config.lr * (factor if scaled else 1))


def test_depth_scaling_changes_nothing_at_the_base_depth() -> None:
    one, other = built(BASE), built(changed(BASE, depth_scaling="sqrt"))
    for p, q in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert {g["lr"] for g in one[1].param_groups} == {g["lr"] for g in other[1].param_groups}


# ---------------------------------------------------------------------------------------------------------------------
# Architectures beyond Pythia

ARCHITECTURES = [
    "pythia-160m", "tiny-llama-1.1b", "Llama-3.2-1B", "Qwen2.5-0.5B", "Qwen3-0.6B", "Gemma-2b", "Gemma-3-1b-it",
    "OLMo-1B-hf", "OLMo-2-1124-7B", "phi-2", "falcon-7b",
]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("param", ["sp", "mup"])
def test_any_architecture_scales_by_width(name: str, param: str) -> None:
    """Every tensor has one role and one group, values follow the table, and it trains."""
    config = changed(BASE, param=param, width=64, model_name=name, model_qk_norm=name.startswith(("Qwen3", "OLMo-2")))
    model, optimizer = built(config)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    base, _ = built(changed(config, width=32))
    specs = gpt.tensor_specs(model, 32)
    for (tensor, p), q in zip(model.named_parameters(), base.parameters(), strict=True):
        growing = [a != b for a, b in zip(p.shape, q.shape, strict=True)]
        if tensor != "lm_head.weight" and len(p.shape) == 2 and specs[tensor].role != "input":
            assert specs[tensor].role == "hidden"
            assert all(growing)
        if len(p.shape) == 1:
            assert specs[tensor].role == ("vector" if growing[0] else "finite")
        if specs[tensor].init_std:
            factor = scaling_of(config).init(specs[tensor].role)
            assert p.detach().std().item() == pytest.approx(specs[tensor].init_std * factor, rel=0.15)
    tokens = torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        return F.cross_entropy(model.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    first = loss()
    # normalized hidden states give logits of variance v = n std^2 and a mean loss near log V + v / 2
    variance = 64 * (math.sqrt(2 / (5 * 32)) * scaling_of(config).init("output")) ** 2
    assert first.item() == pytest.approx(math.log(256) + variance / 2, abs=0.25)
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert loss() < first


def test_the_named_architectures_mlp_ratio_is_kept() -> None:
    assert gpt.litgpt_config(ModelConfig(name="tiny-llama-1.1b"), 1024, 16).intermediate_size == 2816  # 5632 / 2048
    assert gpt.litgpt_config(ModelConfig(name="tiny-llama-1.1b", mlp_ratio=4), 1024, 16).intermediate_size == 4096


def test_fixed_norms_of_any_kind_do_not_train() -> None:
    model = gpt.build(ModelConfig(n_layer=2, name="tiny-llama-1.1b", train_norms=False, vocab_size=256), 64, 16)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {name for name, _ in model.named_parameters() if "norm" in name or "ln_f" in name}
    assert fixed


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("pythia-14n", "litgpt knows no architecture 'pythia-14n': did you mean pythia-14m?"),
        ("Mixtral-8x7B-v0.1", "Mixtral-8x7B-v0.1 has a mixture of experts, for which there is no width rule here"),
        ("Gemma-2-2b", "Gemma-2-2b has a cap on its logits, for which there is no width rule here"),
    ],
)
def test_what_has_no_width_rule_is_refused(name: str, line: str) -> None:
    with pytest.raises(RequestError) as error:
        build(changed(BASE, model_name=name))
    assert line in str(error.value)


def test_depth_scaling_of_normalized_branches_is_refused() -> None:
    with pytest.raises(RequestError, match="normalizes its residual branches"):
        build(changed(BASE, depth_scaling="sqrt", model_name="OLMo-2-1124-7B"))


# ---------------------------------------------------------------------------------------------------------------------
# A module of one's own


class Mine(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, n), nn.Linear(n, n), nn.Linear(n, 2)
        self.norm = nn.LayerNorm(n)


def test_any_module_given_its_roles() -> None:
    model = Mine(256)
    specs = by_name(
        model,
        [
            *linear(model.first, "input", 0.5),
            *linear(model.middle, "hidden", 0.1),
            *linear(model.last, "output", 0.1),
            *norm(model.norm, "vector"),
        ],
    )
    scaling = Scaling(rules.get("mup"), "adam", Width(256, 64, 2))
    groups = apply_parameterization(model, specs, scaling, lr=1.0, weight_decay=0.1, seed=3)
    assert model.middle.weight.std().item() == pytest.approx(0.1 / 2, rel=0.05)
    assert model.last.weight.std().item() == pytest.approx(0.1 / 4, rel=0.15)
    assert torch.equal(model.norm.weight, torch.ones(256))
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "input": (1, 0.1),
        "vector": (1, 0.1),
        "hidden": (0.25, 0.4),
        "output": (0.25, 0.4),
        "finite": (1, 0.1),
    }
    torch.optim.AdamW(groups)

    other = Mine(256)
    initialize_(other, {name: specs[name] for name, _ in other.named_parameters()}, scaling, 3)
    assert torch.equal(other.first.weight, model.first.weight)
    with pytest.raises(ValueError, match=r"no role for norm\.weight, norm\.bias"):
        apply_parameterization(model, {k: v for k, v in specs.items() if "norm" not in k}, scaling, lr=1.0)
