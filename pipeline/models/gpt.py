"""The GPT of the study: litgpt's, by default Pythia-style with qk-LayerNorm, scaled in width only (paper, D.3).

Shapes: B sequences, T tokens, D = n width, V vocabulary.
"""

import difflib
import math
from collections.abc import Iterator

import litgpt
import litgpt.config
import litgpt.model
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import ModelConfig, RunConfig
from pipeline.errors import RequestError
from pipeline.models.roles import Claim, Readout, TensorSpec, by_name, freeze_, linear, matrix_flops, norm
from pipeline.parameterization.rules import Role
from pipeline.products import quicken_


class GPT(litgpt.GPT):
    """litgpt's GPT whose call maps tokens_BT to the hidden states h_BTD that the readout weight (V, D) is applied
    to."""

    def __init__(self, config: litgpt.Config, *, qk_role: Role = "finite", tied: bool = False) -> None:
        super().__init__(config)
        self.lm_head = Readout(config.n_embd, config.padded_vocab_size, bias=config.lm_head_bias)
        self.qk_role, self.tied = qk_role, tied
        if tied:
            self.transformer.wte.weight = self.lm_head.weight

    @property
    def readout(self) -> Readout:
        return self.lm_head

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """All logits_BTV at once, for inspection; training never holds them (`pipeline.losses`)."""
        return F.linear(self(tokens_BT), self.lm_head.weight, self.lm_head.bias)


def litgpt_config(model: ModelConfig, width: int, seq_len: int) -> litgpt.Config:
    """litgpt's description of the named architecture at a width: heads and MLP size follow from it.

    Two things that litgpt does for some architectures are left out, because they would scale with width outside the
    parameterization: the factor sqrt(n) on Gemma's embeddings, and tied embeddings (litgpt never ties them; `GPT`
    does). Raises `RequestError` for a name that litgpt does not know and for architectures without a width rule.
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
        norm_class_name={"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}.get(model.norm, named.norm_class_name),
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
    architecture = litgpt_config(model, width, seq_len)
    # OLMo 2 normalizes q and k over all heads at once, the others over a single head, whose size is fixed
    qk_role: Role = "vector" if architecture.norm_qk_type == "olmo2" else model.qk_norm_role
    gpt = GPT(architecture, qk_role=qk_role, tied=model.tie_embeddings)
    quicken_(gpt)
    if not model.train_norms:
        freeze_(tensor for tensor, _ in _norm_claims(gpt))
    if model.train == "no_input":
        freeze_(gpt.transformer.wte.parameters())
    if model.train == "readout":
        freeze_(gpt.transformer.parameters())
    return gpt


def tensor_specs(gpt: GPT, base_width: int, base_depth: int | None = None) -> dict[str, TensorSpec]:
    """Role and base initialization of every tensor, by name (the published runs' NeoX initialization, facts.md).

    `base_depth` is the depth L in attn.proj's std 1 / (L sqrt(n)); the model's own by default.
    """
    return by_name(gpt, (*_matrix_claims(gpt, base_width, base_depth or gpt.config.n_layer), *_norm_claims(gpt)))


def _matrix_claims(gpt: GPT, base_width: int, base_depth: int) -> Iterator[Claim]:
    std = math.sqrt(2 / (5 * base_width))
    if not gpt.tied:
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
    for block in gpt.transformer.h:
        yield from norm(block.attn.norm_q, gpt.qk_role, place="branch")
        yield from norm(block.attn.norm_k, gpt.qk_role, place="branch")
        for module in (block.norm_1, block.norm_2, block.post_attention_norm, block.post_mlp_norm):
            yield from norm(module, "vector", place="branch")
    yield from norm(gpt.transformer.ln_f, "vector")


def ends_branches_with_norms(gpt: GPT) -> bool:
    """Whether residual branches end with a normalization layer, as in OLMo 2 and Gemma 2."""
    return bool(gpt.config.post_attention_norm or gpt.config.post_mlp_norm)


def flops(gpt: GPT, config: RunConfig) -> int:
    """Floating-point operations of a forward and backward pass per token: of the matrices (the embedding is a look-up)
    and causal attention's 2 T n per block forward (two T x T products over half the positions), and twice that backward
    where anything but the readout is trained."""
    matrices = matrix_flops((*gpt.transformer.modules(), gpt.lm_head))
    passes = 3 if any(parameter.requires_grad for parameter in gpt.transformer.parameters()) else 1
    return matrices + 2 * passes * int(gpt.config.n_layer) * config.seq_len * int(gpt.config.n_embd)
