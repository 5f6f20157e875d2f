"""Models and parameter groups of other libraries: transformers, mup, unit-scaling, and this package's own."""

import math
from typing import Any

import mup
import torch
import transformers
import unit_scaling
import unit_scaling.optim
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig
from pipeline.models import gpt, mlp
from pipeline.optim import apply_parameterization
from pipeline.parameterization import rules
from pipeline.parameterization.rules import Width
from pipeline.scaling import Scaling
from tests.audit.models import BASE, LR, groups

# ---------------------------------------------------------------------------------------------------------------------
# transformers


def neox(n: int, std: float | None = None) -> nn.Module:
    config = transformers.GPTNeoXConfig(
        vocab_size=96, hidden_size=n, num_hidden_layers=2, num_attention_heads=n // 16, intermediate_size=4 * n,
        max_position_embeddings=32, initializer_range=std or n**-0.5, use_cache=False,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config)


def llama(n: int, std: float | None = None, tied: bool = False) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=n, num_hidden_layers=2, num_attention_heads=n // 16, num_key_value_heads=2,
        intermediate_size=2 * n, max_position_embeddings=32, initializer_range=std or n**-0.5, use_cache=False,
        tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def sp_neox(n: int) -> Any:
    model = neox(n)
    return model, torch.optim.AdamW(model.parameters(), lr=LR)


def sp_llama(n: int) -> Any:
    model = llama(n)
    return model, torch.optim.AdamW(model.parameters(), lr=LR)


def default_llama(n: int) -> Any:
    """initializer_range as it comes: one std at every width."""
    model = llama(n, 0.02)
    return model, torch.optim.AdamW(model.parameters(), lr=LR)


def tied_llama(n: int) -> Any:
    model = llama(n, 0.02, tied=True)
    return model, torch.optim.AdamW(model.parameters(), lr=LR)


def _by_hand(model: nn.Module, n: int, embedding: str, head: str) -> Any:
    parameters = dict(model.named_parameters())
    nn.init.normal_(parameters[embedding], std=BASE**-0.5)
    nn.init.normal_(parameters[head], std=math.sqrt(BASE) / n)
    power = lambda name, p: -1.0 if p.ndim == 2 and name != embedding else 0.0  # noqa: E731
    return model, torch.optim.AdamW(groups(model, n, power=power, decay=0.01))


def mup_neox(n: int) -> Any:
    return _by_hand(neox(n), n, "gpt_neox.embed_in.weight", "embed_out.weight")


def mup_llama(n: int) -> Any:
    return _by_hand(llama(n), n, "model.embed_tokens.weight", "lm_head.weight")


# ---------------------------------------------------------------------------------------------------------------------
# The package mup: its two examples


class MupMLP(nn.Module):
    """examples/MLP of the package."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.fc_1, self.fc_2 = nn.Linear(48, n, bias=False), nn.Linear(n, n, bias=False)
        self.fc_3 = mup.MuReadout(n, 10, bias=False)
        nn.init.kaiming_normal_(self.fc_1.weight, a=1, mode="fan_in")
        nn.init.kaiming_normal_(self.fc_2.weight, a=1, mode="fan_in")
        nn.init.zeros_(self.fc_3.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_3(F.relu(self.fc_2(F.relu(self.fc_1(x)))))


def package_mlp(n: int) -> Any:
    model = mup.set_base_shapes(MupMLP(n), MupMLP(BASE), delta=MupMLP(2 * BASE))
    return model, mup.MuSGD(model.parameters(), lr=0.1, momentum=0.9)


class MupTransformer(nn.Module):
    """examples/Transformer of the package: attention scaled by 1/d, queries and readout that start at zero."""

    def __init__(self, n: int, zero: bool = True) -> None:
        super().__init__()
        self.n, self.heads = n, 4
        self.embed = nn.Embedding(64, n)
        self.qkv = nn.ModuleList(nn.Linear(n, n) for _ in range(3))
        self.out, self.norm1 = nn.Linear(n, n), nn.LayerNorm(n)
        self.up, self.down, self.norm2 = nn.Linear(n, n), nn.Linear(n, n), nn.LayerNorm(n)
        self.decoder = mup.MuReadout(n, 64, readout_zero_init=zero)
        for module in (*self.qkv, self.out, self.up, self.down):
            nn.init.normal_(module.weight, std=n**-0.5)
            nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed.weight)
        if zero:
            nn.init.zeros_(self.qkv[0].weight)

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        x = self.embed(tokens)
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in self.qkv)
        size = self.n // self.heads
        logits = q @ k.mT * (math.sqrt(BASE // self.heads) / size)
        logits = logits.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
        x = self.norm1(x + self.out((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, t, self.n)))
        return self.decoder(self.norm2(x + self.down(F.relu(self.up(x)))))


def package_transformer(n: int) -> Any:
    model = mup.set_base_shapes(MupTransformer(n), MupTransformer(BASE), delta=MupTransformer(2 * BASE))
    return model, mup.MuAdam(model.parameters(), lr=LR)


# ---------------------------------------------------------------------------------------------------------------------
# unit-scaling


def unit_scaled(n: int) -> Any:
    import unit_scaling as uu

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = uu.Embedding(96, n)
            self.norm = uu.LayerNorm(n)
            self.up, self.down = uu.Linear(n, 2 * n), uu.Linear(2 * n, n)
            self.readout = uu.LinearReadout(n, 96)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            return self.readout(self.down(uu.functional.gelu(self.up(self.norm(x)))))

    model = Model()
    return model, unit_scaling.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Our own


def ours_gpt(n: int, param: str = "mup") -> Any:
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = ModelConfig(n_layer=2, head_size=16, vocab_size=96)
            self.gpt = gpt.build(config, n, 32)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.gpt.logits(tokens)

    model = Logits()
    specs = {f"gpt.{name}": spec for name, spec in gpt.tensor_specs(model.gpt, BASE).items()}
    scaling = Scaling(rules.get(param), "adam", Width(n, BASE, 96))
    seed = int(torch.randint(2**31, ()))
    made = apply_parameterization(model, specs, scaling, lr=LR, weight_decay=0.1, seed=seed)
    return model, torch.optim.AdamW(made)


def ours_mlp(n: int, param: str = "mup", family: Any = "sgd") -> Any:
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = mlp.build(ModelConfig(kind="mlp", n_layer=4), n, 16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.mlp(x), self.mlp.readout.weight)

    model = Logits()
    specs = {f"mlp.{name}": spec for name, spec in mlp.tensor_specs(model.mlp, BASE).items()}
    scaling = Scaling(rules.get(param), family, Width(n, BASE, 10))
    seed = int(torch.randint(2**31, ()))
    made = apply_parameterization(model, specs, scaling, lr=0.01 if family == "sgd" else LR, seed=seed)
    optimizer = torch.optim.SGD(made) if family == "sgd" else torch.optim.AdamW(made, weight_decay=0.0)
    return model, optimizer, torch.randn(32, 16)
