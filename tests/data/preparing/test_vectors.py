"""Prepared vectors: normalized, split, kept, found again by content, from files here or on the hub; and runs on them."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.cli.arguments import parse
from pipeline.cli.main import main
from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.data.open import open_data
from pipeline.data.preparing.vectors import prepare_vectors, whole
from pipeline.entries.vectors import VECTORS
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.training.trainer import train
from tests.support.hub_server import HubServer, serving
from tests.vectors.test_find import png, write_idx

DEBIAN = Path(VECTORS["fashion_mnist"].folder)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """200 rows of features of different size, three classes."""
    generator = np.random.default_rng(0)
    y = generator.integers(3, size=200)
    x = generator.normal(size=(200, 6)) * 10.0 ** np.arange(-2, 4) + 5 + y[:, None]
    x[:, 5] = 7.0
    np.savez(tmp_path / "table.npz", x=x, y=y)
    return tmp_path / "table.npz"


def run(path: Path, **changes: object) -> RunConfig:
    data = {key.removeprefix("data_"): changes.pop(key) for key in list(changes) if key.startswith("data_")}
    settings = {
        "width": 16, "base_width": 16, "lr": 0.1, "optimizer": "sgd", "steps": 5, "warmup_steps": 0, "global_batch": 32,
        "grad_clip": None, "val_sequences": 1000, "out": str(path.parent / "runs"), "wandb": "disabled",
        "model": ModelConfig(kind="mlp", n_layer=2), "data": DataConfig("mine", "vectors", str(path), **data),
    }  # fmt: skip
    return RunConfig(**(settings | changes))


def all_of(split: object) -> tuple[torch.Tensor, torch.Tensor]:
    return split[np.arange(len(split))]  # type: ignore[arg-type, index, no-any-return]


@pytest.mark.parametrize("normalize", ["all", "feature", "none"])
def test_a_file_is_split_and_normalized_by_its_training_examples(table: Path, normalize: str) -> None:
    config = run(table, data_normalize=normalize, data_validation_fraction=0.25)
    data = open_data(config)
    x, y = all_of(data.train.samples)  # type: ignore[attr-defined]
    x_val, y_val = all_of(data.val)
    assert (len(x), len(x_val)) == (150, 50)
    assert config.data.vectors is not None
    assert (config.data.vectors.d_in, config.data.vectors.n_classes, config.data.vectors.n_train) == (6, 3, 150)
    if normalize == "none":
        raw = np.load(table)
        label_of = {
            tuple(row): label for row, label in zip(raw["x"].astype(np.float32).tolist(), raw["y"], strict=True)
        }
        rows = list(map(tuple, torch.cat([x, x_val]).tolist()))
        assert set(rows) == set(label_of), "every row once"
        assert [label_of[row] for row in rows] == [*y.tolist(), *y_val.tolist()]
    elif normalize == "all":
        assert (x.mean().item(), x.std(correction=0).item()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, rel=1e-5))
        assert x.std(0).max() > 10 * x.std(0)[0]
    else:
        assert x.mean(0).abs().max() < 1e-5
        assert x.std(0, correction=0)[:5].sub(1).abs().max() < 1e-5
        assert x[:, 5].abs().max() == 0, "what does not vary is shifted alone"


def test_images_stay_bytes_and_are_normalized_by_channel(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 50, (40, 3, 4, 4)) + np.array([0, 80, 200])[None, :, None, None]
    np.savez(tmp_path / "images.npz", x_train=pixels.astype(np.uint8), y_train=np.arange(40) % 4,
             x_test=pixels[:8].astype(np.uint8), y_test=np.arange(8) % 4)  # fmt: skip
    config = run(tmp_path / "images.npz")
    data = open_data(config)
    samples = data.train.samples  # type: ignore[attr-defined]
    assert samples.x.dtype == torch.uint8
    x, _ = all_of(samples)
    channels = x.view(40, 3, 16)
    assert channels.mean((0, 2)).abs().max() < 1e-5
    assert channels.std((0, 2), correction=0).sub(1).abs().max() < 1e-5
    assert torch.equal(all_of(data.val)[0], x[:8]), "validated with what training examples say"


def test_a_folder_is_made_once_found_by_content_and_made_again_where_damaged(table: Path, tmp_path: Path) -> None:
    config = run(table)
    folder = prepare_vectors(config.data)
    made = (folder / "train-x.npy").stat().st_ino
    copy = tmp_path / "elsewhere" / "other.npz"
    copy.parent.mkdir()
    shutil.copy(table, copy)
    other = run(copy, out=config.out)
    assert other.run_name == config.run_name, "the same file elsewhere is the same run"
    assert prepare_vectors(other.data) == folder
    assert (folder / "train-x.npy").stat().st_ino == made
    assert open_data(other).fingerprint == open_data(config).fingerprint
    content = bytearray((folder / "train-x.npy").read_bytes())
    content[-1] ^= 1
    (folder / "train-x.npy").write_bytes(content)
    assert not whole(folder)
    assert prepare_vectors(config.data) == folder
    assert whole(folder)
    assert not list(folder.parent.glob(".*-????????")), "nothing is left over"
    np.savez(copy, x=np.load(table)["x"] + 1, y=np.load(table)["y"])
    assert run(copy, out=config.out).run_name != config.run_name


def test_what_changes_the_examples_changes_the_run(table: Path) -> None:
    names = {
        run(table, **changes).run_name
        for changes in ({}, {"data_normalize": "feature"}, {"data_label_noise": 0.1}, {"data_validation_fraction": 0.1})
    }
    assert len(names) == 4


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf, 1e300):
        x = np.ones((6, 2))
        x[3, 1] = value
        np.savez(tmp_path / "a.npz", x_train=x, y_train=np.zeros(6, int), x_test=x[:2], y_test=np.zeros(2, int))
        with pytest.raises(RequestError, match=r"a\.npz: example \[3\] has values that are not finite"):
            open_data(run(tmp_path / "a.npz"))


def test_a_run_on_a_file_needs_it_no_more_when_it_is_read(table: Path) -> None:
    config = run(table)
    result = train(config, show_progress=False)
    assert result.final["final_train_accuracy"] is not None
    folder = RunDir(config.run_dir)
    table.unlink()
    again = folder.config()
    assert (again.n_classes, again.d_out) == (3, 3)
    assert again.data.vectors is not None
    assert again.data.vectors.d_in == 6
    with pytest.raises(RequestError, match=r"table\.npz: no such file"):
        open_data(again)


def test_a_recorded_shape_of_other_files_is_refused(table: Path) -> None:
    config = run(table)
    stale = dataclasses.replace(config, data=dataclasses.replace(config.data, d_in=9))
    with pytest.raises(RequestError, match="--data mine has 6 values per example in its files, and in the settings 9"):
        open_data(stale)


def test_flags(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mlp = ["train", "--config", "mlp-digits", "--dry_run"]
    assert main([*mlp, "--data", "table.npz", "--epochs", "2", "--global_batch", "64", "--last_batch", "short"]) == 0
    out = capsys.readouterr().out
    assert "# tokens      380 (6 steps of 64)" in out
    assert "\nsteps: 6\nepochs: null\n" in out
    for flags, line in (
        (["--data", "table.npz", "--steps", "3", "--epochs", "1"], "--steps and --epochs exclude each other: give one"),
        (["--data", "gone.npz"], "--data gone.npz: no such file"),
        (["--data", "mnist", "--data.path", "table.npz"], "table.npz: its examples have 6 values, not 784"),
        (["--data", "mnist", "--data.validation_fraction", "0.2"], "--data.validation_fraction is for text that"),
        (["--data", "digits", "--data.normalize", "none"], "--data.normalize is for files of vectors, and not for digits"),
        (["--data", "digits", "--data.label_noise", "1.5"], "--data.label_noise must be 0..1, got 1.5"),
        (["--data", "digits", "--loss", "mse_scalar"], "--loss mse_scalar needs data with real targets, such as multi-index"),
        (["--data.format", "vectors"], "--data.format vectors needs --data.path"),
        (["--data", "table.npz", "--last_batch", "short", "--micro_batch", "8"], "--last_batch short needs one process, and"),
        (["--data", "digits", "--loss", "softmax_mse_sum", "--micro_batch", "auto"], "is a sum over the micro-batch: give"),
        (["--data", "multi-index", "--loss", "mse_scalar", "--data.label_noise", "0.1"], "--data.label_noise replaces classes"),
        (["--data", "multi-index", "--loss", "mse_scalar", "--z_loss", "0.1"], "--z_loss is for losses of several outputs"),
        (["--data", "digits", "--epochs", "0"], "--epochs must be at least 1, got 0"),
    ):  # fmt: skip
        assert main([*mlp, *flags]) == 2, flags
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
    for flags, line in (
        (["--epochs", "1"], "--epochs is for vectors with classes, and sotu is text: give --steps"),
        (["--last_batch", "short"], "--last_batch short is for vectors with classes"),
        (["--data.label_noise", "0.1"], "--data.label_noise is for vectors with classes"),
    ):
        assert main(["train", "--dry_run", *flags]) == 2
        assert line in capsys.readouterr().err


def test_steps_and_epochs_take_each_others_place(table: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 3\nglobal_batch: 64\nwarmup_steps: 0\nmodel: {kind: mlp}\ndata: digits\n")
    (tmp_path / "b.yaml").write_text("steps: 5\n")
    recipe = ["--config", str(tmp_path / "a.yaml")]

    def steps(*flags: str) -> int:
        return int(parse("train", [*recipe, *flags])[0].steps)

    assert (steps(), steps("--steps", "7"), steps("--config", str(tmp_path / "b.yaml"))) == (68, 7, 5)
    assert steps("--config", str(tmp_path / "b.yaml"), "--epochs", "1") == 23
    assert steps("--global_batch", "1437") == 3
    by_epochs, by_steps = (parse("train", [*recipe, *flags])[0] for flags in ([], ["--steps", "68"]))
    assert by_epochs.run_name == by_steps.run_name
    (tmp_path / "c.yaml").write_text("steps: 5\nepochs: 1\n")
    with pytest.raises(RequestError, match=r"steps and .*epochs exclude each other"):
        steps("--config", str(tmp_path / "c.yaml"))


# ---------------------------------------------------------------------------------------------------------------------
# Named sets


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(VECTORS["mnist"], d_in=16, n_classes=3, n_train=12)
    monkeypatch.setitem(VECTORS, "mnist", small)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_mnist: None) -> Iterator[HubServer]:
    arrays = write_idx(tmp_path / "idx")
    files = {"README.md": b"MNIST"}
    for name, split in (("train", "train"), ("t10k", "test")):
        images, labels = arrays[f"{name}-images-idx3-ubyte"], arrays[f"{name}-labels-idx1-ubyte"]
        rows = {"image": [{"bytes": png(image), "path": None} for image in images], "label": labels.astype(np.int64)}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(rows), sink)
        files[f"mnist/{split}-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()
    with serving(VECTORS["mnist"].repo, files) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_named_set_comes_from_the_hub_once_and_is_what_a_folder_has(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fail("mnist/train-00000-of-00001.parquet", "cut")
    data = DataConfig("mnist", "mnist")
    hub = run(tmp_path / "x", data=data)
    local = dataclasses.replace(hub, data=dataclasses.replace(data, path=str(tmp_path / "idx")))
    assert open_data(hub).fingerprint == open_data(local).fingerprint
    assert not list((tmp_path / "cache" / "downloads").rglob("*.parquet")), "downloads are given up"
    requests = len(server.requests)
    open_data(hub)
    assert len(server.requests) == requests, "later runs need no network"
    capsys.readouterr()
    assert main(["data", "info", "mnist"]) == 0
    out = capsys.readouterr().out
    assert "repo ylecun/mnist, revision main, commit " in out
    assert "train     12\nval       5" in out
    assert main(["data", "verify", "mnist"]) == 0
    folder = prepare_vectors(data)
    (folder / "val-y.npy").write_bytes(b"")
    assert main(["data", "verify", "mnist"]) == 1
    assert main(["data", "prepare", "mnist"]) == 0
    assert main(["data", "verify", "mnist"]) == 0
    assert main(["data", "verify", "cifar10"]) == 2


def test_without_network_it_is_said_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.hub.http.ATTEMPTS", 1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RequestError, match=r"without network, .*; or give --data\.path, a folder or file of mnist"):
        prepare_vectors(DataConfig("mnist", "mnist"))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_found_where_the_system_has_it() -> None:
    config, _ = parse("train", ["--config", "mlp-fashion-mnist"])
    data = open_data(config)
    x, y = data.train.samples[np.arange(2000)]  # type: ignore[attr-defined]
    assert (x.shape, len(data.train.samples), len(data.val)) == ((2000, 784), 60_000, 10_000)  # type: ignore[attr-defined]
    assert (x.mean().item(), x.std().item()) == (pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))
    assert y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "the classes that the set is known to begin with"
    assert config.total_tokens == 60_000
