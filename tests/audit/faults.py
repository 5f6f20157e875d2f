"""A GPT under muP with one fault each, and where it is to be found."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.audit.models import BASE, GPT, adam_power, fan_in_, groups, mup_gpt


@dataclass(frozen=True)
class Fault:
    build: Callable[[int], Any]
    tensors: tuple[str, ...]
    """All that depart, and no others."""
    quantity: str
    cause: str
    """Words of it."""


def _with_power(**powers: float) -> Callable[[int], Any]:
    """muP but for the rates of tensors whose names hold these words."""

    def build(n: int) -> Any:
        model, _ = mup_gpt(n)

        def power(name: str, p: torch.Tensor) -> float:
            return next((c for word, c in powers.items() if word in name.replace(".", "_")), adam_power(name, p))

        return model, torch.optim.AdamW(groups(model, n, power=power, decay=0.1))

    return build


def _with_init(change: Callable[[GPT, int], None], **options: Any) -> Callable[[int], Any]:
    def build(n: int) -> Any:
        model, optimizer = mup_gpt(n, **options)
        with torch.no_grad():
            change(model, n)
        return model, optimizer

    return build


def _scale(word: str, power: float) -> Callable[[GPT, int], None]:
    def change(model: GPT, n: int) -> None:
        for name, p in model.named_parameters():
            if word in name:
                p *= (n / BASE) ** power

    return change


def _sp_readout(model: GPT, n: int) -> None:
    nn.init.normal_(model.head.weight, std=n**-0.5)


def _one_std(model: GPT, n: int) -> None:
    nn.init.normal_(model.blocks[1].up.weight, std=0.02)


def _kv_as_readout(model: GPT, n: int) -> None:
    for block in model.blocks:
        block.attn.k.weight *= (n / BASE) ** -0.5
        block.attn.v.weight *= (n / BASE) ** -0.5


def _decay(n: int) -> Any:
    model, _ = mup_gpt(n)
    return model, torch.optim.AdamW(groups(model, n, power=adam_power, decay=0.1, scaled=False))


def _eps(n: int) -> Any:
    model, _ = mup_gpt(n)
    return model, torch.optim.AdamW(groups(model, n, power=adam_power), eps=1e-3)


def _multiplier_too(n: int) -> Any:
    return mup_gpt(n, mult=BASE / n)


def _tied(n: int) -> Any:
    model = GPT(n, tied=True)
    fan_in_(model)
    nn.init.normal_(model.wte.weight, std=0.5)
    return model, torch.optim.AdamW(groups(model, n, power=adam_power, decay=0.1))


def _branch(n: int) -> Any:
    return mup_gpt(n, branch=(BASE / n) ** 0.5)


def _gemma(n: int) -> Any:
    return mup_gpt(n, embed=math.sqrt(n))


GAINS = (*(f"blocks.{b}.{ln}.weight" for b in (0, 1) for ln in ("ln1", "ln2")), "ln.weight")
MATRICES = tuple(
    f"blocks.{b}.{of}.weight" for b in (0, 1) for of in ("attn.q", "attn.k", "attn.v", "attn.o", "up", "down")
)
KV = tuple(f"blocks.{b}.attn.{of}.weight" for b in (0, 1) for of in ("k", "v"))

FAULTS = {
    "rate scaled twice": Fault(_with_power(attn=-2.0), MATRICES[:4] + MATRICES[6:10], "rate", "scaled twice"),
    "SP readout": Fault(_with_init(_sp_readout), ("head.weight",), "std", "SP readout"),
    "attention scale": Fault(
        lambda n: mup_gpt(n, heads=4), ("blocks.0.attn.v", "blocks.1.attn.v"), "attention", "1/sqrt(d)"
    ),
    "tied head": Fault(_tied, ("wte.weight as head.weight",), "std", "tied head"),
    "fixed KV heads": Fault(_with_init(_kv_as_readout, kv_heads=2), KV, "std", "fixed KV heads"),
    "decay not rescaled": Fault(_decay, (*MATRICES, "head.weight"), "decay", "decay not rescaled"),
    "eps not rescaled": Fault(_eps, (), "eps", "eps not rescaled"),
    "gains as hidden": Fault(
        _with_power(ln1_weight=-1.0, ln2_weight=-1.0, ln_weight=-1.0), GAINS, "rate", "gains and biases"
    ),
    "embedding rate": Fault(_with_power(wte=-1.0), ("wte.weight",), "rate", "embedding scaled by the optimizer's LR"),
    "one std": Fault(_with_init(_one_std), ("blocks.1.up.weight",), "std", "one std at every width"),
    "forgotten matrix": Fault(
        _with_power(blocks_1_down_weight=0.0), ("blocks.1.down.weight",), "rate", "in no scaled group"
    ),
    "readout's rate": Fault(_with_power(head=0.0), ("head.weight",), "rate", "readout is left at the base rate"),
    "multiplier on top": Fault(_multiplier_too, ("head.weight",), "std", "shrunk twice"),
    "branch multiplier": Fault(
        _branch, ("blocks.0.down.weight", "blocks.1.down.weight"), "std", "a multiplier in the forward pass"
    ),
    "embedding multiplier": Fault(_gemma, ("wte.weight", "wpe.weight"), "std", "a multiplier in the forward pass"),
}
"""By what is wrong; no tensors: which ones depends on their gradients."""
