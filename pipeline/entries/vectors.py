"""Data sets of vectors with classes: one entry each, by its `data.format` name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vectors:
    """A data set that is the same for every run: made in memory, or read from files (`pipeline.vectors`)."""

    name: str
    d_in: int = 0
    n_classes: int = 0
    n_train: int = 0
    """Examples to train on. 0 here and above: follows from the files."""
    arrays: str = ""
    """Of what is made in memory: ``module:function`` of a split, ``train`` or ``val``, that returns x (n, d_in) float32
    and class indices (n,) int64."""
    values: str = ""
    """The same with real values (n,) float32 instead of classes, where there are any: what a scalar loss learns."""
    channels: int = 0
    """Of images; 0: follows from the files."""
    repo: str = ""
    """Where the hub has it, without --data.path: a dataset repository ..."""
    files: str = ""
    """... and a glob of its parquet files."""
    folder: str = ""
    """Where a package of the system puts it, which is looked at before the hub."""

    @property
    def from_files(self) -> bool:
        return not self.arrays


VECTORS: dict[str, Vectors] = {
    entry.name: entry
    for entry in (
        Vectors("digits", 64, 10, 1437, "pipeline.data.vectors:digits"),
        Vectors(
            "multi_index",
            100,
            2,
            1000,
            "pipeline.data.vectors:multi_index",
            "pipeline.data.vectors:multi_index_values",
        ),
        Vectors(
            "multi_index_published",
            100,
            2,
            10_000,
            "pipeline.data.vectors:multi_index_published",
            "pipeline.data.vectors:multi_index_published_values",
        ),
        Vectors("mnist", 28 * 28, 10, 60_000, channels=1, repo="ylecun/mnist", files="mnist/*.parquet"),
        Vectors(
            "fashion_mnist",
            28 * 28,
            10,
            60_000,
            channels=1,
            repo="zalando-datasets/fashion_mnist",
            files="fashion_mnist/*.parquet",
            folder="/usr/share/datasets/fashion-mnist",  # Debian's dataset-fashion-mnist
        ),
        Vectors("cifar10", 3 * 32 * 32, 10, 50_000, channels=3, repo="uoft-cs/cifar10", files="plain_text/*.parquet"),
        Vectors(
            "tiny_imagenet", 3 * 64 * 64, 200, 100_000, channels=3, repo="zh-plus/tiny-imagenet", files="data/*.parquet"
        ),
        Vectors("vectors"),
    )
}
