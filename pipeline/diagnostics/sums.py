"""Sums that become means once they are added up over data-parallel ranks.

Shapes: M names of means, L names of largest values, R ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all ranks."""
Number = Tensor | float


class Sums:
    """Totals and counts by name, largest values, and vectors that just add up: in fp64, brought together at the end, so
    that an accelerator is not made to wait for each.

    All ranks have to name the same things in the same order; what a rank has no share in, it adds with count 0.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._means: dict[str, tuple[list[Number], list[Number]]] = {}
        self._largest: dict[str, list[Tensor]] = {}
        self._vectors: dict[str, Tensor] = {}

    def add(self, key: str, total: Number, count: Number) -> None:
        totals, counts = self._means.setdefault(key, ([], []))
        totals.append(total)
        counts.append(count)

    def largest(self, key: str, value: Tensor) -> None:
        """Of values that are not negative."""
        self._largest.setdefault(key, []).append(value)

    def vector(self, key: str, value: Tensor) -> None:
        self._vectors[key] = self._vectors[key] + value if key in self._vectors else value

    def reduced(self, reduce: Reduce, rank: int, world: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Means and largest values by name, without those of nothing at all, and the vectors: over all ranks."""
        means_M2 = self._totals()
        largest_RL = torch.zeros(world, len(self._largest), dtype=torch.float64, device=self.device)
        for i, values in enumerate(self._largest.values()):
            largest_RL[rank, i] = torch.stack(values).max()
        vectors = {key: total.double() for key, total in self._vectors.items()}
        sizes = [means_M2.numel(), largest_RL.numel(), *(vector.numel() for vector in vectors.values())]
        total = reduce(torch.cat([means_M2.flatten(), largest_RL.flatten(), *vectors.values()])).cpu()
        first, second, *rest = torch.split_with_sizes(total, sizes)
        values_by_name = {
            key: number / count
            for key, (number, count) in zip(self._means, first.view(-1, 2).tolist(), strict=True)
            if count
        }
        if self._largest:
            values_by_name |= zip(self._largest, second.view(world, -1).amax(0).tolist(), strict=True)
        return values_by_name, dict(zip(vectors, rest, strict=True))

    def _totals(self) -> Tensor:
        """(M, 2): totals and counts."""
        numbers: list[Tensor] = []
        places: list[int] = []
        total = torch.zeros(2 * len(self._means), dtype=torch.float64)
        for i, pair in enumerate(self._means.values()):
            for j, values in enumerate(pair):
                for value in values:
                    if isinstance(value, Tensor):
                        numbers.append(value.detach().double())
                        places.append(2 * i + j)
                    else:
                        total[2 * i + j] += value
        total = total.to(self.device)
        if numbers:
            total.index_add_(0, torch.tensor(places, device=self.device), torch.stack(numbers).to(self.device))
        return total
