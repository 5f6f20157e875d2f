"""The seeded order in which training reads its samples: a pure function, so that a step number is all the state there
is."""

import functools
import hashlib
from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.entries.last_batches import LAST_BATCHES

Indices = NDArray[np.int64]
Batch = TypeVar("Batch", covariant=True)


_SMALL = 2**16  # samples of an epoch whose order is made at once: a batch's costs more than a small model's step


class Samples(Protocol[Batch]):
    """A split: ``samples[indices]`` is a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Indices) -> Batch: ...


def permute(indices: Indices, size: int, key: int) -> Indices:
    """A pseudo-random permutation of ``range(size)``, evaluated at `indices` in O(1) memory.

    A six-round Feistel network on the smallest even number of bits that holds `size`; values past the end walk on
    along their cycle until they fall inside.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    rounds = [np.uint64(seeded(key, r)) for r in range(6)]

    def encrypt(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> half, x & mask
        for round_key in rounds:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        return (left << half) | right

    values = encrypt(indices.astype(np.uint64))
    while (outside := values >= size).any():
        values[outside] = encrypt(values[outside])
    return values.astype(np.int64)


@functools.lru_cache(maxsize=1024)
def seeded(seed: int, purpose: object) -> int:
    """A 64-bit key for one purpose of a seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every input bit reaches every output bit (arithmetic modulo 2^64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=4)
def _permutation(size: int, key: int) -> Indices:
    return permute(np.arange(size), size, key)


def sample_order(consumed: Indices, size: int, seed: int) -> Indices:
    """The samples that an endless training run reads at the given places of its sequence.

    Place j holds sample ``permute(j mod size)`` of epoch ``j // size``: a pure function of (seed, epoch, j mod size),
    so that the number of consumed samples is all the state there is.
    """
    epochs, offsets = np.divmod(consumed, size)
    order = np.empty_like(consumed)
    for epoch in set(epochs.tolist()):
        members = epochs == epoch
        key, places = seeded(seed, epoch), offsets[members]
        order[members] = _permutation(size, key)[places] if size <= _SMALL else permute(places, size, key)
    return order


def training_batches(
    samples: Samples[Batch],
    *,
    seed: int,
    first_step: int,
    global_batch: int,
    micro_batch: int,
    rank: int,
    world_size: int,
    last_batch: str = "full",
) -> Iterator[Batch]:
    """Endless micro-batches of one rank from optimizer step `first_step` on.

    Step s consumes the samples from the entry of `last_batch` at s to that at s + 1, such as ``s * global_batch ...``,
    whatever the world size; each rank reads a contiguous part. A short batch is one micro-batch of one rank.
    """
    size, step = len(samples), first_step
    while True:
        start, end = (LAST_BATCHES[last_batch](s, size, global_batch) for s in (step, step + 1))
        per_rank = (end - start) // world_size
        mine = start + rank * per_rank
        for first in range(mine, mine + per_rank, micro_batch):
            consumed = np.arange(first, min(first + micro_batch, mine + per_rank))
            yield samples[sample_order(consumed, size, seed)]
        step += 1


def validation_batches(
    samples: Samples[Batch], *, count: int, batch: int, rank: int, world_size: int
) -> Iterator[tuple[Batch, int]]:
    """One rank's share of the split's first `count` samples, in batches of at most `batch`, each with how many of its
    samples count.

    Every rank gets the same number of batches, since a forward pass may be the work of all; where a rank has no sample
    left it gets one that counts for nothing.
    """
    count = min(count, len(samples))
    mine = np.arange(count)[rank::world_size]
    for start in range(0, -(-count // world_size), batch):
        part = mine[start : start + batch]
        yield samples[part if len(part) else np.arange(1)], len(part)
