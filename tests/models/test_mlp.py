"""The MLP, its data, and whole runs and studies of it through the same trainer, sweep and fit as the GPT."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.analysis.fit.study_fit import fit
from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig
from pipeline.data.order import sample_order
from pipeline.data.vectors import Examples, digits, multi_index, multi_index_published_values
from pipeline.errors import RequestError
from pipeline.models import mlp
from pipeline.models.build import build
from pipeline.models.init import initialize_
from pipeline.run.directory import RunDir
from pipeline.scaling import scaling_of
from pipeline.sweep.grid import grid
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.studies import study


@pytest.fixture
def tiny_mlp(tmp_path: Path) -> RunConfig:
    return RunConfig(
        width=32, base_width=32, lr=0.1, optimizer="sgd", steps=30, warmup_steps=0, lr_min_ratio=1.0, global_batch=64,
        grad_clip=None, val_interval=30, val_sequences=360, checkpoint_interval=10, out=str(tmp_path / "runs"),
        study="mlp", wandb="disabled", model=ModelConfig(kind="mlp", n_layer=3), data=DataConfig("digits", "digits"),
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("depth", [2, 3, 10])
def test_shapes_roles_and_forward(activation: str, depth: int) -> None:
    model = mlp.build(ModelConfig(kind="mlp", n_layer=depth, activation=activation), 16, 7, 3)
    specs = mlp.tensor_specs(model, 16)
    assert [spec.role for spec in specs.values()] == ["input", *["hidden"] * (depth - 2), "output"]
    assert [tuple(p.shape) for p in model.parameters()] == [(16, 7), *[(16, 16)] * (depth - 2), (3, 16)]
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    h = x
    for layer in list(model.parameters())[:-1]:
        h = h @ layer.T
        h = h.clamp(min=0) if activation == "relu" else h
    torch.testing.assert_close(model(x), h)


def test_he_initialization_keeps_the_scale_of_activations(tiny_mlp: RunConfig) -> None:
    config = changed(tiny_mlp, width=512, base_width=512, model_n_layer=8)
    model, specs = build(config)
    initialize_(model, specs, scaling_of(config), 0)
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    # mean square 1 in gives mean square 1 out, times 1/2 for the half that ReLU cuts, times He's 2
    assert model(x).square().mean().item() == pytest.approx(1.0, rel=0.3)
    for (name, p), spec in zip(model.named_parameters(), specs.values(), strict=True):
        fan_in = p.shape[1]
        assert spec.init_std == pytest.approx(math.sqrt(2 / fan_in)), name


def test_linear_nets_start_with_std_one_over_root_fan_in() -> None:
    model = mlp.build(ModelConfig(kind="mlp", n_layer=3, activation="linear"), 16, 7, 3)
    assert [s.init_std for s in mlp.tensor_specs(model, 16).values()] == pytest.approx([7**-0.5, 0.25, 0.25])


def test_multi_index_data() -> None:
    x, y = multi_index("train")
    assert (x.shape, y.shape) == ((1000, 100), (1000,))
    assert multi_index("val")[0].shape == (10_000, 100)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    # D.2: sign(x1 - x2) where either is positive, sign(x2 - x1) where both are negative
    first, second = x[:, 0], x[:, 1]
    negative = (first < 0) & (second < 0)
    expected = np.where(negative, second > first, np.abs(first) > np.abs(second))
    either = ~negative
    assert np.array_equal(y[negative] == 1, first[negative] < second[negative])
    assert np.array_equal(y[either] == 1, np.abs(first[either]) > np.abs(second[either]))
    assert np.array_equal(y == 1, expected)
    assert 0.4 < y.mean() < 0.6
    assert np.array_equal(multi_index("train")[0], x)


def test_digits_data() -> None:
    (x, y), (x_val, y_val) = digits("train"), digits("val")
    assert (x.shape, x_val.shape) == ((1437, 64), (360, 64))
    assert (x.mean(), x.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert set(y) == set(y_val) == set(range(10))
    rows = {row.tobytes() for row in x}
    assert sum(row.tobytes() in rows for row in x_val) <= 2, "the splits share no image"
    examples = Examples(x, y)
    batch, labels = examples[np.array([5, 2, 5])]
    assert torch.equal(batch, torch.from_numpy(x[[5, 2, 5]]))
    assert labels.tolist() == y[[5, 2, 5]].tolist()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "mse_mean", "softmax_mse"])
def test_a_run_learns_and_records_accuracy(tiny_mlp: RunConfig, loss: str) -> None:
    lr, steps = {"cross_entropy": (0.3, 30), "mse": (3e-3, 150), "mse_mean": (3e-2, 150), "softmax_mse": (0.3, 30)}[
        loss
    ]
    config = changed(tiny_mlp, loss=loss, lr=lr, steps=steps, val_interval=steps)
    result = train(config)
    last = RunDir(config.run_dir).records()[-1]
    assert result.final["final_train_accuracy"] > 0.3, "three times chance"
    assert result.final["final_val_accuracy"] == last["val_accuracy"] > 0.2
    assert result.tokens == steps * 64
    assert ("cross_entropy" in last) == (loss != "cross_entropy")
    checkpoint = Checkpoint(RunDir(config.run_dir).checkpoint)
    model, _ = build(config)
    model.load_state_dict({name: checkpoint.tensor(f"model.{name}") for name in model.state_dict()})
    x, y = Examples(*digits("val"))[np.arange(360)]
    logits = F.linear(model(x), model.readout.weight)
    assert (logits.argmax(1) == y).float().mean().item() == pytest.approx(last["val_accuracy"])
    one_hot = F.one_hot(y, 10).float()
    expected = {
        "cross_entropy": lambda: F.cross_entropy(logits, y),
        "mse": lambda: (logits - one_hot).square().sum(1).mean(),
        "mse_mean": lambda: F.mse_loss(logits, one_hot),
        "softmax_mse": lambda: (logits.softmax(1) - one_hot).square().sum(1).mean(),
    }[loss]()
    assert last["val_loss"] == pytest.approx(expected.item(), rel=1e-5)


def published(tiny_mlp: RunConfig, **changes: object) -> RunConfig:
    """One epoch of the published multi-index runs, on a real value."""
    settings = {"data": DataConfig("multi-index-published", "multi_index_published"), "loss": "mse_scalar", "epochs": 1,
                "last_batch": "short", "val_sequences": 1000, "val_interval": 1000}  # fmt: skip
    return changed(tiny_mlp, **(settings | changes))


def test_a_scalar_run_equals_a_plain_loop(tiny_mlp: RunConfig) -> None:
    """157 steps of torch's own SGD and MSELoss, the last on 16 examples."""
    config = published(tiny_mlp, diagnostics=DiagnosticsConfig(first=1, sharpness_interval=157))
    assert (config.steps, config.total_tokens, config.d_out) == (157, 10_000, 1)
    result = train(config, show_progress=False)
    records = RunDir(config.run_dir).records()
    assert (records[-1]["tokens"], records[-2]["tokens"], result.tokens) == (10_000, 9984, 10_000)
    x, value = (torch.from_numpy(array) for array in multi_index_published_values("train"))
    model, specs = build(config)
    initialize_(model, specs, scaling_of(config), config.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    order = sample_order(np.arange(10_000), 10_000, config.seed)
    for record, start in zip(records, range(0, 10_000, 64), strict=True):
        rows = torch.from_numpy(order[start : start + 64])
        output = F.linear(model(x[rows]), model.readout.weight)[:, 0]
        loss = torch.nn.MSELoss()(output, value[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert record["accuracy"] == pytest.approx(((output > 0) == (value[rows] > 0)).double().mean().item(), abs=1e-6)
    assert len(rows) == 16
    x, value = (torch.from_numpy(array) for array in multi_index_published_values("val"))
    output = F.linear(model(x), model.readout.weight)[:, 0]
    assert records[-1]["val_loss"] == pytest.approx(F.mse_loss(output, value).item(), rel=1e-3)
    found = {key for record in records for key in record} | set(result.final)
    assert not [key for key in found if "cross_entropy" in key or "calibration" in key or "entropy" in key]
    assert "sharpness/1" in records[-1]
    assert result.final["final_val_accuracy"] == records[-1]["val_accuracy"]


def test_a_run_with_a_short_batch_goes_on_where_it_was(tiny_mlp: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = published(
        tiny_mlp, global_batch=3000, micro_batch=None, epochs=3, checkpoint_interval=1, out=f"{tiny_mlp.out}/whole"
    )
    assert config.steps == 12
    train(config, show_progress=False)
    original = Recorder.on_train_batch_end

    def interrupted(self: Recorder, trainer, module, *rest) -> None:  # type: ignore[no-untyped-def]
        original(self, trainer, module, *rest)
        if trainer.global_step in (4, 7):
            raise KeyboardInterrupt

    cut = changed(config, out=f"{tiny_mlp.out}/cut")
    monkeypatch.setattr(Recorder, "on_train_batch_end", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(cut, show_progress=False)
    monkeypatch.setattr(Recorder, "on_train_batch_end", original)
    train(cut, show_progress=False)
    whole, resumed = (RunDir(run.run_dir).records() for run in (config, cut))
    keys = ("step", "loss", "accuracy", "tokens", "grad_norm")
    assert [[r[key] for key in keys] for r in whole] == [[r[key] for key in keys] for r in resumed]
    assert [r["tokens"] for r in whole[:5]] == [3000, 6000, 9000, 10_000, 13_000]


def test_a_loss_summed_over_the_micro_batch_counts_it(tiny_mlp: RunConfig) -> None:
    """The published GPTs' MSE: the gradient of a step is the mean over micro-batches of sums, and is clipped as such."""
    whole = changed(tiny_mlp, loss="softmax_mse_sum", steps=2, lr=1e-3, grad_clip=10.0)
    halves = changed(whole, micro_batch=32)
    mean = changed(whole, loss="softmax_mse")
    assert len({config.run_name for config in (whole, halves, mean)}) == 3
    assert changed(mean, micro_batch=32).run_name == mean.run_name
    records = {}
    for config, count in ((whole, 64), (halves, 32), (mean, 1)):
        train(config, show_progress=False)
        records[count] = RunDir(config.run_dir).records()
    for count in (64, 32):
        first, of_mean = records[count][0], records[1][0]
        assert first["loss"] == pytest.approx(count * of_mean["loss"], rel=1e-5)
        assert first["grad_norm"] == pytest.approx(count * of_mean["grad_norm"], rel=1e-4)
        assert first["cross_entropy"] == pytest.approx(of_mean["cross_entropy"], rel=1e-5)
    assert records[64][-1]["val_loss"] == pytest.approx(64 * records[1][-1]["val_loss"], rel=0.1), "in the same unit"


def test_a_study_of_mlps_is_fitted(tiny_mlp: RunConfig) -> None:
    runs = grid(study(tiny_mlp, widths=(16, 32), lrs=(1e-3, 0.1, 1e4)))
    for run in runs:
        train(run)
    fitted = fit([Path(tiny_mlp.out) / "mlp"])
    for width in fitted.groups[0].widths:
        assert width.optimum.lr == 0.1
        assert (width.edge.last_stable_lr, width.edge.min_unstable_lr) == (0.1, 1e4)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model_n_layer": 1}, "--model.n_layer of an MLP must be 2..10, got 1"),
        ({"model_n_layer": 11}, "--model.n_layer of an MLP must be 2..10, got 11"),
        ({"model_kv_heads": 4}, "--model.kv_heads is for GPTs, not for an MLP"),
        ({"model_qk_norm": False}, "--model.qk_norm is for GPTs, not for an MLP"),
        ({"depth_scaling": "sqrt"}, "--depth_scaling needs residual branches: --model.residual true"),
        ({"data": DataConfig()}, "--data sotu is for --model.kind gpt, not mlp: such as --config quick"),
        ({"model_kind": "gpt"}, "--data digits is for --model.kind mlp, not gpt: such as --config mlp-digits"),
        ({"momentum": 0.9, "weight_decay": 0.1}, "--weight_decay is decoupled: use --optimizer adamw or muon, or sgd or muon_sgd without momentum"),
        ({"momentum": 0.9, "optimizer": "adam"}, "--momentum is SGD's: adam has --betas"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_named(tiny_mlp: RunConfig, change: dict[str, object], line: str) -> None:
    with pytest.raises(RequestError) as error:
        changed(tiny_mlp, **change)
    assert str(error.value) == line
