"""Models and optimizers as other people write them, right and with one fault each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BASE, LR = 64, 3e-3
Build = Callable[[int], Any]


class Attention(nn.Module):
    """Causal, with `kv_heads` of fixed number or as many as queries; `heads` of fixed number or of size 16."""

    def __init__(
        self, n: int, kv_heads: int | None = None, heads: int | None = None, scale: float | None = None
    ) -> None:
        super().__init__()
        self.heads = heads or n // 16
        self.size = n // self.heads
        self.kv = kv_heads or self.heads
        self.scale = scale
        self.q = nn.Linear(n, n, bias=False)
        self.k = nn.Linear(n, self.kv * self.size, bias=False)
        self.v = nn.Linear(n, self.kv * self.size, bias=False)
        self.o = nn.Linear(n, n, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, n = x.shape
        q, k, v = (f(x).view(b, t, -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=self.kv != self.heads)
        return self.o(y.transpose(1, 2).reshape(b, t, n))


class Block(nn.Module):
    def __init__(self, n: int, branch: float = 1.0, **attention: Any) -> None:
        super().__init__()
        self.branch = branch
        self.ln1, self.attn, self.ln2 = nn.LayerNorm(n), Attention(n, **attention), nn.LayerNorm(n)
        self.up, self.down = nn.Linear(n, 2 * n), nn.Linear(2 * n, n)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.branch * self.down(F.gelu(self.up(self.ln2(x))))


class GPT(nn.Module):
    def __init__(
        self,
        n: int,
        vocab: int = 96,
        layers: int = 2,
        mult: float = 1.0,
        tied: bool = False,
        embed: float = 1.0,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, n), nn.Embedding(32, n)
        self.blocks = nn.ModuleList(Block(n, **attention) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(n), nn.Linear(n, vocab, bias=False)
        self.mult, self.embed = mult, embed
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed * (self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1])))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x)) * self.mult


def fan_in_(model: nn.Module) -> None:
    """Standard initialization: std 1/sqrt(fan_in), embeddings 0.5, biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)


def groups(
    model: nn.Module,
    n: int,
    *,
    lr: float = LR,
    power: Callable[[str, Tensor], float],
    decay: float = 0.0,
    scaled: bool = True,
) -> list[dict[str, Any]]:
    """A group per parameter with rate lr * m^power and, scaled, weight decay that keeps their product."""
    m = n / BASE
    made = []
    for name, p in model.named_parameters():
        factor = m ** power(name, p)
        made.append({"params": [p], "lr": lr * factor, "weight_decay": decay / (factor if scaled else 1)})
    return made


def adam_power(name: str, p: Tensor) -> float:
    """muP's, of a GPT or the like: -1 where fan-in grows."""
    return -1.0 if p.ndim > 1 and "wte" not in name and "wpe" not in name else 0.0


def mup_gpt(n: int, **options: Any) -> Any:
    model = GPT(n, **options)
    fan_in_(model)
    if model.head.weight is not model.wte.weight:
        nn.init.normal_(model.head.weight, std=math.sqrt(BASE) / n)
    return model, torch.optim.AdamW(groups(model, n, power=adam_power, decay=0.1))


def sp_gpt(n: int) -> Any:
    model = GPT(n)
    fan_in_(model)
    return model, torch.optim.AdamW(model.parameters(), lr=LR)


def mup_gqa(n: int) -> Any:
    return mup_gpt(n, kv_heads=2)


def mup_heads(n: int) -> Any:
    """A fixed number of heads: their size grows, and attention is scaled by 1/d."""
    return mup_gpt(n, heads=4, scale=math.sqrt(BASE / 4) / (n / 4))


def mup_multiplier(n: int) -> Any:
    """The readout's 1/m in the forward pass, its std and rate as they are at the base width."""
    model = GPT(n, mult=BASE / n)
    fan_in_(model)
    nn.init.normal_(model.head.weight, std=BASE**-0.5)
    power = lambda name, p: 0.0 if "head" in name else adam_power(name, p)  # noqa: E731
    return model, torch.optim.AdamW(groups(model, n, power=power, decay=0.1))


def mup_tied(n: int) -> Any:
    """One tensor for both ends, and 1/m on the logits."""
    model = GPT(n, mult=BASE / n, tied=True)
    fan_in_(model)
    nn.init.normal_(model.wte.weight, std=0.5)
    return model, torch.optim.AdamW(groups(model, n, power=adam_power, decay=0.1))


