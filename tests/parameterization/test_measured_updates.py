"""Effective updates of real GPTs over widths and depths against the theory, under the rules of Muon, depth and eps.

Six steps on one small batch, so that the rank of gradients does not grow: the exponents are those of |dW x| on it.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import ModelConfig, MultConfig, RunConfig
from pipeline.diagnostics.coordinate_check import CoordinateCheck
from pipeline.entries.kinds import Place, place_of
from pipeline.losses import linear_loss
from pipeline.parameterization.rules import TABLE
from pipeline.theory.depth import depth_exponents
from pipeline.theory.network import Setting
from pipeline.theory.predict import predict
from tests.conftest import changed
from tests.test_optim import built

STEPS = 6
GPT = RunConfig(
    width=64, base_width=64, seq_len=16, param="mup", optimizer="muon", lr=2e-3, weight_decay=0.0,
    embedding_init="constant", model=ModelConfig(n_layer=2, head_size=16, vocab_size=256),
)  # fmt: skip
WIDTHS = (64, 128, 256)


def tokens_of(config: RunConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, config.model.vocab_size, (2, config.seq_len + 1), generator=generator)


def effective(config: RunConfig, steps: int = STEPS) -> tuple[dict[Place, list[float]], dict[str, float]]:
    """log |dW x|_RMS after the steps, of the weights of one place; and of the stream and its change."""
    model, optimizer = built(config)
    stream: list[torch.Tensor] = []
    model.transformer.ln_f.register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0].detach().clone()))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = tokens_of(config)
    check = CoordinateCheck(model, tokens[:, :-1], initial=start.__getitem__)
    check.refer()
    for _ in range(steps):
        optimizer.zero_grad()
        h = model(tokens[:, :-1]).flatten(0, 1)
        linear_loss(h, model.lm_head.weight, tokens[:, 1:].flatten()).loss.backward()
        optimizer.step()
    found: dict[Place, list[float]] = {}
    for name, value in check.check().items():
        quantity, _, weight = name.partition("/")
        if quantity == "effective":
            found.setdefault(place_of(weight, config), []).append(float(np.log(value)))
    return found, {"stream": log_rms(stream[0]), "change": log_rms(stream[-1] - stream[0])}


def log_rms(x: torch.Tensor) -> float:
    return float(x.square().mean().log()) / 2


def slope_of(sizes: tuple[int, ...], logs: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), logs, 1)[0])


def over_widths(config: RunConfig, widths: tuple[int, ...], seeds: int = 1) -> dict[Place, float]:
    found = [[effective(changed(config, width=width, seed=seed))[0] for seed in range(seeds)] for width in widths]
    logs = {place: [float(np.mean([one[place] for one in of_width])) for of_width in found] for place in found[0][0]}
    return {place: slope_of(widths, of_place) for place, of_place in logs.items()}


def held_to_theory(config: RunConfig, widths: tuple[int, ...], seeds: int = 1) -> dict[str, float]:
    """Every place within .1 of theory; returns the slopes by group."""
    measured = over_widths(config, widths, seeds)
    fixed = config.model.kv_heads != "all"
    setting = Setting(
        TABLE[config.param], config.optimizer, depth=4, embedding_init="constant", muon_scale=config.muon_scale,
        kv_heads="fixed" if fixed else "all",
    )  # fmt: skip
    prediction = predict(setting, Fraction(0), small_steps=True)
    for place, slope in measured.items():
        assert place.layer is not None
        expected = prediction.layer(place.layer).at(STEPS).effective.exponent
        assert expected is not None
        if not (fixed and place.group == "attn.proj"):  # which reads values that grow, as theory says of them
            assert slope == pytest.approx(float(expected), abs=0.1), place
    return {place.label: slope for place, slope in measured.items()}


@pytest.mark.parametrize("scale", ["spectral", pytest.param("original", marks=pytest.mark.slow), "match_rms"])
def test_muons_updates_with_fixed_kv_heads(scale: str) -> None:
    """Keys and values: width-free by the shape of their own rows, n^1/2 by the others' rules."""
    found = held_to_theory(changed(GPT, muon_scale=scale, model_kv_heads=2), WIDTHS)
    assert found["v"] == pytest.approx(0.0 if scale == "spectral" else 0.5, abs=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"param": "nanochat"},
        *(
            pytest.param(change, marks=pytest.mark.slow)
            for change in (
                {"param": "sp", "muon_scale": "match_rms", "lr": 2e-4},
                {"param": "ntp"},
                {"param": "umup", "optimizer": "adamw", "lr": 5e-4},
                {"param": "sp_embedding", "optimizer": "adamw", "lr": 5e-6},
            )
        ),
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_other_rules(change: dict[str, Any]) -> None:
    """Under Adam with few tokens: its signs are aligned with inputs as in the limit only where n is far above their
    number."""
    adam = change.get("optimizer") == "adamw"
    config = changed(GPT, **change)
    held_to_theory(changed(config, seq_len=4) if adam else config, WIDTHS, seeds=4 if adam else 1)


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["all", 2])
@pytest.mark.parametrize("scale", ["spectral", "original", "match_rms"])
def test_muons_updates_over_many_widths(scale: str, heads: Any) -> None:
    held_to_theory(changed(GPT, muon_scale=scale, model_kv_heads=heads), (64, 128, 256, 512))


