"""Settings: derived values, the run's name, and one clear line for every wrong value."""

import dataclasses
import re

import pytest

from pipeline.config import DataConfig, RunConfig, WandbConfig, config_hash
from pipeline.errors import RequestError
from pipeline.sweep.config import SweepConfig
from tests.conftest import changed


@pytest.mark.parametrize(
    ("lr", "text"), [(3e-3, "3e-3"), (1e9, "1e9"), (0.00390625, "3.90625e-3"), (1.0, "1"), (0.1, "1e-1"), (12, "1.2e1")]
)
def test_run_name_is_readable(lr: float, text: str) -> None:
    assert re.fullmatch(rf"mup-sgd-w1024-lr{text}-s7-[0-9a-f]{{8}}", RunConfig(
        width=1024, param="mup", optimizer="sgd", lr=lr, seed=7).run_name)  # fmt: skip


def test_hash_covers_the_mathematics_and_not_the_place() -> None:
    base = RunConfig()
    for place in (
        {"out": "elsewhere"}, {"study": "other"}, {"wandb": "offline"}, {"wandb": WandbConfig(tags=("x",))}, {"mirrors": ("tensorboard",)}, {"micro_batch": 1}, {"keep_checkpoint": False},
        {"devices": 2, "strategy": "ddp"}, {"num_nodes": 2}, {"log_interval": 7}, {"checkpoint_interval": 7},
    ):  # fmt: skip
        assert config_hash(dataclasses.replace(base, micro_batch=None, **place) if "micro_batch" not in place
                           else dataclasses.replace(base, **place)) == config_hash(base), place  # fmt: skip
    for mathematics in ({"seed": 1}, {"precision": "bf16-mixed"}, {"eps": 1e-8}, {"grad_clip": None}, {"steps": 999}):
        assert config_hash(dataclasses.replace(base, **mathematics)) != config_hash(base), mathematics
    assert config_hash(changed(base, model_qk_norm=False)) != config_hash(base)


def test_hash_is_the_same_for_a_run_of_a_sweep() -> None:
    assert config_hash(SweepConfig(widths=(64,), lrs=(1.0,))) == config_hash(RunConfig())


def test_weight_decay_follows_the_optimizer_unless_given() -> None:
    assert RunConfig(optimizer="adamw").weight_decay == 0.1
    assert RunConfig(optimizer="sgd").weight_decay == 0
    assert RunConfig(optimizer="sgd", weight_decay=0.2).weight_decay == 0.2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"width": 100}, "--width 100 is not divisible by the head size 32: use 96 or 128"),
        ({"width": 16}, "--width 16 is not divisible by the head size 32: use 32"),
        ({"lr": -1.0}, "--lr must be a positive number, got -1"),
        ({"lr": float("inf")}, "--lr must be a positive number, got inf"),
        ({"param": "mupp"}, "--param: unknown parameterization 'mupp': did you mean 'mup'?"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"seq_len": 9 * 10**18}, "--seq_len must be at most 1000000000, got 9000000000000000000"),
        ({"model_vocab_size": 9 * 10**18}, "--model.vocab_size must be at most 1000000000, got 9000000000000000000"),
        ({"study": "a" * 300}, f"--study must be a plain folder name of at most 200 bytes, got '{'a' * 300}'"),
        ({"warmup_steps": 2000}, "--warmup_steps must be 0..steps (1000), got 2000"),
        ({"global_batch": 10, "micro_batch": 4}, "--micro_batch 4 does not divide the --global_batch 10"),
        ({"study": "a/b"}, "--study must be a plain folder name of at most 200 bytes, got 'a/b'"),
        ({"grad_clip": 0.0}, "--grad_clip must be positive or null, got 0.0"),
        ({"width": 192, "model_kv_heads": 4}, "--width 192 has 6 heads, not divisible by --model.kv_heads 4"),
    ],
)
def test_wrong_values_are_named(change: dict[str, object], line: str) -> None:
    with pytest.raises(RequestError) as error:
        changed(RunConfig(), **change)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1.4B", 1_400_000_000), ("300M", 300_000_000), ("2k", 2000), ("1e9", 10**9), ("12_000", 12000)],
)
def test_tokens_as_people_write_them(text: str, tokens: int) -> None:
    assert DataConfig(tokens=text).tokens == tokens


@pytest.mark.parametrize("text", ["", "B", "1.4X", "-3", "1.4.2B", "many"])
def test_what_is_no_amount_is_said(text: str) -> None:
    with pytest.raises(RequestError, match=r"--data\.tokens: expected a number such as 1\.4B"):
        DataConfig(tokens=text)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"tokens": 0}, "--data.tokens must be positive, at most 1000T"),
        ({"path": "x", "repo": "a/b", "format": "text"}, "--data.path and --data.repo exclude each other: give one"),
        ({"format": "text"}, "--data.format text needs --data.path or --data.repo"),
        ({"format": "text", "repo": "ab"}, "--data.repo must be OWNER/NAME, got 'ab'"),
        ({"format": "text", "path": "x", "name": "../x"}, "--data.name must be a plain folder name of at most 200 bytes, got '../x'"),
        ({"repo": "a/b"}, "--data.repo is read with --data.format text, not sotu"),
        ({"format": "shards"}, "--data.format shards needs --data.path"),
        ({"mode": "stream"}, "--data.mode stream needs a ready tokenizer: give --data.tokenizer"),
        ({"mode": "stream", "tokenizer": "t", "lanes": 7}, "--data.lanes 7 must divide --global_batch 256"),
        ({"mode": "stream", "format": "shards", "path": "x", "tokenizer": "t"}, "--data.mode stream reads text, not shards"),
        ({"write_through": "x"}, "--data.write_through is for --data.mode stream"),
        ({"era": 0}, "--data.era must be 1 to 1000000, got 0"),
    ],
)  # fmt: skip
def test_wrong_data_settings_are_named(change: dict[str, object], line: str) -> None:
    with pytest.raises(RequestError) as error:
        RunConfig(data=DataConfig(**change))
    assert str(error.value) == line


def test_the_lanes_are_shared_out_evenly() -> None:
    data = DataConfig(mode="stream", tokenizer="t", lanes=8)
    RunConfig(data=data, devices=4, strategy="ddp")
    with pytest.raises(RequestError, match=r"--data\.lanes 8 is not a multiple of the 16 processes that train"):
        RunConfig(data=data, devices=16, strategy="ddp")


def test_few_heads_use_fewer_kv_heads() -> None:
    changed(RunConfig(), width=64, model_kv_heads=4)


@pytest.mark.parametrize("key", ["stall_minutes", "checkpoint_minutes", "grad_clip", "abort_after"])
def test_what_may_be_null_may_be(key: str) -> None:
    assert getattr(RunConfig(**{key: None}), key) is None


@pytest.mark.parametrize(
    ("lr", "said"),
    [
        (3e-3, "3e-3"),
        (1.0, "1"),
        (10.0, "1e1"),
        (1e30, "1e30"),
        (1e-10, "1e-10"),
        (2.828427124746e-4, "2.828427124746e-4"),
    ],
)
def test_a_name_says_the_learning_rate(lr: float, said: str) -> None:
    assert f"-lr{said}-s0-" in RunConfig(lr=lr).run_name
