"""`pipeline export`: what litgpt and transformers load from it, what it refuses, and what an interruption leaves."""

import dataclasses
import json
import pathlib
import shutil
from pathlib import Path
from typing import Any

import litgpt
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import yaml
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.cli.export import main
from pipeline.config import RunConfig, config_hash
from pipeline.data.preparing.prepare import prepare, prepared_folder
from pipeline.data.windows import TokenWindows
from pipeline.errors import RequestError
from pipeline.export import litgpt as exporting
from pipeline.export import neox
from pipeline.export.litgpt import export, how_to_load
from pipeline.files import file_sha256
from pipeline.models import gpt
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train
from tests.conftest import changed

TEXT = "the union of states and people ask what rate a wide network bears 7."
LITGPT_FILES = {"model.safetensors", "model_config.yaml", "tokenizer.json", "tokenizer_config.json", "export.json"}


def trained(config: RunConfig) -> Path:
    train(config, show_progress=False)
    return config.run_dir


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file, by its path; hidden ones too."""
    return {str(p.relative_to(folder)): file_sha256(p) for p in folder.rglob("*") if p.is_file()}


def loaded(folder: Path) -> litgpt.GPT:
    """As the README says: litgpt's own class, strictly."""
    model = litgpt.GPT(litgpt.Config.from_checkpoint(folder))
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model


def tokens_of(config: RunConfig) -> Tensor:
    return torch.randint(0, config.model.vocab_size, (3, config.seq_len), generator=torch.Generator().manual_seed(0))


def logits_of_the_run(config: RunConfig) -> Tensor:
    """This project's model with the parameters of the checkpoint."""
    model = gpt.build(config.model, config.width, config.seq_len)
    checkpoint = Checkpoint(RunDir(config.run_dir).checkpoint)
    model.load_state_dict({name: checkpoint.tensor(f"model.{name}") for name in model.state_dict()})
    with torch.no_grad():
        return model.logits(tokens_of(config))


def same_logits(config: RunConfig, model: Any) -> None:
    with torch.no_grad():
        assert torch.equal(model(tokens_of(config)), logits_of_the_run(config))


def test_litgpt_loads_the_trained_model(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(tiny, param="mup", width=64, model_kv_heads=2)
    run = trained(config)
    assert main([str(run)]) == 0
    folder = run / "export"
    assert set(tree(folder)) == LITGPT_FILES
    assert litgpt.Config.from_checkpoint(folder) == gpt.litgpt_config(config.model, 64, 16)
    model = loaded(folder)
    same_logits(config, model)

    windows = TokenWindows(prepare(config.data, 300), "val", 16)[np.arange(8)]
    with torch.no_grad():
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    result = RunDir(run).result()
    assert result is not None
    assert loss.item() == pytest.approx(result.final["final_val_loss"], rel=1e-5)

    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        f"exported step 12 to {folder}: model.safetensors, model_config.yaml, tokenizer.json, tokenizer_config.json, "
        "export.json",
        "no hf/: transformers' GPTNeoX has no qk-norm, key/value heads that several heads share",
    ]
    assert len(printed) == 3
    library, _, code = printed[2].partition(": ")
    names: dict[str, Any] = {"litgpt": litgpt, "pathlib": pathlib, "safetensors": safetensors}
    exec(code, names)
    assert library == "litgpt"
    same_logits(config, names["gpt"])


def test_transformers_loads_what_is_a_gpt_neox(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, width=64, model_qk_norm=False)
    exported = export(trained(config), tmp_path / "out")
    assert exported.left_out == ()
    assert (
        set(exported.files)
        == set(tree(exported.folder))
        == LITGPT_FILES
        | {f"hf/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")}
    )
    same_logits(config, loaded(exported.folder))
    library, _, code = how_to_load(exported)[1].partition(": ")
    assert library == "transformers"
    hf = eval(code, {"AutoModelForCausalLM": AutoModelForCausalLM})
    assert type(hf).__name__ == "GPTNeoXForCausalLM"
    assert hf.dtype == torch.float32
    ours = logits_of_the_run(config)
    with torch.no_grad():
        torch.testing.assert_close(hf(tokens_of(config)).logits, ours, rtol=0, atol=1e-5)
    assert ours.abs().max() > 0.1

    tokenizer = AutoTokenizer.from_pretrained(exported.folder / "hf")
    library_free = neox.load_tokenizer(prepared_folder(config.data, 300) / "tokenizer.json")
    assert tokenizer.encode(TEXT) == library_free.encode(TEXT).ids
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert hf.config.eos_token_id == hf.config.bos_token_id == tokenizer.eos_token_id == 0


