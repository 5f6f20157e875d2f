"""A GPT in plain torch: this file, settings.json and model.safetensors in one folder are the whole model.

    from model import load
    logits_BTV = load()(tokens_BT)

Copied as it is into an export of which transformers has no like; it imports nothing but torch and safetensors.
Shapes: B sequences, T tokens, D model width, V vocabulary, H heads, S their size.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """x / rms(x) times a gain, which some models store less one; in fp32."""

    def __init__(self, size: int, eps: float, offset: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt((y * y).mean(-1, keepdim=True) + self.eps) * (self.offset + self.weight.float())
        return y.to(x.dtype)


def norm(s: dict[str, Any], size: int) -> nn.Module:
    """A normalization layer over the last `size` numbers."""
    if s["norm"] == "rmsnorm":
        return RMSNorm(size, s["norm_eps"], s["norm_gain_offset"])
    return nn.LayerNorm(size, s["norm_eps"], elementwise_affine=s["norm_gains"])


class Attention(nn.Module):
    """Causal attention with rotary embeddings and, where there are any, qk-norms."""

    def __init__(self, s: dict[str, Any], block: int) -> None:
        super().__init__()
        self.sizes = [heads * s["head_size"] for heads in (s["n_head"], s["kv_heads"], s["kv_heads"])]
        self.head_size, self.copies = s["head_size"], s["n_head"] // s["kv_heads"]
        self.scale, self.cap, self.window = s["attention_scale"], s["attention_cap"], s["windows"][block]
        self.norms_all_heads = s["qk_norm"] == "all_heads"
        self.qkv = nn.Linear(s["width"], sum(self.sizes), bias=s["qkv_bias"])
        self.proj = nn.Linear(self.sizes[0], s["width"], bias=s["bias"])
        per = self.sizes if self.norms_all_heads else [self.head_size] * 2
        self.norm_q, self.norm_k = (norm(s, size) if s["qk_norm"] else nn.Identity() for size in per[:2])

    def forward(self, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        q, k, v = torch.split(self.qkv(x_BTD), self.sizes, dim=-1)
        if self.norms_all_heads:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = (part.view(*part.shape[:2], -1, self.head_size).transpose(1, 2) for part in (q, k, v))  # BHTS
        if not self.norms_all_heads:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k = rotated(q, cos_TR, sin_TR), rotated(k, cos_TR, sin_TR)
        k, v = (part.repeat_interleave(self.copies, dim=1) for part in (k, v))
        seen = torch.ones(q.size(2), q.size(2), dtype=torch.bool, device=q.device).tril()
        if self.window:
            seen = seen.triu(1 - self.window)
        if self.cap:
            scores = self.cap * torch.tanh(q @ k.mT * self.scale / self.cap)
            y = F.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1, dtype=torch.float).to(q.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale)
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return out


def rotated(x_BHTS: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """The first R of the S dimensions rotated by position, the two halves of them against each other."""
    turned, rest = x_BHTS[..., : cos_TR.size(-1)], x_BHTS[..., cos_TR.size(-1) :]
    half = turned.size(-1) // 2
    swapped = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
    return torch.cat(((turned * cos_TR + swapped * sin_TR).to(x_BHTS.dtype), rest), dim=-1)


class Mlp(nn.Module):
    """proj(gelu(fc x)), or with a gate proj(act(fc_1 x) * fc_2 x)."""

    fc: nn.Module
    fc_1: nn.Module
    fc_2: nn.Module

    def __init__(self, s: dict[str, Any]) -> None:
        super().__init__()
        for name in ("fc_1", "fc_2") if s["gated"] else ("fc",):
            self.add_module(name, nn.Linear(s["width"], s["mlp_size"], bias=s["bias"]))
        self.proj = nn.Linear(s["mlp_size"], s["width"], bias=s["bias"])
        self.gated, self.activation = s["gated"], s["activation"]

    def act(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.activation == "silu" else F.gelu(x, approximate=self.activation.removeprefix("gelu_"))

    def forward(self, x_BTD: Tensor) -> Tensor:
        inner = self.act(self.fc_1(x_BTD)) * self.fc_2(x_BTD) if self.gated else self.act(self.fc(x_BTD))
        out: Tensor = self.proj(inner)
        return out


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream, one after the other or both of the same input."""

    norm_1: nn.Module
    norm_2: nn.Module
    post_attention_norm: nn.Module
    post_mlp_norm: nn.Module

    def __init__(self, s: dict[str, Any], block: int) -> None:
        super().__init__()
        self.attn, self.mlp, self.parallel = Attention(s, block), Mlp(s), s["parallel"]
        for name in ("norm_1", "norm_2", "post_attention_norm", "post_mlp_norm"):
            self.add_module(name, norm(s, s["width"]) if name in s["norms"] else nn.Identity())
        self.shared = s["shared_norm"]

    def forward(self, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        normed = self.norm_1(x_BTD)
        attended = x_BTD + self.post_attention_norm(self.attn(normed, cos_TR, sin_TR))
        if not self.shared:
            normed = self.norm_2(x_BTD if self.parallel else attended)
        out: Tensor = attended + self.post_mlp_norm(self.mlp(normed))
        return out


class GPT(nn.Module):
    """Maps tokens_BT to logits_BTV; `s` is what settings.json holds."""

    transformer: Any
    cos: Tensor
    sin: Tensor

    def __init__(self, s: dict[str, Any]) -> None:
        super().__init__()
        blocks = nn.ModuleList(Block(s, block) for block in range(s["n_layer"]))
        parts = {"wte": nn.Embedding(s["vocab_size"], s["width"]), "h": blocks, "ln_f": norm(s, s["width"])}
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(s["width"], s["vocab_size"], bias=s["readout_bias"])
        self.kinds = s["rotations"]
        for name in ("cos", "sin"):  # (kinds of rotation, positions, rotated dimensions)
            self.register_buffer(name, torch.empty(max(self.kinds) + 1, s["seq_len"], s["rotated"]))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length, longest = tokens_BT.size(1), self.cos.size(1)
        if length > longest:
            raise ValueError(f"{length} tokens in a row: this model knows {longest} positions")
        x_BTD = self.transformer["wte"](tokens_BT)
        for kind, block in zip(self.kinds, self.transformer["h"], strict=True):
            x_BTD = block(x_BTD, self.cos[kind, :length], self.sin[kind, :length])
        out: Tensor = self.lm_head(self.transformer["ln_f"](x_BTD))
        return out


def load(folder: str | Path = Path(__file__).parent) -> GPT:
    """The model of a folder, in the dtype of its weights."""
    settings = json.loads((Path(folder) / "settings.json").read_text())
    with torch.device("meta"):
        model = GPT(settings)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"), assign=True)
    return model.eval()
