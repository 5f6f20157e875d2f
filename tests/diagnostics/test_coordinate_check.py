"""The refined coordinate check against two full models in float64, explicit matrices and singular values."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import litgpt.model
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.diagnostics.coordinate_check import CoordinateCheck
from pipeline.diagnostics.layers import layers
from pipeline.models.build import Model, build
from pipeline.models.init import initialize_
from pipeline.scaling import scaling_of
from tests.conftest import changed

N, T, V = 6, 10, 50
PYTHIA = RunConfig(
    width=32, base_width=32, seq_len=T, model=ModelConfig(n_layer=2, head_size=4, kv_heads=4, vocab_size=V)
)
LLAMA = RunConfig(
    width=32, base_width=32, seq_len=T,
    model=ModelConfig(name="tiny-llama-1.1b", n_layer=2, head_size=8, kv_heads=2, vocab_size=V, qk_norm=False),
)  # fmt: skip
GEMMA = RunConfig(
    width=32, base_width=32, seq_len=T,
    model=ModelConfig(name="Gemma-2b", n_layer=1, head_size=8, kv_heads=1, vocab_size=V, qk_norm=False),
)  # fmt: skip
PERCEPTRON = RunConfig(
    width=32, base_width=32, model=ModelConfig(kind="mlp", n_layer=3), data=DataConfig("digits", "digits")
)
NORMED = changed(PERCEPTRON, model_n_layer=4, model_norm="rmsnorm", model_bias=True, model_logit_norm="layernorm")
RESIDUAL = changed(PERCEPTRON, model_n_layer=4, model_norm="layernorm", model_residual=True)
EVERY_KIND = {
    "pythia": PYTHIA, "llama": LLAMA, "gemma": GEMMA, "mlp": PERCEPTRON, "normed": NORMED, "residual": RESIDUAL,
}  # fmt: skip


def pair(config: RunConfig, dtype: torch.dtype = torch.float64) -> tuple[Model, Model]:
    """A model at initialization, and one that is some way off in every tensor."""
    start, specs = build(config)
    initialize_(start, specs, scaling_of(config), seed=1)
    generator = torch.Generator().manual_seed(2)
    now = copy.deepcopy(start)
    with torch.no_grad():
        for model, scale in ((start, 0.1), (now, 0.2)):  # biases and gains are not at 0 and 1 either
            for p in model.parameters():
                p += scale * torch.randn(p.shape, generator=generator) * (p.std() if p.ndim > 1 else 0.3)
    return start.to(dtype), now.to(dtype)


def probe(config: RunConfig, count: int = N, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    if config.data.vectors:
        return torch.randn(count, 64, generator=generator, dtype=dtype), torch.randint(
            0, 10, (count,), generator=generator
        )
    tokens = torch.randint(0, V, (count, T + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def initial(model: nn.Module) -> Callable[[str], Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}.__getitem__


def checked(start: nn.Module, now: nn.Module, x: Tensor, y: Tensor | None, **options: Any) -> dict[str, float]:
    check = CoordinateCheck(now, x, y, initial=initial(start), **options)
    check.refer()
    return check.check()


# ---------------------------------------------------------------------------------------------------------------------
# By brute force


@torch.no_grad()
def inputs_of(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The input of every module in a plain forward pass, and what comes out."""
    seen: dict[str, Tensor] = {}
    handles = [
        m.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, args[0].detach().clone()))  # type: ignore[misc]
        for name, m in model.named_modules()
        if next(m.children(), None) is None
    ]
    out = model(x)
    for handle in handles:
        handle.remove()
    return seen, out


def rms(vectors: Tensor) -> Tensor:
    return vectors.square().mean(-1).sqrt()


def without_gain(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.LayerNorm):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt()
    x = x.float()  # as litgpt does
    return (x / (x.square().mean(-1, keepdim=True) + module.eps).sqrt()).double()


