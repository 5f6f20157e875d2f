"""The GPT of the study: litgpt's, by default Pythia-style with qk-LayerNorm, scaled in width only (paper, D.3).

Shapes: B sequences, T tokens, D = n width, V vocabulary.
"""

import difflib
import math
from collections.abc import Iterator

import litgpt
import litgpt.config
import litgpt.model
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig, RunConfig
from pipeline.errors import RequestError
from pipeline.models.roles import Claim, Readout, TensorSpec, by_name, linear, norm
from pipeline.parameterization.rules import Role
from pipeline.products import quicken_


class GPT(litgpt.GPT):
    """litgpt's GPT whose call maps tokens_BT to the hidden states h_BTD that the readout weight (V, D) is applied
    to."""

    def __init__(self, config: litgpt.Config) -> None:
        super().__init__(config)
        self.lm_head = Readout(config.n_embd, config.padded_vocab_size, bias=config.lm_head_bias)

    @property
    def readout(self) -> Readout:
        return self.lm_head

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """All logits_BTV at once, for inspection; training never holds them (`pipeline.losses`)."""
        return F.linear(self(tokens_BT), self.lm_head.weight, self.lm_head.bias)


def litgpt_config(model: ModelConfig, width: int, seq_len: int) -> litgpt.Config:
    """litgpt's description of the named architecture at a width: heads and MLP size follow from it.

    Two things that litgpt does for some architectures are left out, because they would scale with width outside the
    parameterization: the factor sqrt(n) on Gemma's embeddings, and tied embeddings (litgpt never ties them). Raises
    `RequestError` for a name that litgpt does not know and for architectures without a width rule.
    """
    known = litgpt.config.name_to_config
    if model.name not in known:
        near = difflib.get_close_matches(model.name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see litgpt.config.name_to_config"
        raise RequestError(f"--model.name: litgpt knows no architecture {model.name!r}: {hint}")
    named = litgpt.Config.from_name(model.name)
    for reason, present in {
        "a mixture of experts": named.n_expert > 0,
        "multi-head latent attention": named.latent_attention is not None,
        "a cap on its logits": named.final_logit_softcapping is not None,
    }.items():
        if present:
            raise RequestError(f"--model.name {model.name} has {reason}, for which there is no width rule here")
    n_head = width // model.head_size
    ratio = model.mlp_ratio if model.mlp_ratio is not None else named.intermediate_size / named.n_embd
    return litgpt.Config.from_name(
        model.name,
        n_layer=model.n_layer,
        n_embd=width,
        n_head=n_head,
        head_size=model.head_size,
        n_query_groups=n_head if model.kv_heads == "all" else min(model.kv_heads, n_head),
        intermediate_size=round(ratio * width),
        padded_vocab_size=model.vocab_size,
        block_size=seq_len,
        norm_qk=model.qk_norm,
        scale_embeddings=False,
    )


def of_run(config: RunConfig) -> tuple[GPT, dict[str, TensorSpec]]:
    """The model of a run, and the spec of each of its tensors. Raises `RequestError` for an architecture without a
    width rule, or with branches that a depth rule cannot scale."""
    gpt = build(config.model, config.width, config.seq_len)
    if config.depth_scaling == "none":
        return gpt, tensor_specs(gpt, config.base_width)
    if ends_branches_with_norms(gpt):
        raise RequestError(f"--depth_scaling: {config.model.name} normalizes its residual branches, which undoes it")
    return gpt, tensor_specs(gpt, config.base_width, config.base_depth)


def build(model: ModelConfig, width: int, seq_len: int) -> GPT:
    """The model with unset weights (see `pipeline.models.init`), on torch's current default device."""
    gpt = GPT(litgpt_config(model, width, seq_len))
    quicken_(gpt)
    if not model.train_norms:
        for tensor, _ in _norm_claims(gpt):
            tensor.requires_grad_(False)
    return gpt


def tensor_specs(gpt: GPT, base_width: int, base_depth: int | None = None) -> dict[str, TensorSpec]:
    """Role and base initialization of every tensor, by name (the published runs' NeoX initialization, facts.md).

    `base_depth` is the depth L in attn.proj's std 1 / (L sqrt(n)); the model's own by default.
    """
    return by_name(gpt, (*_matrix_claims(gpt, base_width, base_depth or gpt.config.n_layer), *_norm_claims(gpt)))


def _matrix_claims(gpt: GPT, base_width: int, base_depth: int) -> Iterator[Claim]:
    std = math.sqrt(2 / (5 * base_width))
    yield gpt.transformer.wte.weight, TensorSpec("input", std)
    yield from linear(gpt.lm_head, "output", std)
    for block in gpt.transformer.h:
        yield from linear(block.attn.qkv, "hidden", std, place="branch")
        yield from linear(block.attn.proj, "hidden", 1 / (base_depth * math.sqrt(base_width)), place="branch_end")
        if isinstance(block.mlp, litgpt.model.LLaMAMLP):  # Gemma's is one too
            yield from linear(block.mlp.fc_1, "hidden", std, place="branch")
            yield from linear(block.mlp.fc_2, "hidden", std, place="branch")
        else:
            yield from linear(block.mlp.fc, "hidden", std, place="branch")
        yield from linear(block.mlp.proj, "hidden", std, place="branch_end")


def _norm_claims(gpt: GPT) -> Iterator[Claim]:
    # OLMo 2 normalizes q and k over all heads at once, the others over a single head, whose size is fixed
    qk_role: Role = "vector" if gpt.config.norm_qk_type == "olmo2" else "finite"
    for block in gpt.transformer.h:
        yield from norm(block.attn.norm_q, qk_role, place="branch")
        yield from norm(block.attn.norm_k, qk_role, place="branch")
        for module in (block.norm_1, block.norm_2, block.post_attention_norm, block.post_mlp_norm):
            yield from norm(module, "vector", place="branch")
    yield from norm(gpt.transformer.ln_f, "vector")


def ends_branches_with_norms(gpt: GPT) -> bool:
    """Whether residual branches end with a normalization layer, as in OLMo 2 and Gemma 2."""
    return bool(gpt.config.post_attention_norm or gpt.config.post_mlp_norm)


def flops(gpt: GPT, config: RunConfig) -> int:
    """Floating-point operations of a forward and backward pass per token: 6 per matrix weight (the embedding is a
    look-up) and causal attention's 6 T n per block (two T x T products over half the positions, three times)."""
    matrices = sum(m.weight.numel() for m in gpt.modules() if isinstance(m, nn.Linear))
    return 6 * (matrices + int(gpt.config.n_layer) * config.seq_len * int(gpt.config.n_embd))
