"""The GPT of the study: litgpt's, Pythia-style with qk-LayerNorm, scaled in width only (paper, D.3).

Shapes: B sequences, T tokens, D = n width, V vocabulary.
"""

import math
from collections.abc import Iterator

import litgpt
import litgpt.model
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig
from pipeline.models.roles import Claim, TensorSpec, by_name, linear, norm


class Readout(nn.Linear):
    """The unembedding. Its forward hands the hidden states on: the loss applies the weight, a chunk at a time."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class GPT(litgpt.GPT):
    """litgpt's GPT whose call maps tokens_BT to the hidden states h_BTD that the readout weight (V, D) is applied to."""

    def __init__(self, config: litgpt.Config) -> None:
        super().__init__(config)
        self.lm_head = Readout(config.n_embd, config.padded_vocab_size, bias=config.lm_head_bias)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """All logits_BTV at once, for inspection; training never holds them (`pipeline.losses`)."""
        return F.linear(self(tokens_BT), self.lm_head.weight, self.lm_head.bias)


def litgpt_config(model: ModelConfig, width: int, seq_len: int) -> litgpt.Config:
    """litgpt's description of the model at a width: heads and MLP size follow from it."""
    n_head = width // model.head_size
    kv_heads = n_head if model.kv_heads == "all" else min(model.kv_heads, n_head)
    return litgpt.Config.from_name(
        "pythia-14m",
        n_layer=model.n_layer,
        n_embd=width,
        n_head=n_head,
        head_size=model.head_size,
        n_query_groups=kv_heads,
        intermediate_size=model.mlp_ratio * width,
        padded_vocab_size=model.vocab_size,
        block_size=seq_len,
        norm_qk=model.qk_norm,
    )


def build(model: ModelConfig, width: int, seq_len: int) -> GPT:
    """The model with unset weights (see `pipeline.models.init`), on torch's current default device."""
    gpt = GPT(litgpt_config(model, width, seq_len))
    if not model.train_norms:
        for module in gpt.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(False)
    return gpt


def tensor_specs(gpt: GPT, base_width: int) -> dict[str, TensorSpec]:
    """Role and base initialization of every tensor, by name (the published runs' NeoX initialization, facts.md)."""
    return by_name(gpt, _claims(gpt, base_width))


def _claims(gpt: GPT, base_width: int) -> Iterator[Claim]:
    std = math.sqrt(2 / (5 * base_width))
    residual_std = 1 / (gpt.config.n_layer * math.sqrt(base_width))
    yield gpt.transformer.wte.weight, TensorSpec("input", std)
    for block in gpt.transformer.h:
        yield from norm(block.norm_1, "vector")
        yield from linear(block.attn.qkv, "hidden", std)
        yield from norm(block.attn.norm_q, "finite")
        yield from norm(block.attn.norm_k, "finite")
        yield from linear(block.attn.proj, "hidden", residual_std)
        yield from norm(block.norm_2, "vector")
        yield from linear(block.mlp.fc, "hidden", std)
        yield from linear(block.mlp.proj, "hidden", std)
    yield from norm(gpt.transformer.ln_f, "vector")
    yield from linear(gpt.lm_head, "output", std)


def flops_per_token(gpt: GPT, seq_len: int) -> int:
    """Floating-point operations of a forward and backward pass per token: 6 per matrix weight (the embedding is a
    look-up) and causal attention's 6 T n per block (two T x T products over half the positions, three times)."""
    matrices = sum(m.weight.numel() for m in gpt.modules() if isinstance(m, nn.Linear))
    return 6 * (matrices + int(gpt.config.n_layer) * seq_len * int(gpt.config.n_embd))


def parameter_count(gpt: GPT) -> int:
    return sum(p.numel() for p in gpt.parameters())
