"""Data sets of vectors with classes: one entry each, by its `data.format` name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vectors:
    """A data set that is small enough for memory, and the same for every run."""

    name: str
    d_in: int
    n_classes: int
    arrays: str
    """``module:function`` of a split, ``train`` or ``val``, that returns x (n, d_in) float32 and class indices (n,)
    int64."""


VECTORS: dict[str, Vectors] = {
    entry.name: entry
    for entry in (
        Vectors("digits", 64, 10, "pipeline.data.vectors:digits"),
        Vectors("multi_index", 100, 2, "pipeline.data.vectors:multi_index"),
    )
}
