"""Vectors with classes: the generated multi-index task, scikit-learn's digits, and what files hold.

All are the same for every run: a run's seed decides the order, not the data.
"""

import functools
import gzip
import hashlib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.order import Indices, permute, seeded
from pipeline.data.shards import Split
from pipeline.entries.load import load
from pipeline.entries.vectors import Vectors
from pipeline.sealed import read_sealed

Arrays = tuple[NDArray[np.float32], NDArray[Any]]

MANIFEST = "manifest.json"
"""Of a folder of prepared vectors: `arrays`, their sha256 by the names of their files, and what x is shifted and
scaled by: `shift` and `scale`, a number for each of equal parts of a vector."""


class Examples:
    """One split: ``examples[indices]`` is x (len, d_in) float32 and class indices (len,) int64, or real values (len,)
    float32.

    x may be of any type, and a memory map; rows are shifted and scaled when they are read.
    """

    def __init__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        shift: Tensor | None = None,
        scale: Tensor | None = None,
        x_sha256: str | None = None,
    ) -> None:
        """`shift` and `scale`: (d_in,), x becomes (x - shift) / scale; `x_sha256` stands for all three where it is
        known."""
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self._shift, self._scale, self._x_sha256 = shift, scale, x_sha256

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, indices: Indices) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(indices)
        x = self.x.index_select(0, rows).float()
        if self._shift is not None and self._scale is not None:
            x = x.sub_(self._shift).div_(self._scale)
        return x, self.y.index_select(0, rows)

    @functools.cached_property
    def sha256(self) -> str:
        content = self._x_sha256.encode() if self._x_sha256 else self.x.numpy().tobytes()
        return hashlib.sha256(content + self.y.numpy().tobytes()).hexdigest()


def load_examples(
    vectors: Vectors, split: Split, *, label_noise: float = 0.0, values: bool = False, folder: Path | None = None
) -> Examples:
    """A split of a data set that is made in memory, or of the prepared `folder` of one from files.

    `label_noise`: the share of the training examples whose class is drawn anew. `values`: real targets, not classes.
    """
    if folder is None:
        return _made(vectors, split, label_noise if split == "train" else 0.0, values)
    manifest = read_sealed(folder / MANIFEST)
    # copy on write: torch takes nothing that is read-only, and pages stay shared as long as nobody writes
    x = np.load(folder / f"{split}-x.npy", mmap_mode="c", allow_pickle=False)
    y = np.load(folder / f"{split}-y.npy", allow_pickle=False)
    shift, scale = (
        torch.tensor(manifest[key], dtype=torch.float32).repeat_interleave(x.shape[1] // len(manifest[key]))
        for key in ("shift", "scale")
    )
    known = f"{manifest['arrays'][f'{split}-x.npy']} {manifest['shift']} {manifest['scale']}"
    return Examples(x, _noisy(y, label_noise, vectors.n_classes) if split == "train" else y, shift, scale, known)


@functools.lru_cache(maxsize=4)  # the runs of a study read the same
def _made(vectors: Vectors, split: Split, label_noise: float, values: bool) -> Examples:
    x, y = load(vectors.values if values else vectors.arrays)(split)
    return Examples(x, _noisy(y, label_noise, vectors.n_classes))


def _noisy(classes: NDArray[np.int64], share: float, n_classes: int) -> NDArray[np.int64]:
    """With a `share` of them drawn anew, uniformly from all classes: a larger share replaces the same and more."""
    if not share:
        return classes
    count = len(classes)
    drawn = np.random.default_rng(1).integers(n_classes, size=count)
    replaced = permute(np.arange(count), count, seeded(0, "label noise")) < round(share * count)
    return np.where(replaced, drawn, classes)


def multi_index(split: Split, d_in: int = 100, train: int = 1000, test: int = 10_000) -> Arrays:
    """The paper's D.2: x uniform on the unit sphere, label sign(sum_i s_i relu(w_i . x)) with w = e1, e2, -e1, -e2 and
    s = +1, -1, +1, -1, as classes 1 (positive) and 0."""
    x, values = multi_index_values(split, d_in, train, test)
    return x, (values > 0).astype(np.int64)


def multi_index_values(split: Split, d_in: int = 100, train: int = 1000, test: int = 10_000) -> Arrays:
    """The same with the sum itself, the teacher's real value, instead of its sign."""
    generator = np.random.default_rng([0, split == "val"])
    x = generator.standard_normal((train if split == "train" else test, d_in))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    first, second = x[:, 0], x[:, 1]
    value = np.maximum(first, 0) - np.maximum(second, 0) + np.maximum(-first, 0) - np.maximum(-second, 0)
    return x.astype(np.float32), value.astype(np.float32)


def multi_index_published(split: Split) -> Arrays:
    """In the sizes of the published code: 10 000 training and 1000 test points."""
    return multi_index(split, train=10_000, test=1000)


def multi_index_published_values(split: Split) -> Arrays:
    """In the sizes of the published code."""
    return multi_index_values(split, train=10_000, test=1000)


_DIGITS = "sklearn/datasets/data/digits.csv.gz"
"""Read as `sklearn.datasets.load_digits` does: importing that takes as long as training on them."""


def digits(split: Split) -> Arrays:
    """scikit-learn's 1797 images of 8 x 8 pixels and 10 classes: 1437 to train on, 360 (a fixed draw) to validate with,
    pixels shifted and scaled as one so that the training set has mean 0 and variance 1."""
    with gzip.open(str(distribution("scikit-learn").locate_file(_DIGITS)), "rt") as stream:
        pixels, labels = np.hsplit(np.loadtxt(stream, delimiter=","), [64])
    labels = labels.ravel()
    order = np.random.default_rng(0).permutation(len(labels))
    train, val = order[:1437], order[1437:]
    x = (pixels - pixels[train].mean()) / pixels[train].std()
    rows = train if split == "train" else val
    return x[rows].astype(np.float32), labels[rows].astype(np.int64)