def expected(start: nn.Module, now: nn.Module, x: Tensor) -> dict[str, float]:
    """Every weight as an explicit matrix that acts on explicit inputs."""
    found: dict[str, float] = {}
    (inputs_0, _), (inputs_t, _) = inputs_of(start, x), inputs_of(now, x)
    before, after = dict(start.named_modules()), dict(now.named_modules())
    for name, module in after.items():
        if next(module.children(), None) is not None or not list(module.parameters(recurse=False)):
            continue
        W, R = (m[name].weight.detach() for m in (after, before))
        x_t, x_0 = inputs_t[name], inputs_0[name]
        size = rms
        if isinstance(module, nn.Embedding):
            x_t, x_0, W, R = F.one_hot(x_t, V).to(W), F.one_hot(x_0, V).to(W), W.T, R.T
            size = lambda v: v.square().sum(-1).sqrt()  # noqa: E731
        elif not isinstance(module, nn.Linear):
            one = 1.0 if getattr(module, "add_unit_offset", False) else 0.0
            x_t, x_0 = without_gain(module, x_t), without_gain(before[name], x_0)
            W, R = torch.diag(W + one), torch.diag(R + one)
        pieces = {name: slice(None)}
        attention = after.get(name.rpartition(".")[0])
        if isinstance(attention, litgpt.model.CausalSelfAttention) and module is attention.qkv:
            c = attention.config
            a, b = c.n_head * c.head_size, (c.n_head + c.n_query_groups) * c.head_size
            stem = name.rpartition(".")[0]
            pieces = {f"{stem}.q": slice(0, a), f"{stem}.k": slice(a, b), f"{stem}.v": slice(b, None)}
        for piece, rows in pieces.items():
            found |= of_matrix(f"{piece}.weight", W[rows], R[rows], x_t, x_0, size)
            if getattr(module, "bias", None) is not None:
                vectors = (m[name].bias.detach()[rows, None] for m in (after, before))
                found |= of_matrix(f"{piece}.bias", *vectors, torch.ones(1, 1), torch.ones(1, 1), rms)
    return found