def test_transformers_takes_all_that_gpt_neox_leaves_free(tmp_path: Path) -> None:
    """Whatever litgpt may name: blocks in series, other rotations, epsilon, activation and MLP size."""
    architecture = litgpt.Config(
        n_layer=3, n_embd=64, n_head=4, padded_vocab_size=300, block_size=16, intermediate_size=160, rope_base=50,
        rotary_percentage=0.5, parallel_residual=False, norm_eps=0.1, gelu_approximate="tanh",
    )  # fmt: skip
    assert neox.beyond_neox(architecture) == []
    torch.manual_seed(0)
    model = litgpt.GPT(architecture)
    for parameter in model.parameters():  # biases and gains too, and large enough for the activation to matter
        torch.nn.init.normal_(parameter, std=0.3)
    neox.write_neox(tmp_path / "hf", dict(model.state_dict()), architecture, None)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokens = torch.randint(0, 300, (3, 16))
    with torch.no_grad():
        torch.testing.assert_close(hf(tokens).logits, model(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "obstacle"),
    [
        ({"bias": False}, "bias=False"),
        ({"lm_head_bias": True}, "lm_head_bias=True"),
        ({"shared_attention_norm": True}, "shared_attention_norm=True"),
        ({"rope_condense_ratio": 2}, "rope_condense_ratio=2"),
        ({"head_size": 8}, "head_size=8"),
    ],
)
def test_what_gpt_neox_has_not(setting: dict[str, Any], obstacle: str) -> None:
    architecture = litgpt.Config(n_layer=1, n_embd=64, n_head=4, padded_vocab_size=300, **setting)
    assert neox.beyond_neox(architecture) == [obstacle]


def test_no_hf_where_rotation_differs(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=3, width=24, base_width=24, model_head_size=12, model_qk_norm=False)
    exported = export(trained(config), tmp_path / "out")
    assert exported.left_out == (
        "no hf/: transformers' GPTNeoX has no rotary embedding of an odd number of dimensions (3)",
    )
    same_logits(config, loaded(exported.folder))


def test_a_llama(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=3, model_name="tiny-llama-1.1b", model_qk_norm=False)
    exported = export(trained(config), tmp_path / "out")
    (line,) = exported.left_out
    assert line.startswith("no hf/: transformers' GPTNeoX has no norm_class_name=RMSNorm, ")
    assert "mlp_class_name=LLaMAMLP" in line
    assert set(tree(exported.folder)) == LITGPT_FILES
    same_logits(config, loaded(exported.folder))


@pytest.mark.filterwarnings("ignore:The `srun` command is available")  # litgpt.LLM asks, where a test installed SLURM
def test_litgpts_own_commands_load_lit_model(tiny: RunConfig, tmp_path: Path) -> None:
    config = changed(tiny, steps=3)
    exported = export(trained(config), tmp_path / "out", lit_model=True)
    assert set(tree(exported.folder)) == LITGPT_FILES | {"lit_model.pth"}
    library, _, code = how_to_load(exported)[-1].partition(": ")
    assert library == "litgpt's API"
    precision = torch.get_float32_matmul_precision()
    try:
        llm = eval(code, {"litgpt": litgpt})
    finally:
        torch.set_float32_matmul_precision(precision)  # litgpt sets it for the whole process
    assert llm.preprocessor.tokenizer.eos_id == 0
    weights = safetensors.torch.load_file(exported.folder / "model.safetensors")
    loads = {name.removeprefix("_forward_module."): tensor for name, tensor in llm.model.state_dict().items()}
    assert loads.keys() == weights.keys()
    assert all(torch.equal(loads[name], weights[name].to(loads[name].dtype)) for name in weights)
    assert all(
        torch.equal(tensor, weights[name]) for name, tensor in torch.load(exported.folder / "lit_model.pth").items()
    )


def test_export_json(tiny: RunConfig, tmp_path: Path) -> None:
    exported = export(trained(tiny), tmp_path / "out")
    note = json.loads((exported.folder / "export.json").read_text())
    files = tree(exported.folder)
    assert note.pop("files") == {name: sha256 for name, sha256 in files.items() if name != "export.json"}
    recorded = yaml.safe_load(RunDir(tiny.run_dir).config_file.read_text())["recorded"]
    assert note.pop("trained_with") == recorded["versions"]
    assert note.pop("versions")["litgpt"] == recorded["versions"]["litgpt"]
    assert note == {
        "run": tiny.run_name, "study": "tests", "step": 12, "steps": 12, "status": "completed",
        "config_hash": config_hash(tiny), "param": "sp", "width": 32, "lr": 1e-2, "seed": 0, "dtype": "float32",
        "data_fingerprint": recorded["data_fingerprint"],
    }  # fmt: skip
    modes = {path.stat().st_mode & 0o777 for path in exported.folder.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert exported.folder.stat().st_mode & 0o555 == 0o555


# ---------------------------------------------------------------------------------------------------------------------
# The tokenizer


def test_the_tokenizer_is_that_of_the_data(tiny: RunConfig, tmp_path: Path) -> None:
    """Found wherever the export runs, among other data of the same name; never prepared, never another's."""
    other = dataclasses.replace(tiny.data, validation_fraction=0.3)
    assert prepare(other, 290) != prepare(tiny.data, 300)
    run = trained(changed(tiny, steps=3))
    export(run, tmp_path / "out")
    mine = prepared_folder(tiny.data, 300) / "tokenizer.json"
    assert file_sha256(tmp_path / "out" / "tokenizer.json") == file_sha256(mine)
    assert mine.read_bytes() != (prepared_folder(other, 290) / "tokenizer.json").read_bytes()


def test_transformers_keeps_the_tokenizer_as_it_is(tiny: RunConfig, tmp_path: Path) -> None:
    """It would rebuild one of the class that goes with GPTNeoX, which knows one way to cut text into words."""
    tokenizer = Tokenizer.from_file(str(prepare(tiny.data, 300) / "tokenizer.json"))
    cut = pre_tokenizers.Split("o", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, tokenizer.pre_tokenizer])
    path = tmp_path / "mine.json"
    tokenizer.save(str(path))
    model = gpt.build(changed(tiny, model_qk_norm=False).model, 32, 16)
    neox.write_neox(tmp_path / "hf", dict(model.state_dict()), model.config, path)
    neox.write_tokenizer(tmp_path / "hf", path, 16)
    text = "people of the union"
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").encode(text) == tokenizer.encode(text).ids
    plain = Tokenizer.from_file(str(prepare(tiny.data, 300) / "tokenizer.json"))
    assert tokenizer.encode(text).ids != plain.encode(text).ids


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


