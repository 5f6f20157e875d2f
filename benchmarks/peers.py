"""Training steps to be timed, of this package and of its peers: what `benchmarks.step` and `benchmarks.gpu` run.

A step is: gradients to zero, forward, backward, gradient clipped (GPTs), optimizer. All have the same shapes, batch and
precision (bf16 is autocast over float32 weights), and their data at hand.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """What is trained: a GPT on `batch` sequences, or the multi-index MLP of 3 layers on 64 vectors."""

    kind: str
    width: int
    vocabulary: int = 2048
    batch: int = 8
    tokens: int = 64
    """Of a sequence."""
    layers: int = 2
    """Blocks."""
    bf16: bool = False
    device: str = "cpu"

    @property
    def name(self) -> str:
        wide = f"-v{self.vocabulary}" if self.vocabulary > 2048 else ""
        return f"{self.kind}-{self.width}{wide}{'-bf16' if self.bf16 else ''}"


def batch_of(row: Row) -> Any:
    import torch

    drawn = torch.randint(0, row.vocabulary, (row.batch, row.tokens + 1), generator=torch.Generator().manual_seed(0))
    return drawn.to(row.device)


def precision(row: Row) -> Any:
    import torch

    return torch.autocast(row.device, torch.bfloat16) if row.bf16 else contextlib.nullcontext()


def product(row: Row) -> Step:
    """This package's, as its loop takes it (`pipeline.training.loop`), without the record."""
    from pipeline.cli.arguments import parse
    from pipeline.data.open import open_data
    from pipeline.training.descent import Descent
    from pipeline.training.loop import by_autograd
    from pipeline.training.machine import keep_freed_memory
    from pipeline.training.module import TrainingModule

    keep_freed_memory()
    shape = f"--width {row.width} --wandb disabled --stall_minutes null "
    if row.kind == "gpt":
        shape += f"--model.n_layer {row.layers} --model.vocab_size {row.vocabulary} --seq_len {row.tokens} "
        shape += f"--global_batch {row.batch} --precision {'bf16-mixed' if row.bf16 else '32-true'}"
    else:
        shape += "--config mlp-multi-index --model.n_layer 3 --lr 0.01"
    config, _ = parse("train", shape.split())
    module = TrainingModule(config, open_data(config)).to(row.device)
    micro: Any = {"first_step": 0, "micro_batch": config.global_batch, "rank": 0, "world_size": 1}
    batch = next(module.data.train.batches(**micro)) if row.kind == "mlp" else batch_of(row)
    optimizer = module.configure_optimizers()["optimizer"]
    step = Descent(module, optimizer) if Descent.suits(module) else by_autograd

    def take() -> None:
        step(module, optimizer, [batch], None)
        module.passes.clear()

    return take


def plain(row: Row, compiled: bool = False) -> Step:
    """The loop that one would write: all logits, torch's own layers, AdamW in one pass."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    if row.kind == "mlp":
        x, y = torch.randn(64, 100), torch.randint(0, 2, (64,))
        sizes = [100, row.width, row.width, 2]
        layers = [nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(sizes)]
        net: Any = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.01)
        net = torch.compile(net) if compiled else net

        def descend() -> None:
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x), y))
            optimizer.step()

        return descend
    tokens, net = batch_of(row), _litgpt(row)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    run = torch.compile(net) if compiled else net

    def step() -> None:
        optimizer.zero_grad()
        with precision(row):
            logits = run(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


def by_hand(row: Row) -> Step | None:
    """An MLP's step written out, its loss included, each weight updated where it lies by torch's own products."""
    import torch

    if row.kind != "mlp":
        return None
    x, y = torch.randn(64, 100), torch.randint(0, 2, (64,))
    sizes = [100, row.width, row.width, 2]
    weights = [torch.randn(o, i) * i**-0.5 for i, o in itertools.pairwise(sizes)]
    places, lr = torch.arange(64), 0.01

    def step() -> None:
        inputs = [x]
        for weight in weights[:-1]:
            inputs.append((inputs[-1] @ weight.T).relu_())
        g = (inputs[-1] @ weights[-1].T).softmax(1)
        g[places, y].log().mean()
        g[places, y] -= 1
        g /= 64
        for layer in reversed(range(3)):
            down = g @ weights[layer] if layer else None
            weights[layer].addmm_(g.T, inputs[layer], alpha=-lr)
            if down is not None:
                g = torch.ops.aten.threshold_backward(down, inputs[layer], 0)

    return step


def _litgpt(row: Row) -> Any:
    import litgpt

    from pipeline.config import ModelConfig
    from pipeline.models.gpt import litgpt_config

    net = litgpt.GPT(litgpt_config(ModelConfig(n_layer=row.layers, vocab_size=row.vocabulary), row.width, row.tokens))
    net.max_seq_length = row.tokens
    return net.to(row.device)


def litgpts(row: Row, compiled: bool = False) -> Step | None:
    """litgpt's own loss and optimizer settings around its model; as shipped it is compiled."""
    import torch
    from litgpt.utils import chunked_cross_entropy

    if row.kind == "mlp":
        return None
    tokens, net = batch_of(row), _litgpt(row)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    run = torch.compile(net) if compiled else net

    def step() -> None:
        with precision(row):
            loss = chunked_cross_entropy(run(tokens[:, :-1]), tokens[:, 1:])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def linear_cross_entropy(row: Row) -> Step | None:
    """The plain loop with torch's own loss that never holds all logits (torch >= 2.13)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    if row.kind == "mlp" or row.bf16 or not hasattr(F, "linear_cross_entropy"):
        return None
    tokens, net = batch_of(row), _litgpt(row)
    weight, net.lm_head = net.lm_head.weight, nn.Identity()
    parameters = [*net.parameters(), weight]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    options = nn.LinearCrossEntropyOptions()

    def step() -> None:
        optimizer.zero_grad()
        h = net(tokens[:, :-1]).flatten(0, 1)
        torch.autograd.backward(F.linear_cross_entropy(h, weight, tokens[:, 1:].flatten(), options=options))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def transformers(row: Row) -> Step | None:
    """GPT-NeoX of transformers, which has no qk-norm."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    if row.kind == "mlp":
        return None
    tokens, heads = batch_of(row), row.width // 32
    config = GPTNeoXConfig(vocab_size=row.vocabulary, hidden_size=row.width, num_hidden_layers=row.layers,
                           num_attention_heads=heads, intermediate_size=4 * row.width)  # fmt: skip
    net: Any = GPTNeoXForCausalLM(config)  # type: ignore[no-untyped-call]
    net.to(row.device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with precision(row):
            loss = net(input_ids=tokens[:, :-1], labels=tokens[:, :-1], use_cache=False).loss
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


VARIANTS: dict[str, Callable[[Row], Step | None]] = {
    "product": product,
    "plain loop": plain,
    "by hand": by_hand,
    "litgpt eager": litgpts,
    "HF GPTNeoX": transformers,
    "linear_cross_entropy": linear_cross_entropy,
    "compiled loop": lambda row: plain(row, compiled=True),
    "litgpt compiled": lambda row: litgpts(row, compiled=True),
}
"""Functions of a row that give its step, or None where there is none."""
COMPILED = ("compiled loop", "litgpt compiled")
