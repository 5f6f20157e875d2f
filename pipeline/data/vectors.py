"""Vectors with classes: the generated multi-index task and scikit-learn's digits.

Both are small, made in memory, and the same for every run: a run's seed decides the order, not the data.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.order import Indices
from pipeline.data.shards import Split
from pipeline.entries.load import load
from pipeline.entries.vectors import Vectors

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


class Examples:
    """One split: ``examples[indices]`` is x (len, d_in) float32 and class indices (len,) int64."""

    def __init__(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, indices: Indices) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(indices)
        return self.x[rows], self.y[rows]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.x.numpy().tobytes() + self.y.numpy().tobytes()).hexdigest()


def load_examples(vectors: Vectors, split: Split) -> Examples:
    """A split of a data set."""
    return Examples(*load(vectors.arrays)(split))


def multi_index(split: Split, d_in: int = 100, train: int = 1000, test: int = 10_000) -> Arrays:
    """The paper's D.2: x uniform on the unit sphere, label sign(sum_i s_i relu(w_i . x)) with w = e1, e2, -e1, -e2 and
    s = +1, -1, +1, -1, as classes 1 (positive) and 0."""
    generator = np.random.default_rng([0, split == "val"])
    x = generator.standard_normal((train if split == "train" else test, d_in))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    first, second = x[:, 0], x[:, 1]
    value = np.maximum(first, 0) - np.maximum(second, 0) + np.maximum(-first, 0) - np.maximum(-second, 0)
    return x.astype(np.float32), (value > 0).astype(np.int64)


def digits(split: Split) -> Arrays:
    """scikit-learn's 1797 images of 8 x 8 pixels and 10 classes: 1437 to train on, 360 (a fixed draw) to validate with,
    pixels shifted and scaled as one so that the training set has mean 0 and variance 1."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train, val = order[:1437], order[1437:]
    x = (pixels - pixels[train].mean()) / pixels[train].std()
    rows = train if split == "train" else val
    return x[rows].astype(np.float32), labels[rows].astype(np.int64)
