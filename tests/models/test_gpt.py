"""The model against transformers' GPTNeoX, its roles, and its initialization."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from litgpt.scripts.convert_hf_checkpoint import copy_weights_gpt_neox
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pipeline.config import ModelConfig, RunConfig
from pipeline.models import gpt
from pipeline.models.init import initial_value, initialize_
from pipeline.models.roles import TensorSpec, by_name
from pipeline.parameterization import rules
from pipeline.parameterization.rules import HALF, TABLE, EmbeddingInit, Width
from pipeline.scaling import Scaling
from pipeline.theory.network import Setting
from pipeline.theory.predict import predict

MODEL = ModelConfig(n_layer=3, head_size=16, vocab_size=512)


def scaling(width: int, base_width: int = 64, param: str = "sp", **settings: Any) -> Scaling:
    return Scaling(rules.get(param), "adam", Width(width, base_width, 512), **settings)


def initialized(model: ModelConfig, width: int, *, base_width: int = 64, param: str = "sp", seed: int = 0) -> gpt.GPT:
    module = gpt.build(model, width, seq_len=32)
    initialize_(module, gpt.tensor_specs(module, base_width), scaling(width, base_width, param), seed)
    return module


def test_logits_equal_gpt_neox() -> None:
    config = ModelConfig(n_layer=3, head_size=16, vocab_size=512, qk_norm=False)
    torch.manual_seed(0)
    hf = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=512, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
            rotary_pct=0.25, max_position_embeddings=32, use_parallel_residual=True, hidden_act="gelu",
            layer_norm_eps=1e-5, attention_bias=True, tie_word_embeddings=False, hidden_dropout=0.0,
        )
    ).eval()  # fmt: skip
    for parameter in hf.parameters():  # biases and gains too, so that a swapped one shows
        nn.init.normal_(parameter, std=0.1)
    ours = gpt.build(config, 64, seq_len=32)
    weights: dict[str, torch.Tensor] = {}
    copy_weights_gpt_neox(gpt.litgpt_config(config, 64, 32), weights, hf.state_dict())
    ours.load_state_dict(weights)
    tokens = torch.randint(0, 512, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(tokens), hf(tokens).logits, rtol=0, atol=1e-5)


def test_the_future_does_not_reach_the_past() -> None:
    model = initialized(MODEL, 64)
    tokens = torch.randint(0, 512, (1, 32), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 512
    with torch.no_grad():
        before, after = model.logits(tokens), model.logits(changed)
    assert torch.equal(before[0, :20], after[0, :20])
    assert (before[0, 20:] - after[0, 20:]).abs().amax(-1).min() > 0


def test_call_returns_hidden_states_of_the_readout() -> None:
    model = initialized(MODEL, 64)
    tokens = torch.zeros(2, 5, dtype=torch.long)
    assert model(tokens).shape == (2, 5, 64)
    assert model.logits(tokens).shape == (2, 5, 512)


def test_roles() -> None:
    model = gpt.build(MODEL, 64, seq_len=32)
    specs = gpt.tensor_specs(model, 64)
    by_role = {role: {n.replace("transformer.h.0.", "") for n, s in specs.items() if s.role == role and "h.1" not in n and "h.2" not in n}
               for role in rules.ROLES}  # fmt: skip
    assert by_role["input"] == {"transformer.wte.weight"}
    assert by_role["output"] == {"lm_head.weight"}
    assert by_role["hidden"] == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc.weight", "mlp.proj.weight"}
    assert by_role["finite"] == {f"attn.norm_{x}.{kind}" for x in "qk" for kind in ("weight", "bias")}
    assert by_role["vector"] == {
        "attn.qkv.bias", "attn.proj.bias", "mlp.fc.bias", "mlp.proj.bias", "norm_1.weight", "norm_1.bias",
        "norm_2.weight", "norm_2.bias", "transformer.ln_f.weight", "transformer.ln_f.bias",
    }  # fmt: skip


def test_an_unclaimed_or_tied_tensor_is_an_error() -> None:
    model = gpt.build(MODEL, 64, seq_len=32)
    model.extra = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"no role for extra\.weight, extra\.bias"):
        gpt.tensor_specs(model, 64)
    tied = gpt.build(MODEL, 64, seq_len=32)
    tied.lm_head.weight = tied.transformer.wte.weight
    with pytest.raises(ValueError, match="tied"):
        gpt.tensor_specs(tied, 64)


def test_claims_keep_the_models_order() -> None:
    pair = nn.ModuleDict({"b": nn.Linear(1, 1, bias=False), "a": nn.Linear(1, 1, bias=False)})
    spec = TensorSpec("hidden", 1.0)
    assert list(by_name(pair, iter([(pair["a"].weight, spec), (pair["b"].weight, spec)]))) == ["b.weight", "a.weight"]


@pytest.mark.parametrize("n", [128, 256, 1024])
@pytest.mark.parametrize("param", TABLE)
def test_initial_std_follows_its_exponent(param: str, n: int) -> None:
    """Measured std over measured std at base width, against the table's factor, within 5 standard errors."""
    model = ModelConfig(n_layer=1, head_size=16, vocab_size=512)
    base, wide = initialized(model, 64, param=param), initialized(model, n, param=param)
    specs, width = gpt.tensor_specs(wide, 64), Width(n, 64, 512)
    for (name, p), q in zip(wide.named_parameters(), base.parameters(), strict=True):
        if specs[name].init_std == 0:
            assert torch.equal(p, torch.full_like(p, specs[name].init_mean))
            continue
        expected = rules.get(param).init_factor(specs[name].role, width)
        error = math.sqrt(0.5 / p.numel() + 0.5 / q.numel())  # relative standard error of a ratio of two stds
        assert float(p.detach().std() / q.detach().std()) == pytest.approx(expected, rel=5 * error), name


