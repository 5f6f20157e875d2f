"""Attention: queries, keys, values and attention weights of litgpt's, read off while a model runs.

Shapes: B sequences, H heads, T tokens, S head size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import litgpt.model
import torch
from torch import Tensor

from pipeline.diagnostics.sums import Sums

CHUNK = 2**23  # entries of the attention weights that are held at once

Attention: TypeAlias = litgpt.model.CausalSelfAttention


@contextmanager
def watched(
    attentions: Sequence[tuple[str, Attention]],
    see: Callable[[str, Attention, Tensor, Tensor, Tensor, Tensor | None], None],
) -> Iterator[None]:
    """While it lasts, every call of these attentions shows its mask and q, k, v (B, H, T, S), after norms and rope."""

    def wrapped(name: str, module: Attention) -> Callable[..., Tensor]:
        original = module.scaled_dot_product_attention

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            see(name, module, q, k, v, mask)
            result: Tensor = original(q, k, v, mask)
            return result

        return attend

    for name, module in attentions:
        module.__dict__["scaled_dot_product_attention"] = wrapped(name, module)
    try:
        yield
    finally:
        for _, module in attentions:
            del module.__dict__["scaled_dot_product_attention"]


def add_internals(
    sums: Sums, name: str, module: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, counted: bool
) -> None:
    """RMS of a head's query, key and value, the entropy of its attention weights in nats, and the largest |q . k| *
    scale that attention sees. Keys and values that several heads share come repeated, which changes no mean."""
    for quantity, x_BHTS in {"query": q, "key": k, "value": v}.items():
        norms = torch.linalg.vector_norm(x_BHTS, dim=-1)
        total = norms.sum(dtype=torch.float64) / math.sqrt(x_BHTS.shape[-1])
        sums.add(f"{quantity}/{name}", total if counted else 0.0, norms.numel() * counted)
    entropy, largest = _weights(module, q, k, mask)
    sums.add(f"attention_entropy/{name}", entropy if counted else 0.0, q[..., 0].numel() * counted)
    sums.largest(f"attention_logit/{name}", largest if counted else torch.zeros_like(largest))


def _weights(module: Attention, q: Tensor, k: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum over B, H and T of the entropy, and the largest |logit|."""
    config: litgpt.Config = module.config
    scale = module.mscale * module.mscale / math.sqrt(config.attention_scores_scalar or config.head_size)
    n_tokens = q.shape[2]
    if mask is None:
        hidden = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=q.device).triu(1)
    else:  # litgpt adds it to the logits
        hidden = (mask < torch.finfo(mask.dtype).min / 2).expand(*mask.shape[:-2], n_tokens, n_tokens)
    hidden = hidden.reshape(-1, n_tokens, n_tokens)[-1]  # the same for all sequences and heads
    q, k = q.flatten(0, 1), k.expand(q.shape[0], q.shape[1], -1, -1).flatten(0, 1)
    entropy, largest = q.new_zeros((), dtype=torch.float64), q.new_zeros((), dtype=torch.float64)
    step = max(1, CHUNK // n_tokens**2)
    for start in range(0, q.shape[0], step):
        heads = slice(start, start + step)
        logits = (q[heads] @ k[heads].mT).mul_(scale).masked_fill_(hidden, 0.0)
        low, high = logits.aminmax()
        largest = torch.maximum(largest, torch.maximum(-low, high).double())
        if config.attention_logit_softcapping is not None:
            logits = litgpt.model.do_softcapping(logits, config.attention_logit_softcapping)
        log_p = logits.masked_fill_(hidden, -math.inf).log_softmax(-1)
        p = log_p.exp()
        entropy -= p.mul_(log_p.masked_fill_(hidden, 0.0)).sum(dtype=torch.float64)
    return entropy, largest
