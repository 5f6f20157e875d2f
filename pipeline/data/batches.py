"""Batches: what training reads, and the sequence that they come in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from pipeline.data.order import Samples, training_batches

Batch: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Windows of tokens (B, T + 1), or examples x (B, d_in) and their classes or real values (B,)."""


class TrainingSamples(Protocol):
    """The endless sequence of training samples, and what it takes, beside the step, to go on in it."""

    def batches(self, *, first_step: int, micro_batch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Micro-batches of one rank from optimizer step `first_step` on."""

    def state(self, step: int) -> Tensor:
        """int64; the ranks' states add up to the whole."""

    def restore(self, step: int, state: Tensor) -> None:
        """Go on from `step`, at which the ranks' states added up to `state`."""

    def close(self) -> None:
        """No more batches will be asked for."""

    def finish(self, steps: int) -> None:
        """Training has ended after so many steps; called in one process, when no rank reads any more."""


@dataclass(frozen=True)
class Shuffled:
    """Samples that lie ready, in the order of the stateless permutation: the step is all the state."""

    samples: Samples[Batch]
    seed: int
    global_batch: int
    last_batch: str = "full"

    def batches(self, *, first_step: int, micro_batch: int, rank: int, world_size: int) -> Iterator[Batch]:
        return training_batches(
            self.samples,
            seed=self.seed,
            first_step=first_step,
            global_batch=self.global_batch,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
            last_batch=self.last_batch,
        )

    def state(self, step: int) -> Tensor:
        return torch.zeros(0, dtype=torch.int64)

    def restore(self, step: int, state: Tensor) -> None:
        pass

    def close(self) -> None:
        pass

    def finish(self, steps: int) -> None:
        pass
