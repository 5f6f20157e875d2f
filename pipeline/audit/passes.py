"""Forward passes of a model that somebody else wrote: what each of its modules was called with, and what it would have
given with other values in a tensor.

Differences are formed in fp64 by calling a module again, so that multipliers, convolutions, experts and whatever a
module does inside count as they are. Random numbers (dropout) are the same in every pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.audit.builds import Built, logits_of
from pipeline.errors import RequestError, in_a_line, require

PRODUCTS = {f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution")}
Values = Mapping[str, Tensor]
"""Of tensors, by name."""


@dataclass
class Call:
    """The first call of a module in a pass."""

    args: Any
    kwargs: Any
    output: Any

    @property
    def x(self) -> Tensor | None:
        """What it was called with: the first tensor."""
        return next((leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)), None)


@dataclass
class Pass:
    """What a forward pass showed."""

    calls: dict[str, Call]
    logits: Tensor
    loss: float
    multiplied: set[int]
    """Addresses of the storages that took part in products of matrices."""
    attention: dict[str, tuple[float, float]]
    """By the module called before: RMS of the attention's logits, and how many heads it has (0: unknown) or the head
    dimension it has (negative)."""


class Passes:
    """The passes of one build."""

    def __init__(self, built: Built, owners: Sequence[str]) -> None:
        self.built = built
        modules = dict(built.model.named_modules())
        self._owners = {name: modules[name] for name in owners}
        self._leaves = {name: m for name, m in modules.items() if not any(m.children())} | self._owners
        self._parameters = built.parameters

    def run(self, values: Values | None = None, pinned: Mapping[str, Any] | None = None) -> Pass:
        """With `values` in place of tensors. Modules in `pinned` give these outputs whatever they are. Raises
        `RequestError` where the loss does not call the model."""
        calls: dict[str, Call] = {}
        seen: list[Any] = []
        watch = _Watch()

        def noted(name: str) -> Callable[..., Any]:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
                watch.last = name
                calls.setdefault(name, Call(args, kwargs, output))
                return (pinned or {}).get(name)

            return hook

        handles = [m.register_forward_hook(noted(name), with_kwargs=True) for name, m in self._leaves.items()]
        handles.append(self.built.model.register_forward_hook(lambda m, args, output: seen.append(output)))
        try:
            with torch.no_grad(), _replayed(), _kept(self.built.model), self._with(values or {}), watch:
                loss = self._loss().item()
        finally:
            for handle in handles:
                handle.remove()
        require(seen, "the loss does not call the model: let it use model(...), whose output is what is looked at")
        return Pass(calls, logits_of(seen[0]).detach(), loss, watch.multiplied, watch.found)

    def step(self) -> None:
        """One step of the optimizer."""
        self.built.model.zero_grad(set_to_none=True)
        with _replayed():
            loss = self._loss()
            loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.built.optimizers:
            optimizer.step()

    def _loss(self) -> Tensor:
        try:
            loss = self.built.loss(self.built.model, self.built.batch)
        except RequestError:
            raise
        except Exception as error:  # the model and the loss are the user's own
            at = f"width {self.built.width}: the model does not run on its batch: {in_a_line(error)}"
            raise RequestError(at) from error
        one = isinstance(loss, Tensor) and loss.numel() == 1
        require(one, f"the loss is a {type(loss).__name__}, not a tensor of one number")
        return loss.reshape(())

    def replay(self, owner: str, call: Call, values: Values) -> Tensor | None:
        """The module's output of that call with `values` in place of tensors, in fp64, or in its own precision where it
        does not compute in that one. None where it gives no floating-point tensor."""
        module = self._owners[owner]
        with torch.no_grad(), self._with(values):
            try:
                with _doubled(module), _replayed():
                    output = module(*_double(call.args), **_double(call.kwargs))
            except RuntimeError:  # a dtype is written into it
                with _kept(module), _replayed():
                    output = module(*call.args, **call.kwargs)
        found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        return found[0].double() if found else None

    @contextmanager
    def _with(self, values: Values) -> Iterator[None]:
        before = {name: self._parameters[name].data for name in values}
        try:
            for name, value in values.items():
                self._parameters[name].data = value.to(before[name])
            yield
        finally:
            for name, data in before.items():
                self._parameters[name].data = data


@contextmanager
def _replayed() -> Iterator[None]:
    """Random numbers are afterwards where they were, so that every pass draws the same (fork_rng sees to every device,
    at a thousand times the price)."""
    generator = torch.default_generator
    state = generator.get_state()
    try:
        yield
    finally:
        generator.set_state(state)


def _double(tree: Any) -> Any:
    return tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, tree)


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Buffers are afterwards what they were."""
    before = [(buffer, buffer.data) for buffer in module.buffers()]
    try:
        for buffer, data in before:
            buffer.data = data.clone()
        yield
    finally:
        for buffer, data in before:
            buffer.data = data


@contextmanager
def _doubled(module: nn.Module) -> Iterator[None]:
    """In fp64 while it lasts; parameters stay the objects that they are, with all that hangs on them."""
    before = [(p, p.data) for p in module.parameters()]
    try:
        with _kept(module):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.double()
            yield
    finally:
        for p, data in before:
            p.data = data


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what matrices are multiplied with each other, and the logits of every attention, fused or written out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.last = ""
        self.multiplied: set[int] = set()
        self.found: dict[str, tuple[float, float]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name()
        if name.startswith("aten::_scaled_dot_product") and "backward" not in name:
            q, k = args[0], args[1]
            scale = kwargs.get("scale") or q.shape[-1] ** -0.5
            if k.shape[1] != q.shape[1]:
                k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
            self._note((q.double() @ k.double().mT).mul(scale), -q.shape[-1])
        elif name in ("aten::_softmax", "aten::_safe_softmax"):
            x = args[0]
            if x.ndim >= 3 and x.shape[-1] == x.shape[-2] and args[1] in (-1, x.ndim - 1):
                self._note(x, x.numel() // x.shape[-1] ** 2)
        elif name in PRODUCTS:
            self.multiplied |= {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        return func(*args, **kwargs)

    def _note(self, logits: Tensor, heads: float) -> None:
        allowed = logits[torch.isfinite(logits) & (logits > -1e4)].double()
        self.found.setdefault(self.last, (allowed.square().mean().sqrt().item(), heads))
