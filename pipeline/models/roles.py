"""A role and a base initialization for every tensor of a model, decided by the module that owns it.

`Role` says how a tensor's initial std and learning rate move with width (`pipeline.parameterization.rules`). A tensor
that no owner claims, or that two owners claim (tied weights), is an error, never a guess.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.parameterization.depth import Place
from pipeline.parameterization.rules import Role


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's role, its initial distribution N(init_mean, init_std^2) at the base width, and its place. `blocks`:
    numbers of its rows that are matrices of their own to Muon; empty: it is one."""

    role: Role
    init_std: float
    init_mean: float = 0.0
    place: Place = "trunk"
    blocks: tuple[int, ...] = ()


Claim = tuple[Tensor, TensorSpec]


class Readout(nn.Linear):
    """The last layer of a model. Its forward hands the hidden states on: the loss applies the weight, a chunk at a
    time, and normalizes each position's logits where `normalize` says so."""

    normalize: bool = False

    def forward(self, input: Tensor) -> Tensor:
        return input


def linear(
    module: nn.Linear, role: Role, init_std: float, place: Place = "trunk", blocks: tuple[int, ...] = ()
) -> Iterator[Claim]:
    """A matrix of the given role; its bias starts at zero and grows with n unless the module is the readout."""
    yield module.weight, TensorSpec(role, init_std, place=place, blocks=blocks)
    if module.bias is not None:
        yield module.bias, TensorSpec("finite" if role == "output" else "vector", 0.0, place=place)


def norm(module: nn.Module | None, role: Role, place: Place = "trunk") -> Iterator[Claim]:
    """Gains (an effective one) and biases (zero) of a normalization layer, if it has any."""
    gain, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(gain, Tensor):
        offset = getattr(module, "add_unit_offset", False)  # litgpt's RMSNorm for Gemma multiplies by 1 + weight
        yield gain, TensorSpec(role, 0.0, init_mean=0.0 if offset else 1.0, place=place)
    if isinstance(bias, Tensor):
        yield bias, TensorSpec(role, 0.0, place=place)


def freeze_(tensors: Iterable[Tensor]) -> None:
    """They keep their initial values: without gradient, in no group of the optimizer."""
    for tensor in tensors:
        tensor.requires_grad_(False)


def matrix_flops(modules: Iterable[nn.Module]) -> int:
    """Floating-point operations per position of the linear layers among `modules`, in the order of the forward pass: 2
    per weight forward, and 2 each for its gradient, where it is trained, and for its input's, where anything before it
    is."""
    flops, before = 0, False
    for module in modules:
        own = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Linear):
            flops += 2 * module.weight.numel() * (1 + module.weight.requires_grad + before)
        before |= own
    return flops


def by_name(model: nn.Module, claims: Iterable[Claim]) -> dict[str, TensorSpec]:
    """Specs by parameter name, in the model's order; every tensor claimed exactly once.

    Raises `ValueError` naming the tensors that no claim, or more than one, covers.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    specs: dict[str, TensorSpec] = {}
    for tensor, spec in claims:
        name = names[id(tensor)]
        if name in specs:
            raise ValueError(
                f"{name} is used in two places ({specs[name].role} and {spec.role}): tied tensors have no one role"
            )
        specs[name] = spec
    missing = [name for name in names.values() if name not in specs]
    if missing:
        raise ValueError(f"no role for {', '.join(missing)}")
    return {name: specs[name] for name in names.values()}
