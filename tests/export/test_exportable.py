"""What there is to export: the last good checkpoint, the tokenizer of the data; and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.config import RunConfig
from pipeline.data.preparing.prepare import prepare, prepared_folder
from pipeline.export.litgpt import export
from pipeline.files import file_sha256
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from tests.conftest import changed
from tests.support.exports import (
    loaded,
    refusal,
    same_logits,
    trained,
    tree,
)


def test_the_tokenizer_is_that_of_the_data(tiny: RunConfig, tmp_path: Path) -> None:
    """Found wherever the export runs, among other data of the same name; never prepared, never another's."""
    other = dataclasses.replace(tiny.data, validation_fraction=0.3)
    assert prepare(other, 290) != prepare(tiny.data, 300)
    run = trained(changed(tiny, steps=3))
    export(run, tmp_path / "out")
    mine = prepared_folder(tiny.data, 300) / "tokenizer.json"
    assert file_sha256(tmp_path / "out" / "tokenizer.json") == file_sha256(mine)
    assert mine.read_bytes() != (prepared_folder(other, 290) / "tokenizer.json").read_bytes()


def test_no_tokenizer(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(changed(tiny, steps=3, model_qk_norm=False))
    empty = tmp_path / "cache"
    monkeypatch.setenv("PIPELINE_CACHE", str(empty))
    exported = export(run, tmp_path / "out")
    line = f"no tokenizer.json: the data cache {empty} has none of the data that the run trained on"
    assert exported.left_out == (line,)
    assert not empty.exists()
    assert set(tree(exported.folder)) == {
        "model.safetensors", "model_config.yaml", "export.json", "hf/config.json", "hf/model.safetensors"
    }  # fmt: skip
    assert json.loads((exported.folder / "hf" / "config.json").read_text())["eos_token_id"] is None


def test_the_tokenizer_of_a_prepared_folder(tiny: RunConfig, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(prepare(tiny.data, 300), shards)
    data = dataclasses.replace(tiny.data, format="shards", path=str(shards))
    run = trained(changed(tiny, steps=3, data=data))
    export(run, tmp_path / "a")
    assert file_sha256(tmp_path / "a" / "tokenizer.json") == file_sha256(shards / "tokenizer.json")
    (shards / "tokenizer.json").write_text("{}")  # no longer the run's
    line = f"no tokenizer.json: {shards} has none of the data that the run trained on"
    assert export(run, tmp_path / "b").left_out[-1] == line


def test_the_tokenizer_of_a_stream(tiny: RunConfig, tmp_path: Path) -> None:
    tokenizer = tmp_path / "mine.json"
    shutil.copy(prepare(tiny.data, 300) / "tokenizer.json", tokenizer)
    for n in range(2):
        shutil.copy(tiny.data.path, tmp_path / f"part{n}.txt")
    data = dataclasses.replace(
        tiny.data, path=str(tmp_path / "part*.txt"), mode="stream", lanes=2, era=8, tokenizer=str(tokenizer)
    )
    run = trained(changed(tiny, steps=3, data=data))
    export(run, tmp_path / "out")
    assert file_sha256(tmp_path / "out" / "tokenizer.json") == file_sha256(tokenizer)


def test_mlps(tiny: RunConfig) -> None:
    run = changed(tiny, model_kind="mlp", model_head_size=32, model_vocab_size=50304, loss="mse", model_n_layer=3,
                  data=dataclasses.replace(tiny.data, name="digits", format="digits", path=""))  # fmt: skip
    folder = trained(run)
    assert refusal(folder) == f"{folder} trained an MLP: only GPTs are exported"


def test_runs_without_a_checkpoint(tiny: RunConfig) -> None:
    let_go = trained(changed(tiny, steps=3, keep_checkpoint=False))
    assert refusal(let_go) == (
        f"{let_go} has no checkpoint: it ran with --keep_checkpoint false; delete it and run it again with true"
    )
    diverged = trained(changed(tiny, optimizer="sgd", lr=1e30, grad_clip=None, weight_decay=0.0))
    result = RunDir(diverged).result()
    assert result is not None
    step = result.diverged_at
    assert step <= 4
    assert refusal(diverged) == f"{diverged} has no checkpoint: it diverged at step {step}, before its first"
    deleted = trained(tiny)
    shutil.rmtree(RunDir(deleted).checkpoint.resolve())
    assert RunDir(deleted).checkpoint.is_symlink(), "it points nowhere"
    assert refusal(deleted) == f"{deleted} has no checkpoint: it was deleted; delete the run to run it again"
    RunDir(deleted).result_file.unlink()  # as if it still ran
    assert refusal(deleted) == (
        f"{deleted} has no checkpoint: it has not come to its first, at step 4; the same pipeline train command "
        "continues it"
    )


def test_an_unfinished_run_is_exported_as_far_as_it_is(tiny: RunConfig, tmp_path: Path) -> None:
    run = trained(tiny)
    RunDir(run).result_file.unlink()
    exported = export(run, tmp_path / "out")
    assert json.loads((exported.folder / "export.json").read_text())["status"] == "unfinished"


def test_damaged_checkpoints(tiny: RunConfig) -> None:
    run = trained(changed(tiny, steps=3))
    checkpoint = RunDir(run).checkpoints / "step-00000003.ckpt"
    (shard,) = checkpoint.glob("*.safetensors")
    whole, size = shard.read_bytes(), shard.stat().st_size
    weight = Checkpoint(checkpoint).tensor("model.transformer.wte.weight").numpy().tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(weight) + 100] ^= 1
    for damaged, reason in (
        (whole[: size // 2], f"{shard.name} has {size // 2} bytes of {size}"),
        (b"", f"{shard.name} has 0 bytes of {size}"),
        (b"\n" * size, f"wrong checksum of {shard.name}"),
        (bytes(flipped), f"wrong checksum of {shard.name}"),
    ):
        shard.write_bytes(damaged)
        assert refusal(run) == f"checkpoint {checkpoint} is damaged ({reason}): delete {run} to run it again"
    shutil.rmtree(checkpoint)
    RunDir(run).checkpoint.unlink()
    torch.save({"global_step": 3}, RunDir(run).checkpoint)
    assert refusal(run) == (
        f"checkpoint {RunDir(run).checkpoint} is damaged (not a folder of this version of the pipeline): delete "
        f"{run} to "
        "run it again"
    )
    assert not (run / "export").exists()


def test_an_older_good_checkpoint_is_exported_where_the_newest_is_damaged(
    tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tiny)
    newest = RunDir(run).checkpoint.resolve()
    shutil.copytree(newest, newest.with_name("step-00000016.ckpt"))
    shard = newest.with_name("step-00000016.ckpt") / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert export(run, tmp_path / "out").step == 12
    (line,) = capsys.readouterr().err.splitlines()
    size = shard.stat().st_size
    assert line == (
        f"checkpoint {shard.parent} is damaged ({shard.name} has {size} bytes of {size + 1}); taking step 12"
    )
    same_logits(tiny, loaded(tmp_path / "out"))


def test_a_checkpoint_of_another_model(tiny: RunConfig) -> None:
    run, wider = trained(changed(tiny, steps=3)), trained(changed(tiny, steps=3, width=64))
    checkpoint = RunDir(run).checkpoint
    shutil.rmtree(checkpoint.resolve())
    shutil.move(RunDir(wider).checkpoint.resolve(), RunDir(run).checkpoints)
    assert refusal(run) == (
        f"checkpoint {checkpoint} is not of the model in config.yaml (lm_head.weight differs): delete {run} to run it "
        "again"
    )