def of_matrix(
    name: str, W: Tensor, R: Tensor, x_t: Tensor, x_0: Tensor, size: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    W, R, x_t, x_0 = (v.double() for v in (W, R, x_t, x_0))
    one_hot = size is not rms

    def norm(A: Tensor) -> float:
        if one_hot:  # the columns are the images of one-hot vectors
            return float(rms(A.T).max())
        return float(torch.linalg.svdvals(A)[0]) * math.sqrt(A.shape[1] / A.shape[0])

    mean = lambda v: float(v.mean())  # noqa: E731
    diagonal = W.shape[0] == W.shape[1] and bool((torch.diag((W - R).diagonal()) == W - R).all())
    products = 1 if one_hot or diagonal else W.shape[1]
    values = {
        "effective": mean(rms(x_t @ (W - R).T)),
        "propagating": mean(rms((x_t - x_0) @ R.T)),
        "update": mean(rms(x_t @ W.T - x_0 @ R.T)),
        "input": mean(size(x_t)),
        "input_change": mean(size(x_t - x_0)),
        "output": mean(rms(x_t @ W.T)),
        "cosine": mean(F.cosine_similarity(x_t @ W.T, x_0 @ R.T, dim=-1, eps=1e-300)),
        "cosine_other": cosine_of_pairs(x_t @ W.T, x_0 @ R.T),
        "update_rms": float(rms((W - R).diagonal() if diagonal else (W - R).flatten())) * products,
        "operator_norm": norm(W),
        "operator_norm_reference": norm(R),
        "operator_norm_update": norm(W - R),
        "update_rank": float(torch.linalg.matrix_norm(W - R) / torch.linalg.svdvals(W - R)[0]),
    }
    values["alignment_effective"] = values["effective"] / (values["operator_norm_update"] * values["input"])
    values["alignment_rms"] = values["effective"] / (values["update_rms"] * values["input"])
    if len(x_t) == 1:  # the constant that biases act on
        del values["cosine_other"]
    if values["input_change"]:
        values["alignment_propagating"] = values["propagating"] / (
            values["operator_norm_reference"] * values["input_change"]
        )
    return {f"{key}/{name}": value for key, value in values.items()}


def cosine_of_pairs(now: Tensor, before: Tensor) -> float:
    """Over all pairs of different positions."""
    cosines_PP = F.normalize(now.flatten(0, -2), dim=1) @ F.normalize(before.flatten(0, -2), dim=1).T
    return float(cosines_PP[~torch.eye(len(cosines_PP), dtype=torch.bool)].mean())


SPECTRAL = ("operator_norm", "alignment", "update_")


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_quantity_of_every_weight_is_that_of_two_models(kind: str) -> None:
    config = EVERY_KIND[kind]
    (start, now), (x, y) = pair(config), probe(config)
    found, wanted = checked(start, now, x, y, spectra=True), expected(start, now, x)
    of_weights = {key for key in found if key.rpartition(".")[2] in ("weight", "bias")}
    assert of_weights == wanted.keys()
    names = {name for name, _ in now.named_parameters()}
    reported = {key.partition("/")[2] for key in of_weights}
    assert {n for n in names if "qkv" not in n} <= reported
    for key, value in wanted.items():
        tolerance = 1e-3 if key.startswith(SPECTRAL) else 1e-5
        assert found[key] == pytest.approx(value, rel=tolerance, abs=1e-12), key


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_attention_sparsity_and_logits_are_those_of_the_model(kind: str) -> None:
    config = EVERY_KIND[kind]
    (start, now), (x, y) = pair(config), probe(config)
    found = checked(start, now, x, y)
    inputs, h = inputs_of(now, x)
    bias = now.readout.bias
    logits = F.linear(h, now.readout.weight.detach(), None if bias is None else bias.detach()).flatten(0, -2)
    size = logits.square().mean().sqrt()
    if config.model.logit_norm == "layernorm":
        logits = F.layer_norm(logits, logits.shape[-1:])
    p = logits.softmax(-1)
    wanted = {
        "probe_loss": F.cross_entropy(logits, y.flatten()),
        "probe_logit_rms": size,
        "max_probability": p.amax(-1).mean(),
        "entropy": -(p * p.log()).sum(-1).mean(),
    }
    if config.data.vectors:
        for i, (layer, norm) in enumerate(zip(now.layers, now.norms, strict=True)):
            if i == 0 or not config.model.residual:  # elsewhere it is not what a layer puts out that is cut off
                wanted[f"sparsity/layers.{i}"] = (norm(layer(inputs[f"layers.{i}"])) <= 0).double().mean()
    else:
        for name, module in now.named_modules():
            if isinstance(module, litgpt.model.CausalSelfAttention):
                wanted |= attention_by_hand(name, module, inputs, now)
    assert {k for k in found if k.rpartition(".")[2] not in ("weight", "bias")} == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(float(value), rel=1e-5), key


@torch.no_grad()
def attention_by_hand(name: str, module: Any, inputs: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Head by head, position by position."""
    c = module.config
    qkv = module.qkv(inputs[f"{name}.qkv"]).detach()
    q, k, v = qkv.split([c.n_head * c.head_size, *[c.n_query_groups * c.head_size] * 2], -1)
    q, k, v = (a.unflatten(-1, (-1, c.head_size)).transpose(1, 2) for a in (q, k, v))
    if module.norm_q is not None:
        q, k = module.norm_q(q).detach(), module.norm_k(k).detach()
    size = c.rope_n_elem
    cos, sin = model.cos[:T], model.sin[:T]
    q, k = (
        torch.cat([litgpt.model.apply_rope(a[..., :size], cos[None], sin[None]), a[..., size:]], -1) for a in (q, k)
    )
    entropies, largest = [], 0.0
    for head in range(c.n_head):
        for sequence in range(len(q)):
            for t in range(T):
                keys = k[sequence, head // (c.n_head // c.n_query_groups), : t + 1]
                logits = keys @ q[sequence, head, t] / math.sqrt(c.head_size)
                largest = max(largest, float(logits.abs().max()))
                weights = logits.softmax(0)
                entropies.append(-(weights * weights.log()).sum())
    return {
        f"query/{name}": rms(q).mean(),
        f"key/{name}": rms(k).mean(),
        f"value/{name}": rms(v).mean(),
        f"attention_entropy/{name}": torch.stack(entropies).mean(),
        f"attention_logit/{name}": torch.tensor(largest),
    }


@pytest.mark.parametrize("kind", ["pythia", "mlp"])
def test_the_two_parts_add_up_exactly(kind: str) -> None:
    """effective + propagating = W_t x_t - W_0 x_0, vector by vector, in the update that is measured."""
    from pipeline.diagnostics import quantities

    config = EVERY_KIND[kind]
    (start, now), (x, y) = pair(config), probe(config)
    seen: dict[str, list[Tensor]] = {}
    original = quantities.Quantities._outputs

    def outputs(self: Any, name: str, effective: Tensor, propagating: Tensor, output: Tensor, starts: Tensor) -> None:
        seen.setdefault(name, []).append(effective + propagating)
        original(self, name, effective, propagating, output, starts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantities.Quantities, "_outputs", outputs)
        checked(start, now, x, y)
    (inputs_0, _), (inputs_t, _) = inputs_of(start, x), inputs_of(now, x)
    compared = 0
    for name, module in now.named_modules():
        if f"{name}.weight" in seen and isinstance(module, nn.Linear):
            reference = dict(start.named_modules())[name]
            assert isinstance(reference, nn.Linear)
            change = inputs_t[name] @ module.weight.T - inputs_0[name] @ reference.weight.T
            sum_of_parts = torch.cat(seen[f"{name}.weight"])
            assert (sum_of_parts - change.flatten(0, -2)).abs().max() < 1e-12
            compared += 1
    assert compared >= 3


# ---------------------------------------------------------------------------------------------------------------------
# What must not matter


def same(a: dict[str, float], b: dict[str, float], rel: float) -> None:
    assert a.keys() == b.keys()
    for key in b:
        assert a[key] == pytest.approx(b[key], rel=rel, abs=1e-9), key


@pytest.mark.parametrize("kind", ["pythia", "mlp"])
@pytest.mark.parametrize(("count", "world"), [(6, 2), (5, 3), (2, 4)])
def test_ranks_are_one_process(kind: str, count: int, world: int) -> None:
    """Shares that differ by one, and ranks without any."""
    config = EVERY_KIND[kind]
    (start, now), (x, y) = pair(config), probe(config, count)
    vectors: list[Tensor] = []
    for rank in range(world):
        checked(start, now, x, y, spectra=True, rank=rank, world=world, reduce=lambda v: vectors.append(v) or v)
    total = torch.stack(vectors).sum(0)
    for rank in range(world):
        same(
            checked(start, now, x, y, spectra=True, rank=rank, world=world, reduce=lambda v: total),
            checked(start, now, x, y, spectra=True),
            1e-9,
        )


def test_nothing_is_left_behind() -> None:
    """Weights, gradients, modes, hooks, random numbers and torch's settings."""
    start, now = pair(PYTHIA, torch.float32)
    x, y = probe(PYTHIA)
    now.train()
    now.transformer.h[0].mlp.eval()
    modes = [m.training for m in now.modules()]
    weights = {name: p.detach().clone() for name, p in now.named_parameters()}
    gradients = {name: torch.randn_like(p) for name, p in now.named_parameters()}
    for name, p in now.named_parameters():
        p.grad = gradients[name].clone()
    random, grad_mode = torch.get_rng_state(), torch.is_grad_enabled()
    keys = [set(m.__dict__) for m in now.modules()]
    check = CoordinateCheck(now, x, y, initial=initial(start), spectra=True)
    check.refer()
    check.check()
    check.check(refer=True)
    assert all(torch.equal(p, weights[name]) for name, p in now.named_parameters())
    assert all(p.grad is not None and torch.equal(p.grad, gradients[name]) for name, p in now.named_parameters())
    assert [m.training for m in now.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled() == grad_mode
    assert [set(m.__dict__) for m in now.modules()] == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in now.modules())


def test_an_error_in_the_model_leaves_its_weights() -> None:
    start, now = pair(PYTHIA)
    x, y = probe(PYTHIA)
    weights = {name: p.detach().clone() for name, p in now.named_parameters()}
    check = CoordinateCheck(now, x, y, initial=initial(start))
    for broken in (now.transformer.h[1].mlp.fc, now.transformer.h[0].attn):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(broken, "forward", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                check.refer()
    assert all(torch.equal(p, weights[name]) for name, p in now.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in now.modules())
    check.refer()
    same(check.check(), checked(start, now, x, y), 1e-12)


def test_dropout_and_autocast_are_off_on_the_probe() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    now = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    x = torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = checked(start, now, x, None)
    now[1] = start[1] = nn.Identity()
    same(found, checked(start, now, x, None), 1e-6)
    wanted = expected(start, now, x)
    assert found["effective/2.weight"] == pytest.approx(wanted["effective/2.weight"], rel=1e-5)


@pytest.mark.parametrize("how", ["wrapper", "in place", "one block"])
def test_a_compiled_model_is_the_model(how: str) -> None:
    (start, now), (x, y) = pair(PYTHIA), probe(PYTHIA)
    wanted = checked(start, now, x, y)
    compiled: Any = now
    if how == "wrapper":
        compiled = torch.compile(now, backend="eager")
    elif how == "in place":
        now.compile(backend="eager")
    else:
        now.transformer.h[0] = torch.compile(now.transformer.h[0], backend="eager")  # type: ignore[assignment]
    with torch.no_grad():
        compiled(x)
    torch._dynamo.utils.counters.clear()
    same(checked(start, compiled, x, y), wanted, 1e-9)
    frames = dict(torch._dynamo.utils.counters["frames"])
    with torch.no_grad():
        compiled(x)
    assert dict(torch._dynamo.utils.counters["frames"]) == frames == {}, "nothing is compiled again"
    torch._dynamo.reset()


def test_small_updates_survive_fp32() -> None:
    """Differences are those of weights: an update of 1e-6 of the weight keeps its digits."""
    config = PERCEPTRON
    start, _ = pair(config, torch.float32)
    now = copy.deepcopy(start)
    with torch.no_grad():
        for p in now.parameters():
            p += 1e-6 * torch.randn_like(p)
    x, y = probe(config, dtype=torch.float32)
    found, wanted = checked(start, now, x, y), expected(start.double(), now.double(), x.double())
    for key in ("effective/layers.0.weight", "effective/layers.1.weight", "effective/readout.weight"):
        assert found[key] == pytest.approx(wanted[key], rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# References, and what is not defined


def test_the_previous_step_as_the_reference() -> None:
    start, now = pair(PYTHIA)
    x, y = probe(PYTHIA)
    last, _ = pair(PYTHIA)
    with torch.no_grad():
        for p in last.parameters():
            p += 0.05 * torch.randn_like(p)
    model = copy.deepcopy(start)
    check = CoordinateCheck(model, x, y, spectra=True)
    check.refer()
    model.load_state_dict(last.state_dict())
    first = check.check(refer=True)  # against the start, and these are the next one's reference
    model.load_state_dict(now.state_dict())
    second = check.check()
    for key, value in expected(start, last, x).items():
        assert first[key] == pytest.approx(value, rel=1e-3, abs=1e-12), key
    for key, value in expected(last, now, x).items():
        assert second[key] == pytest.approx(value, rel=1e-3, abs=1e-12), key


def test_at_initialization_nothing_has_moved() -> None:
    """And what is 0 / 0 is left out, not nan."""
    config = dataclasses.replace(PYTHIA, readout_init="zero")
    model, specs = build(config)
    initialize_(model, specs, scaling_of(config), seed=0)
    x, y = probe(config)
    found = checked(model, model, x, y, spectra=True)
    assert all(math.isfinite(value) for value in found.values())
    assert found["effective/lm_head.weight"] == found["update/transformer.h.0.attn.q.weight"] == 0.0
    assert found["cosine/transformer.h.0.attn.q.weight"] == pytest.approx(1.0)
    assert found["probe_loss"] == pytest.approx(math.log(V))
    assert found["operator_norm_update/transformer.wte.weight"] == 0.0
    for absent in ("cosine/lm_head.weight", "cosine/transformer.ln_f.bias"):
        assert absent not in found
    assert not any(key.startswith(("alignment", "update_rank")) for key in found)
    with torch.no_grad():
        model.lm_head.weight += 0.1
    moved = CoordinateCheck(model, x, y, initial=initial(model), spectra=True)
    start, _ = build(config)
    initialize_(start, specs, scaling_of(config), seed=0)
    moved = checked(start, model, x, y, spectra=True)
    assert "cosine/lm_head.weight" not in moved, "the cosine with zero, whatever rounding makes of it"
    assert "alignment_propagating/lm_head.weight" not in moved
    assert moved["update_rank/lm_head.weight"] == pytest.approx(1.0, rel=1e-3)


def test_the_cosine_with_zero_is_left_out_whatever_rounding_makes_of_it() -> None:
    """A bias that is taken off again leaves rounding errors where W_0 x_0 = 0."""
    torch.manual_seed(0)
    start, now = nn.Sequential(nn.Linear(16, 32)), nn.Sequential(nn.Linear(16, 32))
    nn.init.zeros_(start[0].weight)
    found = checked(start, now, torch.randn(4, 9, 16), None)
    assert "cosine/0.weight" not in found
    assert "cosine/0.bias" in found


def test_what_is_not_finite_does_not_crash() -> None:
    start, now = pair(PYTHIA)
    with torch.no_grad():
        now.transformer.h[0].mlp.fc.weight[0, 0] = math.nan
        now.transformer.h[1].mlp.fc.weight[0, 0] = math.inf
    x, y = probe(PYTHIA)
    found = checked(start, now, x, y, spectra=True)
    assert found.keys() == checked(start, pair(PYTHIA)[1], x, y, spectra=True).keys()
    assert math.isnan(found["effective/lm_head.weight"])
    assert math.isfinite(found["effective/transformer.h.0.attn.q.weight"])


# ---------------------------------------------------------------------------------------------------------------------
# Other people's models


class Shared(nn.Module):
    """A layer called twice with keyword arguments, tied weights, a parameter of its own, a PReLU, a layer never
    called."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.twice = nn.Linear(8, 8)
        self.norm = nn.RMSNorm(8)
        self.scale = nn.Parameter(torch.ones(8))
        self.prelu = nn.PReLU(5)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.twice(input=self.twice(input=self.embed(tokens))) * self.scale
        logits: Tensor = self.head(self.prelu(self.norm(h)))
        return logits


def test_any_module_will_do() -> None:
    torch.manual_seed(0)
    start, now = Shared().double(), Shared().double()
    x, y = torch.randint(0, 20, (4, 5)), torch.randint(0, 20, (4, 5))
    y[0, :2] = -100
    check = CoordinateCheck(now, x, y, initial=initial(start))
    check.refer()
    found = check.check()
    assert check.left_out.keys() == {"scale", "prelu.weight", "unused.weight", "unused.bias"}
    assert "PReLU" in check.left_out["prelu.weight"]
    assert "not called" in check.left_out["unused.weight"]
    with torch.no_grad():
        first_t, first_0 = now.embed(x), start.embed(x)
        second_t, second_0 = now.twice(first_t), start.twice(first_0)
        inputs_t, inputs_0 = torch.cat([first_t, second_t]), torch.cat([first_0, second_0])
        change = now.twice.weight - start.twice.weight
        logits = now(x)
    assert found["effective/twice.weight"] == pytest.approx(float(rms(inputs_t @ change.T).mean()))
    propagating = rms((inputs_t - inputs_0) @ start.twice.weight.detach().T).mean()
    assert found["propagating/twice.weight"] == pytest.approx(float(propagating))
    assert found["effective/embed.weight"] == pytest.approx(float(rms(first_t - first_0).mean()))
    assert "effective/head.weight" in found
    assert "effective/norm.weight" in found
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100)
    assert found["probe_loss"] == pytest.approx(float(loss))


def test_tied_weights_against_the_previous_step() -> None:
    torch.manual_seed(0)
    start, now = Shared().double(), Shared().double()
    x, y = torch.randint(0, 20, (4, 5)), torch.randint(0, 20, (4, 5))
    model = copy.deepcopy(start)
    check = CoordinateCheck(model, x, y)
    with pytest.raises(ValueError, match="refer"):
        check.check()
    check.refer()
    model.load_state_dict(now.state_dict())
    same(check.check(refer=True), checked(start, now, x, y), 1e-9)
    still = check.check()
    assert still["effective/embed.weight"] == still["update/head.weight"] == 0.0


class InPlace(nn.Module):
    """A residual stream that is added to where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.same = (nn.Linear(6, 6).double() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = x.clone()
        h += self.first(h)
        total: Tensor = self.second(h) + self.same(h)
        return total


def test_inputs_that_are_overwritten_later() -> None:
    torch.manual_seed(0)
    start, now, x = InPlace(), InPlace(), torch.randn(4, 6, dtype=torch.float64)
    check = CoordinateCheck(now, x, initial=initial(start), spectra=True)
    check.refer()
    found = check.check()
    for key, value in expected(start, now, x).items():
        assert found[key] == pytest.approx(value, rel=1e-3 if key.startswith(SPECTRAL) else 1e-5, abs=1e-12), key
    kept = {name: tensor.data_ptr() for (name, _), tensor in check._inputs.items()}
    assert kept["second"] == kept["same"] != kept["first"], "layers that share an input share its copy"


def test_sparsity_is_that_of_what_a_layer_and_its_norm_put_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(),
        nn.ReLU(), nn.Linear(8, 2),
    )  # fmt: skip
    x = torch.randn(5, 6)
    found = checked(model, model, x, None)
    with torch.no_grad():
        wanted = {f"sparsity/{i}": float((model[: i + depth](x) <= 0).float().mean()) for i, depth in ((0, 1), (2, 2))}
    assert {key: value for key, value in found.items() if "sparsity" in key} == pytest.approx(wanted)


def test_models_of_transformers() -> None:
    """GPT-2's transposed linear layers, Llama's own RMSNorm; logits in an output object."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    gpt2 = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=V, n_positions=T, tie_word_embeddings=False
    )
    llama = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=V
    )
    x, y = probe(PYTHIA)
    for config in (gpt2, llama):
        start, now = (transformers.AutoModelForCausalLM.from_config(config).double() for _ in range(2))
        check = CoordinateCheck(now, x, y, initial=initial(start), spectra=True)
        check.refer()
        found = check.check()
        assert not check.left_out
        with torch.no_grad():
            loss = F.cross_entropy(now.eval()(x).logits.flatten(0, 1), y.flatten())
        assert found["probe_loss"] == pytest.approx(float(loss))
        names = {name for name, _ in now.named_parameters()}
        assert {key.partition("/")[2] for key in found if key.startswith("operator_norm_update/")} == names
        if config is gpt2:
            name = "transformer.h.0.mlp.c_fc"
            h = inputs_of(now, x)[0][name]
            W, R = (m.get_parameter(f"{name}.weight").detach() for m in (now, start))
            assert found[f"effective/{name}.weight"] == pytest.approx(float(rms(h @ (W - R)).mean()), rel=1e-5)
            sigma = float(torch.linalg.matrix_norm(W, 2)) * math.sqrt(16 / 64)
            assert found[f"operator_norm/{name}.weight"] == pytest.approx(sigma, rel=1e-3)
    inputs, _ = inputs_of(now, x)
    g, g_R = (dict(m.named_parameters())["model.norm.weight"].detach() for m in (now, start))
    z = inputs["model.norm"].float()
    z = (z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()).double()
    assert found["output/model.norm.weight"] == pytest.approx(float(rms(z * g).mean()), rel=1e-5)
    assert found["effective/model.norm.weight"] == pytest.approx(float(rms(z * (g - g_R)).mean()), rel=1e-5, abs=1e-12)


def test_layers_are_found_by_type_and_named_by_parameter() -> None:
    model, _ = build(PYTHIA)
    found, left_out = layers(model)
    assert left_out == {}
    assert [name for layer in found for name in layer.tensors.values()] == [n for n, _ in model.named_parameters()]
    (qkv,) = (layer for layer in found if layer.name == "transformer.h.1.attn.qkv")
    assert qkv.parts == (
        ("transformer.h.1.attn.q", 0, 32), ("transformer.h.1.attn.k", 32, 48), ("transformer.h.1.attn.v", 48, 64),
    )  # fmt: skip
