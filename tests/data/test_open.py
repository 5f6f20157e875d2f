"""From settings to data: what is prepared unasked, what is refused, and a stream that trains like any other run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cli.arguments import parse
from pipeline.cli.main import main
from pipeline.config import DataConfig, ModelConfig, RunConfig
from pipeline.data.open import open_data
from pipeline.data.preparing.prepare import prepare
from pipeline.data.shards import MANIFEST, read_manifest
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train
from tests.conftest import changed, rewrite_manifest
from tests.data.streaming.test_stream import write_corpus


@pytest.fixture
def streaming(tiny: RunConfig, tmp_path: Path) -> RunConfig:
    corpus = write_corpus(tmp_path / "corpus", files=4, per_file=40)
    data = DataConfig(name="s", format="text", path=corpus, validation_fraction=0.2)
    tokenizer = str(prepare(data, 300) / "tokenizer.json")
    return dataclasses.replace(tiny, data=dataclasses.replace(data, tokenizer=tokenizer, mode="stream", lanes=2, era=4))


def test_a_repository_is_not_downloaded_unasked(tiny: RunConfig) -> None:
    data = DataConfig(name="dclm", format="text", repo="a/b", tokens="1.4B", tokenizer="c/d")
    with pytest.raises(RequestError, match=r"run pipeline data prepare dclm --tokens 1400000000 first"):
        open_data(dataclasses.replace(tiny, data=data))


def test_a_tokenizer_larger_than_the_model_is_refused(tiny: RunConfig) -> None:
    tokenizer = str(prepare(tiny.data, 300) / "tokenizer.json")
    smaller = changed(tiny, model_vocab_size=299, data=dataclasses.replace(tiny.data, tokenizer=tokenizer))
    with pytest.raises(RequestError, match=r"has 300 entries, more than --model\.vocab_size 299"):
        open_data(smaller)


def test_a_prepared_folder_is_data(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    folder = prepare(tiny.data, 300)
    config, _ = parse("train", ["--data", str(folder), "--model.vocab_size", "300"])
    assert config.data == DataConfig(name=folder.name, format="shards", path=str(folder))
    ours, theirs = (open_data(dataclasses.replace(tiny, data=data)) for data in (config.data, tiny.data))
    assert ours.fingerprint == theirs.fingerprint
    assert main(["data", "verify", str(folder)]) == 0
    assert "every byte is as prepared" in capsys.readouterr().out
    with pytest.raises(RequestError, match=r"manifest\.json is missing"):
        open_data(dataclasses.replace(tiny, data=DataConfig(name="x", format="shards", path=str(folder.parent))))


def test_a_stream_trains_and_goes_on_from_its_checkpoint(
    streaming: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run cut short by its own Recorder at step 8 and continued has the records of an undisturbed one."""
    whole = train(streaming, show_progress=False)
    from pipeline.training.recorder import Recorder

    original = Recorder.on_train_batch_end

    def interrupted(self: Recorder, trainer, module, *rest) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, module, *rest)
        if trainer.global_step == 10:
            raise KeyboardInterrupt

    other = dataclasses.replace(streaming, out=str(tmp_path / "again"))
    monkeypatch.setattr(Recorder, "on_train_batch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(other, show_progress=False)
    monkeypatch.setattr(Recorder, "on_train_batch_end", original)
    again = train(other, show_progress=False)
    assert (again.final, again.steps) == (whole.final, whole.steps)


@pytest.mark.parametrize("source", ["windows", pytest.param("a stream", marks=pytest.mark.slow), "vectors"])
def test_the_order_of_samples_is_the_seeds_alone(source: str, tiny: RunConfig, streaming: RunConfig) -> None:
    """Paired over learning rates and everything else; a shorter run reads the beginning of a longer one."""
    vectors = {"model": ModelConfig(kind="mlp", n_layer=2), "data": DataConfig(format="digits"), "val_interval": 5}
    run = {"windows": tiny, "a stream": streaming, "vectors": dataclasses.replace(tiny, **vectors)}[source]

    def batches(**changes: object) -> list[list[object]]:
        train = open_data(changed(run, **changes)).train
        found = train.batches(first_step=0, micro_batch=run.global_batch, rank=0, world_size=1)
        tensors = [next(found) for _ in range(8)]
        train.close()
        return [(batch if isinstance(batch, torch.Tensor) else torch.cat([x.ravel() for x in batch])).tolist()
                for batch in tensors]  # fmt: skip

    first = batches()
    for changes in ({"steps": 8}, {"steps": 8000, "schedule": "wsd"}, {"lr": 0.3, "param": "mup"}, {"width": 64},
                    {"optimizer": "sgd", "weight_decay": 0.0}):  # fmt: skip
        assert batches(**changes) == first, changes
    assert batches(seed=1) != first


def test_a_checkpoint_of_other_data_is_refused_with_the_difference(streaming: RunConfig, tmp_path: Path) -> None:
    train(streaming, show_progress=False)
    original = Checkpoint(RunDir(streaming.run_dir).checkpoint).state
    (streaming.run_dir / "result.json").unlink()
    for key, word in (
        ("seed", "seed"),
        ("seq_len", "seq_len"),
        ("batch", "batch"),
        ("era", "era"),
        ("manifest", "manifest"),
    ):
        data_state = {**original["data"], key: 999}
        rewrite_manifest(RunDir(streaming.run_dir).checkpoint, state={**original, "data": data_state})
        with pytest.raises(RequestError, match=rf"another {word} of its data \(999, now"):
            train(streaming, show_progress=False)


def test_a_run_writes_through_what_later_runs_train_on(streaming: RunConfig, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    train(dataclasses.replace(streaming, data=dataclasses.replace(streaming.data, write_through=str(shards))),
          show_progress=False)  # fmt: skip
    splits = read_manifest(shards)["splits"]
    # 12 steps of 2 windows per lane are 6 eras of 4
    assert splits["train"]["tokens"] == 2 * 6 * 4 * streaming.seq_len
    later = dataclasses.replace(streaming, data=DataConfig(name="x", format="shards", path=str(shards)), study="later")
    data = open_data(later)
    assert len(data.val) >= streaming.val_sequences
    batch = next(data.train.batches(first_step=0, micro_batch=4, rank=0, world_size=1))
    assert np.asarray(batch).shape == (4, 17)
    assert train(later, show_progress=False).status == "completed"
    assert (shards / MANIFEST).exists()
