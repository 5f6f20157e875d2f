"""Parquet: a column of images or vectors, as the Hugging Face hub has them, or a column per feature; and labels."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import RequestError, require
from pipeline.vectors.part import Part, Split, channels_first, class_indices, split_of

X = ("image", "img", "x", "features", "pixel_values", "pixels", "data", "vector")
Y = ("label", "labels", "fine_label", "y", "target", "class")
ROWS = 1000  # that are decoded at once
FIRST = 100  # that are looked at for their shape: among coloured images some may be grey


def parts(files: Sequence[Path]) -> dict[Split, Part]:
    """Of files whose names say train, test or val; one that says nothing is to train on. Raises `RequestError`."""
    of: dict[Split, list[Path]] = {"train": [], "val": []}
    for path in sorted(files):
        of[split_of(path.name) or "train"].append(path)
    require(of["train"], f"{files[0]}: no parquet file to train on beside it")
    return {split: _part(tuple(paths)) for split, paths in of.items() if paths}


def _part(files: tuple[Path, ...]) -> Part:
    columns, y = _columns(files[0])
    counts = [_open(path).metadata.num_rows for path in files]
    require(all(counts), f"{files[0]} has no rows")
    first = next(_decoded(files[0], columns, FIRST))

    def labels() -> NDArray[np.int64]:
        read = [_column(path, y) for path in files]
        return np.concatenate([class_indices(*pair) for pair in zip(read, counts, files, strict=True)])

    def examples() -> NDArray[Any]:
        array, start = np.empty((sum(counts), *first.shape[1:]), first.dtype), 0
        for path in files:
            for rows in _decoded(path, columns, ROWS):
                grey = (1, *first.shape[2:])
                if rows.shape[1:] not in (first.shape[1:], grey) or not np.can_cast(rows.dtype, array.dtype):
                    raise RequestError(
                        f"{path} has examples of {_shape(rows)}, and {files[0]} begins with {_shape(first)}"
                    )
                array[start : start + len(rows)] = rows
                start += len(rows)
        return array

    return Part(files, sum(counts), first.shape[1:], labels, examples)


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _columns(path: Path) -> tuple[list[str], str]:
    """The column of examples, or those of their features, and that of the labels."""
    schema = _open(path).schema_arrow
    labels = next((name for name in Y if name in schema.names), None)
    if labels is None:
        raise RequestError(f"{path} has no column of labels ({', '.join(schema.names)}): call it label")
    if whole := next((name for name in X if name in schema.names), None):
        return [whole], labels
    rest = [name for name in schema.names if name != labels]
    numbers = [name for name in rest if pa.types.is_integer(t := schema.field(name).type) or pa.types.is_floating(t)]
    if not rest or numbers != rest:
        raise RequestError(f"{path} has no column of examples ({', '.join(schema.names)}): call it image or features")
    return rest, labels


def _column(path: Path, name: str) -> NDArray[Any]:
    try:
        column = pq.read_table(path, columns=[name]).column(0)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    require(not column.null_count, f"{path}, column {name}: {column.null_count} labels are missing")
    return np.asarray(column.to_numpy())


def _decoded(path: Path, columns: list[str], rows: int) -> Iterator[NDArray[Any]]:
    """Examples, `rows` at a time."""
    try:
        for batch in _open(path).iter_batches(rows, columns=columns):
            arrays = batch.columns
            if any(array.null_count for array in arrays):
                raise RequestError(f"{path} has rows without a value")
            if len(columns) > 1 or pa.types.is_primitive(arrays[0].type):
                yield np.stack([np.asarray(array) for array in arrays], axis=1)
            else:
                yield _of_a_column(path, arrays[0])
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _of_a_column(path: Path, column: Any) -> NDArray[Any]:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_struct(column.type):  # the hub's images, in their files' formats
        column = column.field("bytes")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        images = [_pixels(path, value.as_py()) for value in column]
        channels = max(len(image) for image in images)
        return _stacked(path, [np.broadcast_to(image, (channels, *image.shape[1:])) for image in images])
    shape = [len(column)]
    while (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        require(len(lengths) == 1, f"{path}: examples are to be of one shape, and have {lengths[:2]} values")
        shape, column = [*shape, *lengths], column.flatten()
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    require(numbers and len(shape) > 1, f"{path}: examples are to be images or lists of numbers, not {column.type}")
    return channels_first(np.asarray(column).reshape(shape))


def _stacked(path: Path, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    shapes = sorted({image.shape for image in images})
    require(len(shapes) == 1, f"{path}: examples are to be of one shape, not {' and '.join(map(str, shapes[:2]))}")
    return np.stack(images)


def _shape(rows: NDArray[Any]) -> str:
    return f"{' x '.join(map(str, rows.shape[1:]))} {rows.dtype}"


def _pixels(path: Path, content: bytes | None) -> NDArray[np.uint8]:
    """(channels, rows, columns), 1 or 3 channels."""
    from PIL import Image, UnidentifiedImageError

    require(content, f"{path} names image files that it does not hold: its column of images needs their bytes")
    assert content is not None
    try:
        image = Image.open(io.BytesIO(content))
        array = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise RequestError(f"{path} has an image that cannot be read ({error})") from None
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _damaged(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path} cannot be read as parquet, damaged or truncated ({' '.join(str(error).split())})")
