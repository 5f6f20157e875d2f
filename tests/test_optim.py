"""Groups, optimizers and schedule: every parameter in one group, the same first step at the base width."""

from fractions import Fraction
from typing import Any

import pytest
import torch

from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.losses import linear_loss
from pipeline.models.build import build
from pipeline.models.init import initialize_
from pipeline.models.roles import TensorSpec
from pipeline.optim import build_optimizer, parameter_groups
from pipeline.parameterization import rules
from pipeline.parameterization.rules import Width
from pipeline.scaling import Scaling, scaling_of
from tests.conftest import changed
from tests.support.ruled import params_of

MODEL = ModelConfig(n_layer=2, head_size=16, vocab_size=256)


def built(config: RunConfig) -> tuple[Any, torch.optim.Optimizer]:
    model, specs = build(config)
    initialize_(model, specs, scaling_of(config), config.seed)
    groups = parameter_groups(
        model.named_parameters(),
        specs,
        scaling_of(config),
        lr=config.lr,
        weight_decay=config.weight_decay or 0.0,
        weight_decay_scaling=config.weight_decay_scaling,
        eps=config.eps if "eps" in OPTIMIZERS[config.optimizer].settings else None,
    )
    return model, build_optimizer(config, groups)


def first_step(config: RunConfig) -> dict[str, torch.Tensor]:
    model, optimizer = built(config)
    tokens = torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(1))
    h = model(tokens[:, :-1])
    linear_loss(h.flatten(0, 1), model.lm_head.weight, tokens[:, 1:].flatten()).loss.backward()
    optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon", "muon_sgd"])
def test_at_the_base_width_all_take_the_same_first_step(optimizer: str) -> None:
    """Under every rule of depth, batch, horizon, decay and eps, too, at their base point."""
    base = RunConfig(width=32, base_width=32, seq_len=16, lr=1e-2, weight_decay=0.1, optimizer=optimizer, model=MODEL)
    steps = {param: first_step(changed(base, param=param)) for param in params_of(optimizer)}
    eps = {} if optimizer.endswith("sgd") else {"eps_scaling": "width", "eps": 1e-4}
    at = {"base_depth": 2, "base_batch": 256, "base_steps": 1000, "weight_decay_scaling": "timescale"}
    ruled = changed(base, depth_scaling="completep", batch_scaling="sqrt", steps_scaling="power", **at, **eps)
    steps["ruled"] = first_step(changed(ruled, param="mup"))
    plain = first_step(changed(base, depth_scaling="sqrt", base_depth=2, **({"eps": 1e-4} if eps else {})))
    for param, tensors in steps.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, (plain if param == "ruled" else steps["sp"])[name]), (param, name)
    wide = {param: first_step(changed(base, param=param, width=64)) for param in ("sp", "mup")}
    assert any(not torch.equal(wide["sp"][name], wide["mup"][name]) for name in wide["sp"])


GPT_DATA, MLP_DATA = (MODEL, DataConfig()), (ModelConfig(kind="mlp", n_layer=4), DataConfig("digits", "digits"))


@pytest.mark.parametrize(
    ("param", "optimizer"),
    [(param, optimizer) for optimizer in ("adamw", "adam", "sgd", "muon") for param in params_of(optimizer)],
)
@pytest.mark.parametrize(("kind", "data"), [GPT_DATA, MLP_DATA], ids=["gpt", "mlp"])
def test_groups_cover_every_parameter_with_its_rate(
    param: str, optimizer: str, kind: ModelConfig, data: DataConfig
) -> None:
    decay = 0.0 if optimizer == "adam" else 0.1
    config = RunConfig(
        width=128, base_width=32, param=param, optimizer=optimizer, lr=0.5, weight_decay=decay, model=kind, data=data
    )  # fmt: skip
    model, opt = built(config)
    specs = build(config)[1]
    roles = {p: spec.role for p, spec in zip(model.parameters(), specs.values(), strict=True)}
    grouped = [p for group in opt.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(roles)
    for group in opt.param_groups:
        assert {roles[p] for p in group["params"]} == {group["name"]}
        family = OPTIMIZERS[optimizer].families(config.muon_scale)[group["name"]]
        factor = rules.get(param).lr_factor(group["name"], family, config.width_point)
        assert group["lr"] == pytest.approx(0.5 * factor)
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.5 * decay)


def test_mup_adam_by_hand() -> None:
    config = RunConfig(width=128, base_width=32, param="mup", lr=1.0, model=MODEL)
    rates = {group["name"]: group["lr"] for group in built(config)[1].param_groups}
    assert rates == {"input": 1.0, "vector": 1.0, "hidden": 0.25, "output": 0.25, "finite": 1.0}


def test_constant_weight_decay() -> None:
    config = RunConfig(width=128, base_width=32, param="mup", weight_decay_scaling="constant", model=MODEL)
    assert {group["weight_decay"] for group in built(config)[1].param_groups} == {0.1}


def test_fixed_norms_are_in_no_group() -> None:
    config = changed(RunConfig(width=32, base_width=32, model=MODEL), model_train_norms=False)
    model, opt = built(config)
    grouped = {id(p) for group in opt.param_groups for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    assert "finite" not in {group["name"] for group in opt.param_groups}


def test_sgds_coupled_decay_is_the_decoupled_one() -> None:
    """p <- p - lr g - (lr wd) p, with lr wd as at the base width."""
    p = torch.nn.Parameter(torch.tensor([2.0]))
    p.grad = torch.tensor([1.0])
    scaling = Scaling(rules.get("sp_full_align"), "sgd", Width(128, 32, 10))
    groups = parameter_groups([("w", p)], {"w": TensorSpec("hidden", 0.0)}, scaling, lr=0.1, weight_decay=0.3)
    build_optimizer(RunConfig(optimizer="sgd"), groups).step()
    factor = float(Fraction(1, 2))  # m^-1/2 at m = 4
    assert p.item() == pytest.approx(2.0 - 0.1 * factor * 1.0 - 0.1 * 0.3 * 2.0)
