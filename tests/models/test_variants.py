"""Every variant of the models under every parameterization: initial stds, learning rates, and steps of training against
networks written out here in plain torch, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.errors import RequestError
from pipeline.losses import linear_loss
from pipeline.models.build import build, flops_per_token
from pipeline.models.init import initialize_
from pipeline.optim import build_optimizer, parameter_groups
from pipeline.parameterization.rules import TABLE
from pipeline.scaling import scaling_of
from tests.conftest import changed
from tests.support.ruled import pairs, params_of

Tensors = dict[str, Tensor]
WIDTH, BASE = 32, 16

MLP = RunConfig(
    width=WIDTH, base_width=BASE, lr=0.05, optimizer="sgd", embedding_init="constant", loss="mse", eps=1e-6,
    model=ModelConfig(kind="mlp", n_layer=4), data=DataConfig("digits", "digits"),
)  # fmt: skip
MLPS: dict[str, dict[str, Any]] = {
    "rmsnorm": {"model_norm": "rmsnorm"},
    "layernorm, linear": {"model_norm": "layernorm", "model_activation": "linear"},
    "fixed rmsnorm": {"model_norm": "rmsnorm", "model_train_norms": False},
    "bias": {"model_bias": True},
    "residual": {"model_residual": True, "depth_scaling": "sqrt", "base_depth": 2},
    "logit norm": {"model_logit_norm": "layernorm"},
    "random features": {"model_train": "readout", "model_bias": True, "model_norm": "layernorm"},
    "fixed input": {"model_train": "no_input", "model_bias": True},
    "zero readout": {"readout_init": "zero"},
    "all": {"model_norm": "layernorm", "model_bias": True, "model_residual": True, "model_logit_norm": "layernorm"},
}
GPT = RunConfig(
    width=WIDTH,
    base_width=BASE,
    lr=0.02,
    eps=1e-6,
    seq_len=8,
    model=ModelConfig(n_layer=2, head_size=16, vocab_size=40),
)
GPTS: dict[str, dict[str, Any]] = {
    "rmsnorm": {"model_norm": "rmsnorm"},
    "q and k as vectors": {"model_qk_norm_role": "vector"},
    "neox always": {"embedding_init": "neox_always"},
    "random features": {"model_train": "readout"},
    "fixed input": {"model_train": "no_input"},
    "tied": {"model_tie_embeddings": True},
}


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() + bias


def normed(x: Tensor, w: Tensors, name: str) -> Tensor:
    if f"{name}.bias" in w:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])
    return rms_norm(x, w[f"{name}.weight"]) if f"{name}.weight" in w else x


def mlp_logits(config: RunConfig, w: Tensors, x: Tensor) -> Tensor:
    m = config.model
    h = F.linear(x, w["layers.0.weight"], w.get("layers.0.bias"))
    for i in range(1, m.n_layer):
        z = normed(h, w, f"norms.{i - 1}")
        z = z.relu() if m.activation == "relu" else z
        if i == m.n_layer - 1:
            break
        new = F.linear(z, w[f"layers.{i}.weight"], w.get(f"layers.{i}.bias"))
        h = h + new if m.residual else new
    f = F.linear(z, w["readout.weight"], w.get("readout.bias"))
    ones = torch.ones(f.shape[1], dtype=f.dtype)
    return layer_norm(f, ones, 0 * ones) if m.logit_norm == "layernorm" else f


def gpt_logits(config: RunConfig, w: Tensors, tokens: Tensor) -> Tensor:
    """Pythia: attention and MLP side by side, rotary position on a quarter of the head, qk-norm before it."""
    head, n_head = config.model.head_size, config.width // config.model.head_size
    B, T = tokens.shape
    w = {"transformer.wte.weight": w["lm_head.weight"], **w}
    rotated = head // 4
    angles = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, rotated, 2) / rotated)
    cos, sin = (f(torch.cat([angles, angles], 1)).to(w["lm_head.weight"].dtype) for f in (torch.cos, torch.sin))

    def rotate(x: Tensor) -> Tensor:
        turned, rest = x[..., :rotated], x[..., rotated:]
        first, second = turned.chunk(2, -1)
        return torch.cat([turned * cos + torch.cat([-second, first], -1) * sin, rest], -1)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    h = w["transformer.wte.weight"][tokens]
    for i in range(config.model.n_layer):
        p = f"transformer.h.{i}"
        qkv = linear(normed(h, w, f"{p}.norm_1"), f"{p}.attn.qkv").split(config.width, -1)
        q, k, v = (x.view(B, T, n_head, head).transpose(1, 2) for x in qkv)
        q, k = rotate(normed(q, w, f"{p}.attn.norm_q")), rotate(normed(k, w, f"{p}.attn.norm_k"))
        scores = (q @ k.transpose(-1, -2) / head**0.5).masked_fill(~torch.ones(T, T).tril().bool(), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1)
        inner = F.gelu(linear(normed(h, w, f"{p}.norm_2"), f"{p}.mlp.fc"))
        h = h + linear(mixed, f"{p}.attn.proj") + linear(inner, f"{p}.mlp.proj")
    return F.linear(normed(h, w, "transformer.ln_f"), w["lm_head.weight"])


def role_of(name: str, config: RunConfig) -> str:
    if name in ("lm_head.weight", "readout.weight"):
        return "output"
    if name == "readout.bias":
        return "finite"
    if ".norm_q." in name or ".norm_k." in name:
        return config.model.qk_norm_role
    if name in ("layers.0.weight", "transformer.wte.weight"):
        return "input"
    return "vector" if name.endswith(".bias") or "norm" in name or "ln_f" in name else "hidden"


def expected_init(name: str, shape: torch.Size, config: RunConfig) -> tuple[float, float]:
    """Mean and std."""
    role = role_of(name, config)
    if role in ("vector", "finite"):
        return float(name.endswith(".weight")), 0.0
    p = TABLE[config.param]
    exponent = p.init_factor(role, config.width_point)  # type: ignore[arg-type]
    if role == "input" and config.embedding_init != "constant":
        exponent = 2**-0.5 if config.embedding_init == "neox_always" or config.param == "sp" else 1.0
    if role == "output" and config.readout_init == "zero":
        exponent = 0.0
    c = 2.0 if config.model.activation == "relu" else 1.0
    if config.model.kind == "mlp":
        base = (c / (shape[1] if role == "input" else BASE)) ** 0.5
        branches = config.depth_scaling == "sqrt" and role == "hidden"
        return 0.0, base * exponent * ((config.base_depth / config.model.n_layer) ** 0.5 if branches else 1)
    return 0.0, exponent * (1 / (2 * BASE**0.5) if "attn.proj" in name else (2 / (5 * BASE)) ** 0.5)


def expected_lr(name: str, config: RunConfig) -> float:
    family: Any = "sgd" if config.optimizer == "sgd" else "adam"
    lr = config.lr * TABLE[config.param].lr_factor(role_of(name, config), family, config.width_point)  # type: ignore[arg-type]
    if config.depth_scaling == "sqrt" and role_of(name, config) == "hidden":
        lr *= config.base_depth / config.model.n_layer
    return lr


def is_trained(name: str, config: RunConfig) -> bool:
    m, is_norm = config.model, "norm" in name or "ln_f" in name
    if m.train == "readout":
        return name.startswith(("readout", "lm_head"))
    if m.train == "no_input" and name.startswith(("layers.0.", "transformer.wte.")):
        return False
    return m.train_norms or not is_norm


def held_to_the_reference(
    config: RunConfig, logits: Callable[[RunConfig, Tensors, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> None:
    model, specs = build(config)
    initialize_(model, specs, scaling_of(config), 3)
    model.double()
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, p in w.items():
        mean, std = expected_init(name, p.shape, config)
        assert specs[name].init_mean == mean, name
        assert specs[name].init_std * scaling_of(config).init(specs[name].role, specs[name].place) == pytest.approx(
            std
        ), name
        if std and p.numel() > 100:
            assert p.std().item() == pytest.approx(std, rel=0.2), name
    for p in (p for name, p in w.items() if is_trained(name, config)):
        p.requires_grad_()
    frozen = {name: p.clone() for name, p in w.items() if not is_trained(name, config)}
    decay = 0.1
    groups = parameter_groups(model.named_parameters(), specs, scaling_of(config), lr=config.lr, weight_decay=decay)
    assert {id(p) for g in groups for p in g["params"]} == {
        id(p) for n, p in model.named_parameters() if n not in frozen
    }
    ours = build_optimizer(config, groups)
    rates = {name: expected_lr(name, config) for name in w if name not in frozen}
    plain = [{"params": [w[n]], "lr": lr, "weight_decay": decay * config.lr / lr} for n, lr in rates.items()]
    kind = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.AdamW
    theirs: Any = (
        kind(plain) if kind is torch.optim.SGD else torch.optim.AdamW(plain, betas=config.betas, eps=config.eps)
    )
    for _ in range(3):
        h = model(inputs)
        readout = model.readout
        loss = linear_loss(
            h.flatten(0, -2),
            readout.weight,
            targets.flatten(),
            readout.bias,
            loss=config.loss,
            normalize=readout.normalize,
        ).loss
        f = logits(config, w, inputs).flatten(0, -2)
        one_hot = F.one_hot(targets.flatten(), f.shape[1])
        mse = config.loss == "mse"
        reference = (f - one_hot).square().sum(1).mean() if mse else F.cross_entropy(f, targets.flatten())
        for optimizer, value in ((ours, loss), (theirs, reference)):
            optimizer.zero_grad()
            value.backward()
        torch.testing.assert_close(loss, reference)
        for name, p in model.named_parameters():
            assert (p.grad is None) == (name in frozen), name
        ours.step()
        theirs.step()
        precise = config.model.kind == "mlp" or config.model.norm == "own"  # litgpt's RMSNorm computes in fp32
        for name, p in model.named_parameters():
            torch.testing.assert_close(
                p,
                w[name],
                rtol=1e-7 if precise else 1e-3,
                atol=1e-8 if precise else 1e-4,
                msg=lambda m, n=name: f"{n}: {m}",
            )
    for name, p in model.named_parameters():
        assert torch.equal(p, frozen[name]) if name in frozen else True


@pytest.mark.parametrize("param", params_of("sgd"))
@pytest.mark.parametrize("variant", MLPS)
def test_mlps(variant: str, param: str) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 64, generator=random, dtype=torch.float64), torch.arange(6)
    for optimizer, lr in (("sgd", 0.01), ("adamw", 1e-3)):
        held_to_the_reference(changed(MLP, param=param, optimizer=optimizer, lr=lr, **MLPS[variant]), mlp_logits, x, y)


@pytest.mark.parametrize("param", params_of("sgd"))
@pytest.mark.parametrize("variant", GPTS)
def test_gpts(variant: str, param: str) -> None:
    tokens = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    for optimizer, lr in (("sgd", 0.1), ("adamw", 1e-3)):
        if variant == "tied" and param != "sp":
            continue
        config = changed(GPT, param=param, optimizer=optimizer, lr=lr, **GPTS[variant])
        held_to_the_reference(config, gpt_logits, tokens[:, :-1], tokens[:, 1:])


@pytest.mark.parametrize(("config", "change", "line"), [
    (MLP, {"model_train_norms": False}, "--model.train_norms false needs --model.norm: an MLP has no own norms"),
    (MLP, {"model_residual": True, "model_n_layer": 2}, "--model.residual needs hidden layers: --model.n_layer 3 or more"),
    (MLP, {"depth_scaling": "sqrt"}, "--depth_scaling needs residual branches: --model.residual true"),
    (MLP, {"embedding_init": "neox_always"}, "--embedding_init neox_always is for GPTs, not for an MLP"),
    (MLP, {"model_tie_embeddings": True}, "--model.tie_embeddings is for GPTs, not for an MLP"),
    (MLP, {"model_qk_norm_role": "vector"}, "--model.qk_norm_role is for GPTs, not for an MLP"),
    (GPT, {"model_bias": True}, "--model.bias is for MLPs, not for a GPT"),
    (GPT, {"model_residual": True}, "--model.residual is for MLPs, not for a GPT"),
    (GPT, {"model_logit_norm": "layernorm"}, "--model.logit_norm is for MLPs, not for a GPT"),
    (GPT, {"model_qk_norm": False, "model_qk_norm_role": "vector"}, "--model.qk_norm_role needs --model.qk_norm true"),
    (GPT, {"model_tie_embeddings": True, "param": "mup"},
     "--model.tie_embeddings: embedding and readout have no one rule under --param mup with adamw and --embedding_init "
     "neox, and nothing multiplies logits here; SP with neox has one"),
    (GPT, {"model_tie_embeddings": True, "embedding_init": "constant"},
     "--model.tie_embeddings: embedding and readout have no one rule under --param sp with adamw and --embedding_init "
     "constant, and nothing multiplies logits here; SP with neox has one"),
    (GPT, {"model_tie_embeddings": True, "readout_init": "zero"},
     "--model.tie_embeddings: embedding and readout cannot both start as --readout_init zero says"),
    (GPT, {"model_tie_embeddings": True, "model_train": "no_input"},
     "--model.tie_embeddings: embedding and readout are one tensor: --model.train no_input would split it"),
])  # fmt: skip
def test_what_does_not_go_together_is_named(config: RunConfig, change: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError) as error:
        changed(config, **change)
    assert str(error.value) == line


@pytest.mark.parametrize(("param", "optimizer"), [pair for pair in pairs("sgd", "adamw", "muon") if pair[0] != "sp"])
@pytest.mark.parametrize("embedding_init", ["neox", "constant", "neox_always"])
def test_only_one_rule_for_both_ends_is_tied(param: str, optimizer: str, embedding_init: str) -> None:
    with pytest.raises(RequestError, match="have no one rule"):
        changed(GPT, param=param, optimizer=optimizer, embedding_init=embedding_init, model_tie_embeddings=True)


def test_flops_count_what_is_computed() -> None:
    n, d_in, d_out = WIDTH, 64, 10
    forward = 2 * (d_in * n + 2 * n * n + d_out * n)

    def flops(config: RunConfig) -> int:
        return flops_per_token(build(config)[0], config)

    assert flops(MLP) == 3 * forward - 2 * d_in * n
    assert flops(changed(MLP, model_train="readout")) == forward + 2 * d_out * n
    # the first hidden layer's input needs a gradient only where a norm before it learns
    assert flops(changed(MLP, model_train="no_input")) == forward + 2 * (n * n + 2 * (n * n + d_out * n))
    assert flops(changed(MLP, model_train="no_input", model_norm="rmsnorm")) == forward + 4 * (2 * n * n + d_out * n)
    forward = 2 * (2 * 12 * n * n + 40 * n) + 2 * 2 * 8 * n
    assert flops(GPT) == flops(changed(GPT, model_tie_embeddings=True)) == 3 * forward
    assert flops(changed(GPT, model_train="readout")) == forward + 2 * 40 * n
