"""Files of vectors: every format read back to what was written, and a line for each that is wrong."""

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import RequestError
from pipeline.vectors.find import find, knows, shape, source_files

CODES = {"uint8": 0x08, "int16": 0x0B, "float32": 0x0D}


def idx(array: NDArray[np.generic]) -> bytes:
    header = struct.pack(">BBBB", 0, 0, CODES[str(array.dtype)], array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def images(count: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(
    folder: Path, *, packed: bool = False, train: int = 12, test: int = 5, size: int = 4
) -> dict[str, NDArray[np.uint8]]:
    """The four files of MNIST in small, with three classes."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, count in (("train", train), ("t10k", test)):
        arrays[f"{name}-images-idx3-ubyte"] = images(count, size, size, seed=count)
        arrays[f"{name}-labels-idx1-ubyte"] = (np.arange(count) % 3).astype(np.uint8)
    for name, array in arrays.items():
        content = gzip.compress(idx(array)) if packed else idx(array)
        (folder / (name + ".gz" * packed)).write_bytes(content)
    return arrays


def png(array: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("within", ["", "MNIST/raw"])
def test_idx(packed: bool, within: str, tmp_path: Path) -> None:
    arrays = write_idx(tmp_path / within, packed=packed)
    assert knows(str(tmp_path))
    one = tmp_path / within / ("t10k-labels-idx1-ubyte" + ".gz" * packed)
    for path in (tmp_path, one):
        parts = find(str(path))
        for split, name in (("train", "train"), ("val", "t10k")):
            part = parts[split]  # type: ignore[index]
            assert (part.shape, part.d_in) == ((1, 4, 4), 16)
            assert np.array_equal(part.examples(), arrays[f"{name}-images-idx3-ubyte"])
            assert np.array_equal(part.labels(), arrays[f"{name}-labels-idx1-ubyte"])
    assert shape(str(tmp_path), 0.05) == (16, 3, 12)
    assert [split for split, _ in source_files(str(tmp_path))] == ["train", "train", "val", "val"]


def test_idx_of_floats_without_a_test_part(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)
    (tmp_path / "train-images-idx2-ubyte").write_bytes(idx(x))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx((np.arange(10) % 2).astype(np.int16)))
    parts = find(str(tmp_path))
    assert list(parts) == ["train"]
    assert np.array_equal(parts["train"].examples(), x)
    assert shape(str(tmp_path), 0.2, asked=True) == (4, 2, 8)


@pytest.mark.parametrize(
    "keys", [("x", "y"), ("features", "labels"), ("X", "Y"), ("train_images", "train_labels"), ("data", "target")]
)
def test_npz_pairs(keys: tuple[str, str], tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 6)), np.arange(20) % 4
    np.savez(tmp_path / "a.npz", **{keys[0]: x, keys[1]: y.astype(float)[:, None]})
    part = find(str(tmp_path / "a.npz"))["train"]
    assert np.array_equal(part.examples(), x)
    assert np.array_equal(part.labels(), y)
    assert shape(str(tmp_path / "a.npz"), 0.25) == (6, 4, 15)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("axis", [1, -1])
def test_npz_with_a_test_part_and_colours(save: object, axis: int, tmp_path: Path) -> None:
    x, x_test, y, y_test = images(9, 3, 4, 5), images(4, 3, 4, 5, seed=1), np.arange(9) % 3, np.arange(4)
    save(  # type: ignore[operator]
        tmp_path / "a.npz",
        x_train=np.moveaxis(x, 1, axis), y_train=y, x_test=np.moveaxis(x_test, 1, axis), y_test=y_test,
    )  # fmt: skip
    parts = find(str(tmp_path / "a.npz"))
    assert {part.shape for part in parts.values()} == {(3, 4, 5)}
    assert np.array_equal(parts["train"].examples(), x)
    assert np.array_equal(parts["val"].examples(), x_test)
    assert shape(str(tmp_path / "a.npz"), 0.05) == (60, 4, 9), "a class may be in the test part alone"


def test_cifar_binary(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    x, y = images(7, 3072), np.arange(7, dtype=np.uint8)
    records = np.concatenate([y[:, None], x], axis=1)
    for name, rows in (("data_batch_1", slice(0, 3)), ("data_batch_2", slice(3, 5)), ("test_batch", slice(5, 7))):
        (folder / f"{name}.bin").write_bytes(records[rows].tobytes())
    (folder / "batches.meta.txt").write_text("airplane\n")
    parts = find(str(tmp_path))
    assert np.array_equal(parts["train"].examples(), x[:5].reshape(-1, 3, 32, 32))
    assert np.array_equal(parts["val"].labels(), y[5:])
    assert shape(str(tmp_path), 0.05, d_in=3072, n_classes=10) == (3072, 10, 5)


@pytest.mark.parametrize("grey", [False, True])
def test_parquet_of_images_as_the_hub_has_them(grey: bool, tmp_path: Path) -> None:
    """Among coloured images some may be grey, as in Tiny ImageNet."""
    x = images(8, 4, 5) if grey else images(8, 4, 5, 3)
    content = [png(image) for image in x]
    if not grey:
        content[0] = png(x[0, ..., 0])
        x[0] = x[0, ..., :1]
    rows = {"image": [{"bytes": value, "path": None} for value in content], "label": [i % 3 for i in range(8)]}
    table = pa.table(rows)
    pq.write_table(table.slice(0, 3), tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(3, 3), tmp_path / "train-00001-of-00002.parquet")
    pq.write_table(table.slice(6), tmp_path / "valid-00000-of-00001.parquet")
    parts = find(str(tmp_path))
    expected = x[:, None] if grey else np.moveaxis(x, -1, 1)
    assert np.array_equal(parts["train"].examples(), expected[:6])
    assert np.array_equal(parts["val"].examples(), expected[6:])
    assert parts["train"].labels().tolist() == [0, 1, 2, 0, 1, 2]
    assert parts["train"].d_in == expected[0].size
    assert not knows(str(tmp_path)), "parquet may be text"


@pytest.mark.parametrize("kind", ["list", "nested", "columns", "fixed"])
def test_parquet_of_numbers(kind: str, tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    columns: dict[str, object] = {
        "list": {"features": x.tolist()},
        "nested": {"pixels": x.reshape(4, 2, 3).tolist()},
        "fixed": {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 6)},
        "columns": {f"f{i}": x[:, i] for i in range(6)},
    }[kind]
    pq.write_table(pa.table({**columns, "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")  # type: ignore[dict-item]
    part = find(str(tmp_path / "a.parquet"))["train"]
    assert np.array_equal(part.examples().reshape(4, 6), x)
    assert part.shape == ((1, 2, 3) if kind == "nested" else (6,))


def read_all(path: Path) -> None:
    shape(str(path), 0.05)
    find(str(path))["train"].examples()


def wrong_files(folder: Path) -> dict[str, bytes]:
    archives = {}
    for name, arrays in {
        "pickled.npz": {"x": np.ones((3, 2)), "y": np.array([{}, 1, 2], dtype=object)},
        "pickled_x.npz": {"x": np.array([[{}], [1]], dtype=object), "y": np.zeros(2, int)},
        "lengths.npz": {"x": np.ones((3, 2)), "y": np.zeros(4, int)},
        "negative.npz": {"x": np.ones((3, 2)), "y": np.array([0, -1, 1])},
        "real.npz": {"x": np.ones((3, 2)), "y": np.array([0, 0.5, 1])},
        "words.npz": {"x": np.ones((3, 2)), "y": np.array(["a", "b", "c"])},
        "years.npz": {"x": np.ones((3, 2)), "y": np.array([0, 1, 2024])},
        "flat.npz": {"x": np.ones(3), "y": np.zeros(3, int)},
        "names.npz": {"inputs_a": np.ones((3, 2)), "y": np.zeros(3, int)},
        "good.npz": {"x": np.random.default_rng(0).normal(size=(200, 9)), "y": np.zeros(200, int)},
    }.items():
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        archives[name] = stream.getvalue()
    good = archives.pop("good.npz")
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), table)
    unlabelled = io.BytesIO()
    pq.write_table(pa.table({"image": [b"a"]}), unlabelled)
    broken = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": b"GIF89a", "path": ""}], "label": [0]}), broken)
    ragged = io.BytesIO()
    pq.write_table(pa.table({"x": [[1.0, 2.0], [1.0]], "label": [0, 1]}), ragged)
    missing = io.BytesIO()
    pq.write_table(pa.table({"x": [[1.0, 2.0], [1.0, 3.0]], "label": [0, None]}), missing)
    return archives | {
        "torn.npz": good[: len(good) // 2],
        "text.npz": b"no archive",
        "flipped.npz": good[:3000] + b"\xff" * 50 + good[3050:],
        "text.parquet": table.getvalue(),
        "unlabelled.parquet": unlabelled.getvalue(),
        "broken.parquet": broken.getvalue(),
        "ragged.parquet": ragged.getvalue(),
        "missing.parquet": missing.getvalue(),
        "torn.parquet": table.getvalue()[:-20],
        "data_batch_1.bin": b"\0" * 3000,
        "data_batch_1": pickle.dumps({b"data": 1}),
        "a.pkl": pickle.dumps(1),
        "notes.md": b"nothing",
    }


WRONG = {
    "pickled.npz": ", y: Python objects (a pickle), which are not read: save it as an array of numbers",
    "pickled_x.npz": ", x: Python objects (a pickle), which are not read",
    "lengths.npz": ": labels of shape [4] do not go with 3 examples",
    "negative.npz": ": labels are to be class indices 0, 1, ..., and -1 is none",
    "real.npz": ": labels are to be class indices 0, 1, ..., and [0.5] is none",
    "words.npz": ": labels are to be class indices 0, 1, ..., not <U1",
    "years.npz": ": label 2024 is out of range: class indices are 0 to 2",
    "flat.npz": ", x: examples are to be vectors",
    "names.npz": " has the arrays inputs_a, y: call them x and y, features and labels, or",
    "torn.npz": " cannot be read as .npz, damaged or truncated",
    "text.npz": " cannot be read as .npz, damaged or truncated",
    "flipped.npz": " cannot be read as .npz, damaged or truncated",
    "text.parquet": " has no column of examples (text, label): call it image or features",
    "unlabelled.parquet": " has no column of labels (image): call it label",
    "broken.parquet": " has an image that cannot be read",
    "ragged.parquet": ": examples are to be of one shape",
    "missing.parquet": ", column label: 1 labels are missing",
    "torn.parquet": " cannot be read as parquet, damaged or truncated",
    "data_batch_1.bin": " is truncated, or not CIFAR-10's",
    "data_batch_1": " is a Python pickle, which is not read: give CIFAR-10's binary version (data_batch_1.bin ...)",
    "a.pkl": " is a Python pickle, which is not read",
    "notes.md": " holds notes.md ..., and no vectors that are read: IDX with the names of MNIST's files",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(wrong_files(tmp_path)[name])
    with pytest.raises(RequestError) as error:
        read_all(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}{WRONG[name]}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "is truncated: 191 bytes of values, and its header says 192"),
        ("train-images-idx3-ubyte", lambda b: b + b"\0", "is too long: 193 bytes of values"),
        ("train-images-idx3-ubyte", lambda b: b[:10], "is truncated: it ends within its header"),
        ("train-images-idx3-ubyte", lambda b: b"\x1f\x8b" + b, "is not an IDX file"),
        ("train-labels-idx1-ubyte", lambda b: b"", "is not an IDX file"),
        ("train-labels-idx1-ubyte", None, "no train labels beside it"),
        (
            "t10k-labels-idx1-ubyte",
            lambda b: idx(np.zeros(4, np.uint8)),
            "labels of shape [4] do not go with the 5 examples",
        ),
    ],
)
def test_wrong_idx_is_one_line(name: str, content: object, line: str, tmp_path: Path) -> None:
    write_idx(tmp_path)
    path = tmp_path / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(RequestError) as error:
        read_all(tmp_path)
    assert line in str(error.value)


@pytest.mark.parametrize("keep", [12, 60, -4])
def test_torn_gzip_is_one_line(keep: int, tmp_path: Path) -> None:
    write_idx(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RequestError, match=r"train-images-idx3-ubyte\.gz cannot be read, damaged or truncated"):
        find(str(tmp_path))["train"].examples()


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--data\.path .*/gone\.npz: no such file"):
        shape(str(tmp_path / "gone.npz"), 0.05)
    with pytest.raises(RequestError, match="holds nothing, and no vectors that are read"):
        shape(str(tmp_path), 0.05)
    assert source_files(str(tmp_path / "gone.npz")) == []


@pytest.mark.parametrize("path", ["", "train/cat/0.JPEG"])
def test_folders_of_image_files_are_one_line(path: str, tmp_path: Path) -> None:
    """As Tiny ImageNet's archive has them."""
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "cat" / "0.JPEG")
    with pytest.raises(
        RequestError, match=r"holds image files, such as 0\.JPEG, .* pack them once, as by numpy\.savez"
    ):
        find(str(tmp_path / path))


def test_known_sizes_are_held_to(tmp_path: Path) -> None:
    write_idx(tmp_path)
    with pytest.raises(RequestError, match="its examples have 16 values, not 784"):
        shape(str(tmp_path), 0.05, d_in=784, n_classes=10)
    with pytest.raises(RequestError, match="label 2 is out of range: class indices are 0 to 1"):
        shape(str(tmp_path), 0.05, n_classes=2)
    with pytest.raises(RequestError, match="validation_fraction is for files without a test part"):
        shape(str(tmp_path), 0.1, asked=True)