class ConvNet(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, n, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(n)
        self.depthwise = nn.Conv2d(n, n, 3, padding=1, groups=n)
        self.middle = nn.Conv2d(n, n, 3, padding=1, stride=2)
        self.norm2 = nn.BatchNorm2d(n)
        self.last = nn.Linear(n, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        x = F.relu(self.norm2(self.middle(self.depthwise(x))))
        return self.last(x.mean((2, 3)))


def mup_conv(n: int, decay: float = 0.1) -> Any:
    model = ConvNet(n)
    fan_in_(model)
    nn.init.normal_(model.last.weight, std=math.sqrt(BASE) / n)
    power = lambda name, p: -1.0 if name in ("middle.weight", "last.weight") else 0.0  # noqa: E731
    return model, torch.optim.AdamW(groups(model, n, power=power, decay=decay))


class Experts(nn.Module):
    """A layer of experts in three tensors, chosen by a router."""

    def __init__(self, n: int, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(n, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, n, 2 * n) / math.sqrt(n))
        self.down = nn.Parameter(torch.randn(experts, 2 * n, n) / math.sqrt(2 * n))
        self.register_buffer("load", torch.zeros(experts))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        self.load += gates.detach().mean(tuple(range(gates.ndim - 1)))
        h = F.gelu(torch.einsum("...i,eio->...eo", x, self.up))
        return torch.einsum("...ei,eio,...e->...o", h, self.down, gates)


class MoE(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(64, n)
        self.cls = nn.Parameter(torch.randn(1, 1, n))
        self.ln1, self.experts, self.ln2 = nn.LayerNorm(n), Experts(n), nn.LayerNorm(n)
        self.head = nn.Linear(n, 64, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.cls
        return self.head(self.ln2(x + self.experts(self.ln1(x))))


def mup_moe(n: int) -> Any:
    model = MoE(n)
    nn.init.normal_(model.head.weight, std=math.sqrt(BASE) / n)
    power = lambda name, p: adam_power(name, p) if name != "cls" else 0.0  # noqa: E731
    return model, torch.optim.AdamW(groups(model, n, power=power))


class MLP(nn.Module):
    def __init__(self, n: int, mult: float = 1.0) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, n), nn.Linear(n, n), nn.Linear(n, 10)
        self.mult = mult

    def forward(self, x: Tensor) -> Tensor:
        return self.mult * self.last(F.relu(self.middle(F.relu(self.first(x)))))


def mup_mlp_sgd(n: int) -> Any:
    model = MLP(n)
    fan_in_(model)
    nn.init.normal_(model.last.weight, std=math.sqrt(BASE) / n)
    powers = {"first": 1.0, "middle.weight": 0.0, "middle.bias": 1.0, "last.weight": -1.0, "last.bias": 0.0}
    power = lambda name, p: next(c for key, c in powers.items() if name.startswith(key))  # noqa: E731
    return model, torch.optim.SGD(groups(model, n, lr=0.05, power=power), momentum=0.9)


class Scaled(nn.Module):
    """A matrix with entries of std one and a multiplier in the forward pass."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(fan_in, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w / len(self.w) ** 0.5


def ntk_mlp(n: int, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> Any:
    """The NTK parameterization as it is written, with one learning rate."""
    model = nn.Sequential(Scaled(16, n), nn.ReLU(), Scaled(n, n), nn.ReLU(), Scaled(n, 10))
    return model, optimizer(model.parameters(), lr=0.01), torch.randn(32, 16)


def ntk_mlp_adam(n: int) -> Any:
    return ntk_mlp(n, torch.optim.Adam)


def muon_gpt(n: int) -> Any:
    """torch's Muon on hidden matrices, AdamW beside it."""
    model, _ = mup_gpt(n)
    inside = {name: p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks")}
    outside = [p for name, p in model.named_parameters() if name not in inside and "head" not in name]
    head = {"params": [model.head.weight], "lr": LR * BASE / n}
    return model, [
        torch.optim.Muon(inside.values(), lr=0.02, weight_decay=0.0),
        torch.optim.AdamW([{"params": outside}, head], lr=LR, weight_decay=0.0),
    ]


def sp_encoder(n: int) -> Any:
    """torch's own layers, with dropout, and matrices that are used from outside their module."""
    layer = nn.TransformerEncoderLayer(n, n // 16, 2 * n, batch_first=True)
    model = nn.Sequential(nn.Linear(12, n), nn.TransformerEncoder(layer, 2), nn.Linear(n, 5))
    return model, torch.optim.AdamW(model.parameters(), lr=LR), torch.randn(4, 9, 12)
