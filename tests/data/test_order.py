"""The seeded permutation, and the order in which training and validation read windows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.config import DataConfig
from pipeline.data.order import permute, sample_order, training_batches, validation_batches
from pipeline.data.preparing.prepare import prepare
from pipeline.data.windows import TokenWindows
from pipeline.entries.last_batches import LAST_BATCHES, steps_of

AWKWARD = [1, 2, 3, 4, 5, 7, 15, 16, 17, 63, 64, 65, 127, 1000, 4095, 4096, 4097, 65_535, 65_536, 65_537, 100_003,
           131_071, 262_143, 262_144, 262_145, 399_989]  # fmt: skip


@pytest.fixture(scope="module")
def folder(text_file: Path) -> Path:
    return prepare(DataConfig(name="corpus", format="text", path=str(text_file), validation_fraction=0.2), 300)


@pytest.mark.parametrize("size", AWKWARD)
def test_permutation_is_bijective(size: int) -> None:
    for key in (0, 1, 2**63, 2**64 - 1):
        assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@pytest.mark.parametrize("size", [3, 1000, 65_537])
def test_permutation_is_evaluated_pointwise(size: int) -> None:
    whole = permute(np.arange(size), size, 7)
    some = np.array([2, size - 1, 2, 0])
    assert np.array_equal(permute(some, size, 7), whole[some])


@pytest.mark.parametrize("size", [2, 3, 7, 12, 16, 17])
def test_permutation_is_uniform(size: int) -> None:
    """Over many keys each index lands everywhere equally often, and neighbours go to independent places."""
    keys = 4000
    images = np.array([permute(np.arange(size), size, key) for key in range(keys)])
    for index in range(size):
        assert stats.chisquare(np.bincount(images[:, index], minlength=size)).pvalue > 1e-5
    pairs = np.bincount(images[:, 0] * size + images[:, 1], minlength=size**2).reshape(size, size)
    off_diagonal = pairs[~np.eye(size, dtype=bool)]
    assert stats.chisquare(off_diagonal).pvalue > 1e-5


@pytest.mark.parametrize("size", [65_537, 262_143, 399_989])
def test_neighbours_of_a_large_permutation_land_apart(size: int) -> None:
    """Every stretch of a thousand places reads from everywhere, and a step's distance looks like that of random
    places."""
    for key in range(3):
        places = permute(np.arange(size), size, key) / size
        for start in range(0, size - 1000, size // 10):
            assert stats.kstest(places[start : start + 1000], "uniform").pvalue > 1e-5
        assert stats.kstest(np.diff(places[::7]) % 1, "uniform").pvalue > 1e-5


def test_every_window_once_per_epoch_in_another_order_each() -> None:
    order = sample_order(np.arange(300), 100, seed=3).reshape(3, 100)
    for epoch in order:
        assert sorted(epoch) == list(range(100))
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(sample_order(np.arange(100), 100, seed=4), order[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_the_global_batch_is_the_same_at_any_world_size(folder: Path, world_size: int, micro_batch: int) -> None:
    windows = TokenWindows(folder, "train", seq_len=16)

    def step(first_step: int, world: int, micro: int) -> torch.Tensor:
        parts = []
        for rank in range(world):
            batches = training_batches(
                windows, seed=1, first_step=first_step, global_batch=8, micro_batch=micro, rank=rank, world_size=world
            )
            parts += [next(batches) for _ in range(8 // (world * micro))]
        return torch.cat(parts)

    steps = len(windows) // 8 + 2  # into the second epoch
    for first_step in (0, 5, steps):
        expected = windows[sample_order(np.arange(8 * first_step, 8 * first_step + 8), len(windows), 1)]
        assert torch.equal(step(first_step, world_size, micro_batch), expected)


def test_resuming_continues_the_sequence(folder: Path) -> None:
    windows = TokenWindows(folder, "train", seq_len=16)
    settings = {"seed": 1, "global_batch": 4, "micro_batch": 2, "rank": 0, "world_size": 1}
    uninterrupted = training_batches(windows, first_step=0, **settings)
    for _ in range(2 * 3):
        next(uninterrupted)
    resumed = training_batches(windows, first_step=3, **settings)
    for _ in range(4):
        assert torch.equal(next(resumed), next(uninterrupted))


class Rows:
    """A split of `size` samples, each its own index."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(indices)


@pytest.mark.parametrize(("size", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3])])
def test_an_epoch_with_a_short_last_batch_is_torchs(size: int, sizes: list[int]) -> None:
    loader = torch.utils.data.DataLoader(range(size), batch_size=4, drop_last=False)
    assert [len(batch) for batch in loader] == sizes
    settings = {"seed": 1, "global_batch": 4, "micro_batch": 4, "rank": 0, "world_size": 1, "last_batch": "short"}
    batches = training_batches(Rows(size), first_step=0, **settings)
    epochs = [[next(batches) for _ in sizes] for _ in range(3)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [sizes] * 3
    for number, epoch in enumerate(epochs):
        assert sorted(torch.cat(epoch).tolist()) == list(range(size)), "every example once"
        places = np.arange(number * size, (number + 1) * size)
        assert torch.cat(epoch).tolist() == sample_order(places, size, 1).tolist(), "in the order of full batches"
    for step in range(3 * len(sizes)):  # resumed anywhere
        expected = [batch for epoch in epochs for batch in epoch][step]
        assert torch.equal(next(training_batches(Rows(size), first_step=step, **settings)), expected)


def test_steps_of_epochs() -> None:
    assert steps_of(1, "short", 10_000, 64) == 157  # the published multi-index runs
    assert steps_of(1, "full", 10_000, 64) == 157
    assert (steps_of(4, "short", 10_000, 64), steps_of(4, "full", 10_000, 64)) == (628, 625)
    assert [LAST_BATCHES["short"](steps, 10, 4) for steps in range(7)] == [0, 4, 8, 10, 14, 18, 20]
    assert [LAST_BATCHES["full"](steps, 10, 4) for steps in range(4)] == [0, 4, 8, 12]


def test_validation_reads_the_same_first_windows_at_any_world_size(folder: Path) -> None:
    windows = TokenWindows(folder, "val", seq_len=16)
    for world_size, per_rank in ((1, 4), (3, 2), (4, 1), (12, 1)):
        shares = [
            list(validation_batches(windows, count=10, batch=3, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        assert [len(share) for share in shares] == [per_rank] * world_size, "a forward pass may be the work of all"
        assert all(1 <= len(batch) <= 3 and size <= len(batch) for share in shares for batch, size in share)
        rows = torch.cat([batch[:size] for share in shares for batch, size in share])
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, windows[np.arange(10)].tolist()))


def test_validation_reads_no_more_than_there_is(folder: Path) -> None:
    windows = TokenWindows(folder, "val", seq_len=16)
    batches = list(validation_batches(windows, count=10**9, batch=64, rank=0, world_size=1))
    assert torch.equal(torch.cat([batch for batch, _ in batches]), windows[np.arange(len(windows))])
    assert sum(size for _, size in batches) == len(windows)
