"""A user's ``build(width)``: found by name, called, and its result made whole with a batch and a loss."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.errors import RequestError, in_a_line, require

Build = Callable[[int], Any]
Loss = Callable[[nn.Module, Any], Tensor]
"""Of a model and a batch; a scalar."""

GIVES = "a tuple, or a dict, of model and optimizer (or a list of optimizers), then loss and batch where wanted"
EXAMPLES, TOKENS, IMAGES, PIXELS = 32, 32, 8, 8
"""Of a batch that is made here: vectors; tokens of 4 sequences, or fewer; images and the pixels of a side."""


@dataclass
class Built:
    """What ``build(width)`` gave."""

    width: int
    model: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    loss: Loss
    batch: Any

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def group(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The group of a parameter."""
        return next(g for g in self.groups if any(p is parameter for p in g["params"]))


def find(spec: str) -> Build:
    """The function that ``module:function`` names; the module by its dotted name, from the current folder too, or a
    path of a file. Raises `RequestError`."""
    where, colon, what = spec.rpartition(":")
    if not (colon and where and what):
        raise RequestError(f"{spec!r}: expected module:function, such as mymodel:build or src/mymodel.py:build")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = _file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = error.name == where or (error.name is not None and where.startswith(f"{error.name}."))
        said = f"there is no module {where!r} here or installed" if missing else in_a_line(error)
        raise RequestError(f"{spec}: {said}") from None
    except Exception as error:  # the module is the user's own: whatever it raises is what is wrong with it
        raise RequestError(f"{spec}: importing {where} failed: {in_a_line(error)}") from error
    found = getattr(module, what, None)
    if found is None:
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise RequestError(f"{spec}: {where} has no {what}: it has {', '.join(functions) or 'no functions'}")
    require(callable(found), f"{spec}: {what} is a {type(found).__name__}, not a function of a width")
    build: Build = found
    return build