# ---------------------------------------------------------------------------------------------------------------------
# Again, and interrupted


def test_exporting_again_replaces_the_same_step_and_nothing_else(tiny: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # empty: free
    run = trained(tiny)
    export(run, out)
    first = tree(tmp_path)
    (out / "model.safetensors").write_bytes(b"damaged since")
    export(run, out)
    assert tree(tmp_path) == first

    (out / "notes.txt").write_text("mine")
    with pytest.raises(RequestError) as refused:
        export(run, out)
    assert str(refused.value) == f"{out} holds notes.txt, which is not of the export: move it or give another --out"
    (out / "notes.txt").unlink()
    shorter = trained(changed(tiny, steps=3))
    with pytest.raises(RequestError) as refused:
        export(shorter, out)
    assert str(refused.value) == (
        f"{out} holds the export of step 12 of {run.name}, not of step 3 of {shorter.name}: delete it or give another "
        "--out"
    )
    note = (out / "export.json").read_text()
    (out / "export.json").write_text(note.replace('"step": 12', '"step": 8'))
    with pytest.raises(RequestError, match=f"holds the export of step 8 of {run.name}, not of step 12 of {run.name}: "):
        export(run, out)
    (out / "export.json").unlink()
    with pytest.raises(RequestError) as refused:
        export(run, out)
    assert str(refused.value) == f"{out} is not empty, and holds no export: give another --out"
    assert tree(out) == {name.removeprefix("out/"): sha256 for name, sha256 in first.items()
                         if name.startswith("out/") and name != "out/export.json"}  # fmt: skip


@pytest.mark.parametrize("place", ["write_weights", "write_tokenizer", "_note", "write_atomic"])
def test_an_interrupted_export_leaves_nothing(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run = trained(changed(tiny, steps=3))
    before = tree(tmp_path), sorted(run.iterdir())

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exporting, place, stop)
        with pytest.raises(KeyboardInterrupt):
            export(run, run / "export")
    assert (tree(tmp_path), sorted(run.iterdir())) == before
    export(run, run / "export")
    whole = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(exporting, place, stop)
        with pytest.raises(KeyboardInterrupt):
            export(run, run / "export")
    assert tree(tmp_path) == whole


def test_a_replacement_that_fails_puts_the_old_back(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(changed(tiny, steps=3))
    export(run, run / "export")
    whole = tree(tmp_path)
    rename = Path.rename

    def fails_for_the_new(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(OSError, match="No space left"):
        export(run, run / "export")
    assert tree(tmp_path) == whole


def test_a_full_disk(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(changed(tiny, steps=3))

    def full(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(neox, "save_file", full)
    with pytest.raises(OSError, match=r"^cannot write .*model\.safetensors: I/O error: No space left on device"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def refusal(*argv: object) -> str:
    with pytest.raises(RequestError) as refused:
        main([str(arg) for arg in argv])
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_wrong_places(tiny: RunConfig, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"no such run: {tmp_path / 'none'}"
    run = trained(changed(tiny, steps=3))
    study = run.parent
    assert refusal(study) == f"{study} is not a run (it has no config.yaml): give one, such as runs/STUDY/RUN"
    file = tmp_path / "file"
    file.write_text("")
    assert refusal(run, "--out", file) == f"{file} is a file: give another --out"
    assert refusal(run, "--out", file / "x") == f"cannot write {file / 'x'} (File exists): give another --out"
    assert refusal(run, "--out", run) == f"{run} is not empty, and holds no export: give another --out"
    assert refusal(run, "--step", 3).startswith("pipeline export: unrecognized arguments: --step 3")
    assert not (run / "export").exists()


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
        f"checkpoint {RunDir(run).checkpoint} is damaged (not a folder of this version of the pipeline): delete {run} to "
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
