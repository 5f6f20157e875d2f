"""The share of a parameter that one process holds."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Share:
    """A contiguous range of a parameter's elements, in fp32, and where the optimizer's state of it is."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    weights: Tensor
    """1-D, a view: what is copied into it is what trains on."""
    owner: nn.Parameter
    """The tensor under which the torch optimizer keeps its state: the parameter, or a flat one that holds many."""
    offset: int = 0
    """Where the range starts in `owner`, flattened."""
    replicated: bool = False
    """Whether every process holds the same."""


def replica(name: str, parameter: nn.Parameter) -> Share:
    """The share that is the whole parameter."""
    return Share(name, tuple(parameter.shape), 0, flat(parameter), parameter, replicated=True)


def flat(tensor: Tensor) -> Tensor:
    """A 1-D view."""
    return tensor.detach().view(-1)
