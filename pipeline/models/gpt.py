"""The GPT of the study: litgpt's, by default Pythia-style with qk-LayerNorm, scaled in width only (paper, D.3).

Shapes: B sequences, T tokens, D = n width, V vocabulary.
"""

import difflib
import math
from collections.abc import Callable, Iterator

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
        lower = {name.lower(): name for name in known}
        near = difflib.get_close_matches(model.name.lower(), lower, n=1)
        hint = f"did you mean {lower[near[0]]}?" if near else "such as pythia-160m, Llama-3.2-1B or Qwen3-0.6B"
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


def about(config: RunConfig) -> list[str]:
    """What the run's GPT keeps of the architecture whose name it has, and what is another here, a line each."""
    m = config.model
    here, named = litgpt_config(m, config.width, config.seq_len), litgpt.Config.from_name(m.name)
    pairs = [(words(named), words(here)) for words in _ASPECTS]
    counts = (named.n_query_groups != named.n_head, named.n_query_groups), (m.kv_heads != "all", here.n_query_groups)
    its, mine = (f"{count} key/value heads" if few else "key/value heads for every head" for few, count in counts)
    pairs.insert(4, (its, mine))
    lines = [f"{m.name} keeps: {', '.join(mine for its, mine in pairs if its == mine)}"]
    if replaced := [f"{its} -> {mine}" for its, mine in pairs if its != mine]:
        lines.append(f"{m.name} replaces: {', '.join(replaced)}")
    tied = "one tensor" if m.tie_embeddings else "two tensors, whatever it ties (--model.tie_embeddings)"
    return [*lines, f"{m.name}'s embedding and readout are {tied}"]


def _norms(c: litgpt.Config) -> str:
    after = " after attention and MLP" if c.post_mlp_norm and not c.norm_1 else ""
    both = " before and after attention and MLP" if c.post_mlp_norm and c.norm_1 else ""
    return f"{c.norm_class_name} (eps {c.norm_eps:g}){after}{both}"


def _qk_norm(c: litgpt.Config) -> str:
    return ("qk-norm over all heads at once" if c.norm_qk_type == "olmo2" else "qk-norm") if c.norm_qk else "no qk-norm"


def _mlp(c: litgpt.Config) -> str:
    gate = {"LLaMAMLP": "gated, SiLU", "GemmaMLP": "gated, GELU"}.get(c.mlp_class_name, "GELU")
    return f"MLP of {c.intermediate_size / c.n_embd:.3g} x width ({gate})"


def _rotary(c: litgpt.Config) -> str:
    adjusted = ", stretched" if c.rope_adjustments or c.rope_condense_ratio != 1 else ""
    return f"rotary base {c.rope_base:g} on {c.rotary_percentage:.0%} of a head{adjusted}"


_ASPECTS: tuple[Callable[[litgpt.Config], str], ...] = (
    lambda c: f"{c.n_layer} blocks",
    lambda c: "attention and MLP side by side" if c.parallel_residual else "attention before MLP",
    lambda c: f"heads of {c.head_size}",
    lambda c: f"all heads together {c.n_head * c.head_size / c.n_embd:.3g} x width",
    _qk_norm,
    _norms,
    _mlp,
    _rotary,
    lambda c: (
        f"window of {c.sliding_window_size} tokens" if c.sliding_window_size else "attention to all tokens before"
    ),
    lambda c: "biases" if c.bias else "biases of q, k and v alone" if c.attn_bias else "no biases",
    lambda c: "embeddings times sqrt(width)" if c.scale_embeddings else "embeddings as they are",
    lambda c: f"vocabulary of {c.padded_vocab_size:,}",
    lambda c: f"context of {c.block_size:,}",
)
"""What a name stands for beside its width."""


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
        yield from linear(block.attn.qkv, "hidden", std, place="branch", blocks=_of_qkv(gpt.config))
        yield from linear(block.attn.proj, "hidden", 1 / (base_depth * math.sqrt(base_width)), place="branch_end")
        if isinstance(block.mlp, litgpt.model.LLaMAMLP):  # Gemma's is one too
            yield from linear(block.mlp.fc_1, "hidden", std, place="branch")
            yield from linear(block.mlp.fc_2, "hidden", std, place="branch")
        else:
            yield from linear(block.mlp.fc, "hidden", std, place="branch")
        yield from linear(block.mlp.proj, "hidden", std, place="branch_end")


def _of_qkv(config: litgpt.Config) -> tuple[int, int, int]:
    """Rows of queries, keys and values."""
    keys = config.n_query_groups * config.head_size
    return config.n_head * config.head_size, keys, keys


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