@pytest.mark.parametrize("embedding_init", ["neox", "constant"])
@pytest.mark.parametrize("param", TABLE)
def test_initial_activations_scale_as_predicted(param: str, embedding_init: EmbeddingInit) -> None:
    """Slopes of embedding, q, k, v before their norms, and logits over widths 128 to 512 against the theory's
    exponents.

    Each is an RMS over thousands of entries of a product of Gaussian matrices and normalized vectors, good to about one
    per cent at a width; over a factor 4 in width, with 2 seeds, the slope is then good to about 0.02. Allowed: 0.06.
    """
    widths, measured = (128, 256, 512), []
    for n in widths:
        rows = []
        for seed in (0, 1):
            module = gpt.build(MODEL, n, seq_len=32)
            initialize_(
                module, gpt.tensor_specs(module, 128), scaling(n, 128, param, embedding_init=embedding_init), seed
            )
            seen: dict[str, torch.Tensor] = {}
            module.transformer.wte.register_forward_hook(lambda _, __, out, seen=seen: seen.update(embedding=out))
            module.transformer.h[0].attn.qkv.register_forward_hook(lambda _, __, out, seen=seen: seen.update(qkv=out))
            tokens = torch.randint(0, 512, (8, 32), generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                logits = module.logits(tokens)
            rows.append([t.square().mean().sqrt().item() for t in (seen["embedding"], seen["qkv"], logits)])
        measured.append(np.mean(rows, axis=0))
    slopes = np.polyfit(np.log(widths), np.log(measured), 1)[0]
    # d_out = 512 is no smaller than n here; sp_transition's readout stands between its two limits
    row = rules.get(param)
    optimizer = "adamw" if "hidden" in row.lr["adam"] else "muon"
    setting = Setting(row, optimizer, model="gpt", embedding_init=embedding_init)
    initial = predict(setting, Fraction(0)).steps[0]
    expected = [initial.layers["input"].output.exponent, Fraction(0), initial.logits.exponent]
    if row.init["output"].r_exponent:
        expected[2] = HALF + Fraction(
            math.log(row.init["output"].at(Width(512, 128, 512))) / math.log(4)
        ).limit_denominator(100)
    assert slopes == pytest.approx([float(e) for e in expected if e is not None], abs=0.06)


def test_published_base_stds() -> None:
    """facts.md: sqrt(2 / (5 n)) everywhere but attn.proj, which is 1 / (L sqrt(n))."""
    for name, spec in gpt.tensor_specs(gpt.build(MODEL, 64, 32), 256).items():
        if spec.role in ("input", "hidden", "output"):
            expected = 1 / (3 * 16) if "attn.proj" in name else math.sqrt(2 / (5 * 256))
            assert spec.init_std == pytest.approx(expected), name


def test_a_tensors_values_depend_on_its_name_and_the_seed_alone() -> None:
    model = initialized(MODEL, 64)
    torch.manual_seed(123)  # the global state plays no part
    alone = initial_value("lm_head.weight", torch.Size((512, 64)), 0, 0.0, math.sqrt(2 / (5 * 64)))
    assert torch.equal(alone, model.lm_head.weight)
    deeper = initialized(ModelConfig(n_layer=5, head_size=16, vocab_size=512), 64)
    assert torch.equal(deeper.transformer.h[1].mlp.fc.weight, model.transformer.h[1].mlp.fc.weight)
    assert not torch.equal(model.transformer.h[0].mlp.fc.weight, model.transformer.h[1].mlp.fc.weight)
    other = initialized(MODEL, 64, seed=1)
    assert not torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_initial_values_are_the_same_when_built_on_meta_first() -> None:
    """As sharding strategies build a model: no storage, then empty storage, then each tensor's values."""
    with torch.device("meta"):
        later = gpt.build(MODEL, 64, seq_len=32)
    later.to_empty(device="cpu")
    initialize_(later, gpt.tensor_specs(later, 64), scaling(64), 0)
    for (name, ours), theirs in zip(later.named_parameters(), initialized(MODEL, 64).parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_zero_readout() -> None:
    model = gpt.build(MODEL, 128, seq_len=32)
    initialize_(model, gpt.tensor_specs(model, 64), scaling(128, param="mup", readout_init="zero"), 0)
    assert not model.lm_head.weight.any()
    assert model.transformer.wte.weight.all()


def test_fixed_norms_do_not_train() -> None:
    model = gpt.build(ModelConfig(n_layer=2, head_size=16, vocab_size=512, train_norms=False), 64, 32)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {name for name, _ in model.named_parameters() if "norm" in name or "ln_f" in name}


def test_kv_heads() -> None:
    rows = {kv: gpt.build(ModelConfig(head_size=16, kv_heads=kv, vocab_size=512), 128, 32).transformer.h[0].attn.qkv.weight.shape[0]
            for kv in ("all", 4, 1)}  # fmt: skip
    assert rows == {"all": 3 * 128, 4: 128 + 2 * 4 * 16, 1: 128 + 2 * 16}


def test_flops_per_token_against_torchs_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = initialized(MODEL, 64)
    tokens = torch.zeros(1, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.logits(tokens).sum().backward()
    by_op = counter.get_flop_counts()["Global"]
    matrices = sum(flops for op, flops in by_op.items() if "mm" in str(op))
    attention = 6 * 3 * 32 * 64  # 6 T n per block, as the docstring counts it
    assert gpt.flops(model, RunConfig(seq_len=32)) - attention == matrices / 32
