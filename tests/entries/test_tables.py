"""The tables of entries: complete, and an unknown name is refused at every place."""

import dataclasses

import pytest
import torch
import yaml

from pipeline.cli.main import main
from pipeline.config import DataConfig, ModelConfig, RunConfig, run_settings
from pipeline.data.vectors import load_examples
from pipeline.diagnostics.sharpness import plain_loss
from pipeline.entries.kinds import KINDS
from pipeline.entries.load import load
from pipeline.entries.losses import LOSSES
from pipeline.entries.optimizers import OPTIMIZERS
from pipeline.entries.vectors import VECTORS
from pipeline.errors import RequestError
from pipeline.losses import COMPUTE, linear_loss
from pipeline.optim import build_optimizer
from pipeline.parameterization import rules
from pipeline.theory.network import Setting


def test_every_entry_has_its_code() -> None:
    assert set(COMPUTE) == set(LOSSES)
    for optimizer in OPTIMIZERS.values():
        assert issubclass(load(optimizer.build), torch.optim.Optimizer)
    for vectors in VECTORS.values():
        if vectors.from_files:
            continue
        train, val = load_examples(vectors, "train"), load_examples(vectors, "val")
        x, y = val[torch.arange(4).numpy()]
        assert (len(train), x.shape) == (vectors.n_train, (4, vectors.d_in))
        assert int(y.max()) < vectors.n_classes
        if vectors.values:
            assert torch.equal(load_examples(vectors, "val", values=True).y > 0, val.y == 1)
    for kind in KINDS.values():
        assert load(f"{kind.module}:of_run")
        assert load(f"{kind.module}:flops")


def test_model_settings_belong_to_a_kind() -> None:
    own = set().union(*(kind.settings for kind in KINDS.values()))
    assert own == {f.name for f in dataclasses.fields(ModelConfig)} - {"kind"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "lion"}, "--optimizer: expected adamw or adam or sgd or muon or muon_sgd, got 'lion'"),
        ({"loss": "hinge"}, "--loss: expected cross_entropy or mse or mse_mean or mse_scalar or softmax_mse or softmax_mse_sum, got 'hinge'"),
        ({"schedule": "step"}, "--schedule: expected cosine or linear or wsd or constant, got 'step'"),
        ({"depth_scaling": "depth_mup"}, "--depth_scaling: expected none or sqrt or completep, got 'depth_mup'"),
        ({"muon_scale": "rms"}, "--muon_scale: expected spectral or original or match_rms, got 'rms'"),
        ({"model": ModelConfig(kind="rnn")}, "--model.kind: expected gpt or mlp, got 'rnn'"),
        ({"data": DataConfig(format="emnist")}, "--data.format: expected sotu or text or shards or digits or multi_index or multi_index_published or mnist or "),
    ],
)  # fmt: skip
def test_unknown_names_are_refused_in_settings(change: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError) as refused:
        RunConfig(**change)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("flag", ["optimizer", "loss", "schedule", "model.kind", "data.format"])
def test_unknown_names_are_refused_as_flags(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"--{flag}", "lion", "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pipeline: error: --{flag}: expected ")
    assert error.count("\n") == 1


def test_unknown_names_are_refused_where_they_are_used() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    config = RunConfig()
    object.__setattr__(config, "optimizer", "lion")  # as if it were known to the settings alone
    with pytest.raises(KeyError):
        build_optimizer(config, [{"params": [weight]}])
    with pytest.raises(KeyError):
        linear_loss(torch.ones(4, 2), weight, torch.zeros(4, dtype=torch.long), loss="hinge")
    with pytest.raises(KeyError):
        plain_loss(torch.ones(4, 3), torch.zeros(4, dtype=torch.long), "hinge")
    with pytest.raises(ValueError, match="lion is none of adamw, adam, sgd"):
        Setting(rules.get("sp"), optimizer="lion")
    with pytest.raises(ValueError, match="hinge is none of"):
        Setting(rules.get("sp"), loss="hinge")


def test_settings_survive_yaml() -> None:
    plain = yaml.safe_load(yaml.safe_dump(run_settings(RunConfig())))
    assert plain["schedule"] == "cosine"