def _file(path: Path) -> Any:
    require(path.is_file(), f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"audited_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call(build: Build, width: int, seed: int) -> Built:
    """``build(width)`` under torch's seed. Raises `RequestError` for what it cannot mean, in one line."""
    torch.manual_seed(seed)
    try:
        given = build(width)
    except RequestError:
        raise
    except Exception as error:  # the function is the user's own
        raise RequestError(f"build({width}) failed: {in_a_line(error)}") from error
    model, optimizers, loss, batch = _parts(given, width)
    _require_all(model, optimizers, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if batch is None:
            device = next(model.parameters()).device
            batch = tree_map(lambda tensor: tensor.to(device), _default_batch(model))
    return Built(width, model, optimizers, loss or default_loss, batch)


def _parts(given: Any, width: int) -> tuple[nn.Module, tuple[torch.optim.Optimizer, ...], Loss | None, Any]:
    if isinstance(given, Mapping):
        unknown = sorted(map(str, given.keys() - {"model", "optimizer", "loss", "batch"}))
        require(not unknown, f"build({width}) gave {', '.join(unknown)}: expected {GIVES}")
        parts = [given.get(name) for name in ("model", "optimizer", "loss", "batch")]
    else:
        require(isinstance(given, tuple | list) and 2 <= len(given) <= 4, f"build({width}): expected {GIVES}")
        parts = [*given, *[None] * (4 - len(given))]
        if len(given) == 3 and not callable(parts[2]):
            parts[2], parts[3] = None, parts[2]
    model, optimizer, loss, batch = parts
    if not isinstance(model, nn.Module):
        raise RequestError(f"build({width}): the model is a {type(model).__name__}, not an nn.Module")
    optimizers = tuple(optimizer) if isinstance(optimizer, list | tuple) else (optimizer,)
    for one in optimizers:
        if not isinstance(one, torch.optim.Optimizer):
            raise RequestError(f"build({width}): the optimizer is a {type(one).__name__}, not one of torch's")
    if loss is not None and not callable(loss):
        raise RequestError(f"build({width}): the loss is a {type(loss).__name__}, not a function of model and batch")
    return model, optimizers, loss, batch


def _require_all(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], width: int) -> None:
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    ids = {id(p) for p in held}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    require(bool(trained), f"build({width}): the model has nothing to train")
    missing = [name for name, p in trained.items() if id(p) not in ids]
    how = "give it every parameter, or freeze these (requires_grad False)"
    require(not missing, f"the optimizer misses {_few(missing)}: {how}")
    own = {id(p) for p in model.parameters()}
    foreign = sum(id(p) not in own for p in held)
    require(not foreign, f"the optimizer holds {foreign} tensors that the model has not: was it copied since?")


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ---------------------------------------------------------------------------------------------------------------------
# What need not be given


def _default_batch(model: nn.Module) -> Any:
    """What the model's signature and its first module take. Raises `RequestError` where that says too little."""
    names = list(inspect.signature(model.forward).parameters)
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    kinds = nn.Embedding | nn.Linear | nn.modules.conv._ConvNd
    first = next((m for m in model.modules() if isinstance(m, kinds)), None)
    if "input_ids" in names and embedding is not None:  # of transformers
        tokens = _tokens(model, embedding)
        return {"input_ids": tokens} | ({"labels": tokens} if "labels" in names else {})
    needed = [
        name
        for name, p in inspect.signature(model.forward).parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    takes = f"{type(model).__name__}.forward({', '.join(needed)})"
    require(len(needed) <= 1 and first is not None, f"cannot tell what {takes} takes: let build return a batch too")
    if embedding is not None:
        return _tokens(model, embedding)
    if isinstance(first, nn.Linear):
        return torch.randn(EXAMPLES, first.in_features)
    assert isinstance(first, nn.modules.conv._ConvNd)
    return torch.randn(IMAGES, first.in_channels, *[PIXELS] * len(first.kernel_size))


def _tokens(model: nn.Module, first: nn.Embedding) -> Tensor:
    """Of 4 sequences, no longer than any table of positions that the model looks them up in."""
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    length = min(TOKENS, *tables, *(getattr(getattr(model, "config", None), key, TOKENS) or TOKENS for key in _LENGTHS))
    return torch.randint(first.num_embeddings, (4, length))


_LENGTHS = ("max_position_embeddings", "n_positions", "block_size")


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """The model's own ``.loss`` where it has one; else of (inputs, targets) the cross-entropy with class indices or the
    squared error; else of inputs alone: of token sequences the next token's cross-entropy, of others that with random
    classes."""
    targets = None
    if isinstance(batch, Mapping):
        output = model(**batch)
        if isinstance(getattr(output, "loss", None), Tensor):
            own: Tensor = output.loss
            return own
        targets = batch.get("labels")
        inputs = tree_leaves(dict(batch))[0]
    elif isinstance(batch, tuple | list):
        inputs, targets = batch[0], batch[1] if len(batch) > 1 else None
        output = model(inputs)
    else:
        inputs, output = batch, model(batch)
    logits = logits_of(output)
    if targets is None and inputs.dtype == torch.long and logits.ndim == inputs.ndim + 1:
        logits, targets = logits[:, :-1], inputs[:, 1:]
    elif targets is None:
        n = logits.shape[-1]
        generator = torch.Generator().manual_seed(0)
        shape = tuple(logits.shape[:-1])
        if n > 1:
            targets = torch.randint(n, shape, generator=generator).to(logits.device)
        else:
            targets = torch.randn((*shape, 1), generator=generator).to(logits.device)
    if targets.dtype == torch.long:
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten())
    return F.mse_loss(logits, targets.reshape(logits.shape))


def logits_of(output: Any) -> Tensor:
    """A model's output: the tensor, its ``logits``, or its first floating-point tensor. Raises `RequestError`."""
    found = getattr(output, "logits", output)
    if isinstance(found, Tensor):
        return found
    tensors = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
    leaves = [leaf for leaf in tensors if leaf.is_floating_point() and leaf.ndim]
    if not leaves:
        raise RequestError(f"the model's output is a {type(output).__name__} without tensors: let it return one")
    return leaves[0]