def test_a_fused_projection_that_is_not_split_is_found() -> None:
    """The planted fault: one Newton-Schulz over queries, keys and values together."""
    measured = {}
    for width in WIDTHS:
        config = changed(GPT, width=width, model_kv_heads=2)
        model, optimizer = built(config)
        for group in optimizer.param_groups:
            group.pop("blocks", None)
        start = model.transformer.h[0].attn.qkv.weight.detach().clone()
        tokens = tokens_of(config)
        h = model(tokens[:, :-1]).flatten(0, 1)
        linear_loss(h, model.lm_head.weight, tokens[:, 1:].flatten()).loss.backward()
        optimizer.step()
        x = torch.nn.functional.layer_norm(model.transformer.wte(tokens[:, :-1]), (width,))
        update = x @ (model.transformer.h[0].attn.qkv.weight.detach() - start).T
        measured[width] = update[..., -2 * 16 :].square().mean().sqrt().item()
    slope = np.polyfit(np.log(WIDTHS), np.log(list(measured.values())), 1)[0]
    assert slope > 0.2


DEPTHS = (2, 8, 32)
DEEP = changed(GPT, base_depth=2, mult=MultConfig(input_init=12.6), model_mlp_ratio=2)  # an embedding of RMS 1
GROUPS = {"inside": ("q", "k", "v", "mlp.fc", "qk-norm"), "end": ("attn.proj", "mlp.proj"), "trunk": ("embedding",)}


def held_to_depth(optimizer: str, lr: float, rule: str) -> None:
    """Every group within .1 of theory after three steps of small rates, and what the blocks together do."""
    config = changed(DEEP, optimizer=optimizer, lr=lr, depth_scaling=rule)
    found = [effective(changed(config, model_n_layer=depth), steps=3) for depth in DEPTHS]
    theory = depth_exponents(optimizer, rule)
    for name, groups in GROUPS.items():
        for group in groups:
            logs = [
                np.mean([x for place, xs in places.items() if place.group == group for x in xs]) for places, _ in found
            ]
            assert slope_of(DEPTHS, logs) == pytest.approx(float(getattr(theory, name)), abs=0.1), group
    whole = {name: slope_of(DEPTHS, [stream[name] for _, stream in found]) for name in ("stream", "change")}
    assert whole["change"] == pytest.approx(float(theory.change), abs=0.1)
    if rule != "none":  # without one, the sum of a few blocks does not outgrow the embedding yet
        assert whole["stream"] == pytest.approx(float(theory.stream), abs=0.1)


@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [("adamw", 2e-4), *(pytest.param(*other, marks=pytest.mark.slow) for other in (("muon", 1e-3), ("sgd", 0.01)))],
)
def test_completep_over_depths(optimizer: str, lr: float) -> None:
    held_to_depth(optimizer, lr, "completep")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["none", "sqrt"])
@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 2e-4), ("muon", 1e-3)])
def test_the_other_depth_rules(optimizer: str, lr: float, rule: str) -> None:
    held_to_depth(optimizer, lr, rule)


@pytest.mark.parametrize("scaling", ["none", "width"])
def test_epsilon_follows_the_gradient(scaling: str) -> None:
    """At an eps near the gradients, updates shrink with width unless eps does as well."""
    config = changed(GPT, optimizer="adamw", lr=2e-4, eps=3e-3, eps_scaling=scaling, model_n_layer=1)
    slopes = {place.label: slope for place, slope in over_widths(config, WIDTHS).items()}
    for group in ("embedding", "mlp.proj"):
        assert abs(slopes[group]) < 0.05 if scaling == "width" else slopes[group] < -0.1, slopes
