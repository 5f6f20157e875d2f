"""The monitor in real training: what it records, that it changes nothing, resuming, and two processes under every
strategy."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig, config_hash
from pipeline.data.open import open_data
from pipeline.diagnostics.coordinate_check import CoordinateCheck
from pipeline.diagnostics.sharpness import Sharpness
from pipeline.errors import RequestError
from pipeline.models.init import initial_values
from pipeline.recipes import load_run
from pipeline.run.directory import Record, RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.module import TrainingModule, first_samples, inputs_and_targets
from pipeline.training.monitor import Monitor
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.real.test_strategies import STRATEGIES, parallel, run_all
from tests.training.test_trainer import curve

FIRST = DiagnosticsConfig(first=3, interval=5, probe=5, spectra=True)


def diagnosed(config: RunConfig, study: str = "diagnosed", **settings: Any) -> RunConfig:
    return changed(config, study=study, diagnostics=dataclasses.replace(FIRST, **settings))


def trained(config: RunConfig) -> list[Record]:
    train(config, show_progress=False)
    return RunDir(config.run_dir).records()


def inside(record: Record) -> dict[str, float]:
    """What was measured inside the model."""
    return {k: v for k, v in record.items() if "/" in k or k.startswith(("probe_", "max_prob", "entropy"))}


def perceptron(out: str, **settings: Any) -> RunConfig:
    return RunConfig(
        width=32, base_width=16, param="mup", lr=0.1, optimizer="sgd", steps=12, warmup_steps=0, global_batch=16,
        micro_batch=4, val_interval=5, val_sequences=31, out=out, wandb="disabled",
        model=ModelConfig(kind="mlp", n_layer=3), data=DataConfig("digits", "digits"), **settings,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Records


def test_checked_steps_and_no_others_have_the_quantities(tiny: RunConfig) -> None:
    records = {r["step"]: r for r in trained(diagnosed(changed(tiny, log_interval=4)))}
    assert list(records) == [1, 2, 3, 4, 5, 8, 10, 12], "off the log's interval too"
    checked = {step for step, record in records.items() if "effective/lm_head.weight" in record}
    assert checked == {1, 2, 3, 5, 10, 12}, "the first, the interval's, and the last"
    record = records[10]
    for key in (
        "propagating/transformer.h.1.attn.v.weight", "update/transformer.wte.weight", "cosine/transformer.ln_f.weight",
        "gradient/transformer.h.0.attn.q.weight", "gradient/transformer.h.0.attn.k.bias", "gradient/lm_head.weight",
        "operator_norm_update/transformer.h.0.mlp.fc.weight", "alignment_effective/lm_head.weight",
        "attention_entropy/transformer.h.0.attn", "probe_loss", "max_probability", "val_loss", "val_entropy",
        "val_max_probability", "val_calibration_error",
    ):  # fmt: skip
        assert math.isfinite(record[key]), key
    assert "val_entropy" not in records[2]
    assert not any("val_" in key for key in records[3])


@pytest.mark.parametrize(("precision", "reference"), [("32-true", "previous"), ("bf16-mixed", "init")])
def test_training_is_the_same_with_and_without(tiny: RunConfig, precision: str, reference: str) -> None:
    plain = changed(tiny, precision=precision, micro_batch=2, study="plain")
    monitored = diagnosed(plain, reference=reference, sharpness_interval=4, sharpness_probe=2, ntk=True)
    assert config_hash(plain) == config_hash(monitored)
    train(plain, show_progress=False)
    train(monitored, show_progress=False)
    ours, theirs = curve(monitored), curve(plain)
    assert [{k: r[k] for k in t} for r, t in zip(ours, theirs, strict=True)] == theirs
    a, b = (Checkpoint(RunDir(c.run_dir).checkpoint) for c in (monitored, plain))
    assert a.shapes.keys() - b.shapes.keys() == {"beside.sharpness", "beside.ntk"}
    for name in b.shapes:
        assert torch.equal(a.read(name), b.read(name))


def test_numbers_are_those_of_the_weights_after_the_step(tiny: RunConfig) -> None:
    """Against a check made by hand at the run's end, and gradients by hand in its first step: before clipping, summed
    up over micro-batches, split by rows."""
    config = diagnosed(changed(tiny, grad_clip=0.01, micro_batch=1))
    first, *_, last = trained(config)
    data = open_data(config)
    module = TrainingModule(config, data)
    inputs, targets = inputs_and_targets(first_samples(data, config, 5))
    batch = next(data.train.batches(first_step=0, micro_batch=4, rank=0, world_size=1))
    assert isinstance(batch, Tensor)
    assert torch.equal(batch[:, :-1], inputs[:4]), "the first ones of the training order"
    module.loss(batch).loss.backward()
    rms = {
        name: p.grad.square().mean().sqrt().item() for name, p in module.model.named_parameters() if p.grad is not None
    }
    assert first["gradient/lm_head.weight"] == pytest.approx(rms["lm_head.weight"], rel=1e-4)
    assert first["gradient/transformer.ln_f.bias"] == pytest.approx(rms["transformer.ln_f.bias"], rel=1e-4)
    qkv = module.model.transformer.h[0].attn.qkv.weight.grad
    for piece, rows in {"q": slice(0, 32), "k": slice(32, 64), "v": slice(64, 96)}.items():
        wanted = qkv[rows].square().mean().sqrt().item()
        assert first[f"gradient/transformer.h.0.attn.{piece}.weight"] == pytest.approx(wanted, rel=1e-4)

    from pipeline.training.checkpoint.files import Checkpoint

    saved = Checkpoint(RunDir(config.run_dir).checkpoint)
    for name, p in module.model.named_parameters():
        p.data.copy_(saved.tensor(f"model.{name}"))
    draw = initial_values(module.model, module.specs, module.scaling, config.seed)
    check = CoordinateCheck(module.model, inputs, targets, initial=draw, spectra=True)
    check.refer()
    for key, value in check.check().items():
        assert last[key] == pytest.approx(value, rel=1e-3 if "norm" in key or "align" in key else 1e-5, abs=1e-9), key


def test_sharpness_is_that_of_the_model_at_that_step(tmp_path: Path) -> None:
    config = perceptron(
        str(tmp_path), diagnostics=DiagnosticsConfig(sharpness_interval=5, sharpness_probe=20, eigenvalues=2, ntk=True)
    )
    records = trained(config)
    measured = {r["step"]: r for r in records if "sharpness/1" in r}
    assert list(measured) == [5, 10, 12]
    assert all("effective/readout.weight" not in r and "val_entropy" not in r for r in records)
    from pipeline.training.checkpoint.files import Checkpoint

    module = TrainingModule(config, open_data(config))
    saved = Checkpoint(RunDir(config.run_dir).checkpoint)
    for name, p in module.model.named_parameters():
        p.data.copy_(saved.tensor(f"model.{name}"))
    inputs, targets = inputs_and_targets(first_samples(module.data, config, 20))
    exact = Sharpness(module.model, inputs, targets, "cross_entropy", eigenvalues=2, iterations=60, ntk=True).measure()
    for key, value in exact.items():
        assert measured[12][key] == pytest.approx(value, rel=0.02), key


def test_reference_previous_adds_up_to_one_step(tiny: RunConfig) -> None:
    """The bias of a norm moves by lr under the first step of Adam; against the previous step that is so at every
    step."""
    config = diagnosed(
        changed(tiny, optimizer="adam", weight_decay=0.0, warmup_steps=0, lr_min_ratio=1.0, betas=(0.0, 0.0)),
        reference="previous", first=2, interval=6,
    )  # fmt: skip
    records = {r["step"]: r for r in trained(config)}
    for step in (1, 2, 6, 12):
        assert records[step]["effective/transformer.ln_f.bias"] == pytest.approx(config.lr, rel=1e-3), step


def test_initial_weights_kept_or_drawn_again_are_the_same(tiny: RunConfig) -> None:
    kept, drawn = (trained(diagnosed(tiny, how, initial=how)) for how in ("keep", "regenerate"))
    assert [inside(r) for r in kept] == [inside(r) for r in drawn]


@pytest.mark.parametrize("reference", ["init", "previous"])
def test_a_resumed_run_measures_what_an_uninterrupted_one_does(
    tiny: RunConfig, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between a checkpoint and a check; what was known of W_0 is gone."""
    config = diagnosed(changed(tiny, checkpoint_interval=4), reference=reference, first=12)
    whole = trained(config)
    again = changed(config, study="resumed")
    original = Monitor.on_train_batch_end

    def killed(self: Monitor, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == 6:
            raise SystemError("killed")
        original(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "on_train_batch_end", killed)
        with pytest.raises(SystemError):
            train(again, show_progress=False)
    resumed = trained(again)
    assert [r["step"] for r in resumed] == list(range(1, 13))
    for a, b in zip(resumed, whole, strict=True):
        assert a.keys() == b.keys()
        for key, value in inside(b).items():
            spectral = key.startswith(("operator_norm", "alignment", "update_rank"))  # started from other vectors
            assert a[key] == pytest.approx(value, rel=1e-3 if spectral else 1e-6, abs=1e-12), (a["step"], key)


def test_accumulation_does_not_matter(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[object] = []
    check = CoordinateCheck.check
    monkeypatch.setattr(CoordinateCheck, "check", lambda self, **k: (checks.append(self), check(self, **k))[1])
    sgd = changed(tiny, optimizer="sgd", lr=0.1, weight_decay=0.0)  # Adam would blow up the rounding of zero gradients
    whole = trained(diagnosed(changed(sgd, micro_batch=4), "whole"))
    parts = trained(diagnosed(changed(sgd, micro_batch=1), "parts"))
    assert len(checks) == 2 * 6, "once per step, not per micro-batch"
    for a, b in zip(parts, whole, strict=True):
        assert inside(a).keys() == inside(b).keys()
        for key, value in inside(b).items():
            assert a[key] == pytest.approx(value, rel=1e-3, abs=1e-6), (a["step"], key)


def test_a_diverging_run_ends_as_diverged(tiny: RunConfig) -> None:
    config = diagnosed(
        changed(tiny, optimizer="sgd", weight_decay=0.0, lr=1e6, grad_clip=None, warmup_steps=0),
        first=12, sharpness_interval=1, sharpness_probe=2,
    )  # fmt: skip
    assert train(config, show_progress=False).status == "diverged"
    *_, last = RunDir(config.run_dir).records()
    assert last["loss"] is None
    assert last["effective/lm_head.weight"] is None


def test_a_perceptron_is_monitored(tmp_path: Path) -> None:
    config = perceptron(str(tmp_path), diagnostics=FIRST)
    *_, last = trained(config)
    for key in ("effective/layers.1.weight", "sparsity/layers.0", "gradient/readout.weight", "val_calibration_error"):
        assert math.isfinite(last[key])
    assert 0.2 < last["sparsity/layers.0"] < 0.8
    assert "propagating/layers.0.weight" in last
    assert last["propagating/layers.0.weight"] == 0.0, "the input does not change"


def test_a_stream_is_probed_with_what_it_is_validated_with(tmp_path: Path) -> None:
    """Its own first samples cannot be read again at no cost."""
    config = perceptron(str(tmp_path))
    streamed = dataclasses.replace(open_data(config), train=object())  # type: ignore[arg-type]
    x, y = inputs_and_targets(first_samples(streamed, config, 362))
    everything, classes = streamed.val[torch.arange(360).numpy()]
    assert torch.equal(x, torch.cat([everything, everything[:2]]))
    assert torch.equal(y, torch.cat([classes, classes[:2]]))


def test_validation_metrics_are_those_of_the_split(tmp_path: Path) -> None:
    config = perceptron(str(tmp_path), diagnostics=FIRST)
    *_, last = trained(config)
    module = TrainingModule(config, open_data(config))
    from pipeline.training.checkpoint.files import Checkpoint

    saved = Checkpoint(RunDir(config.run_dir).checkpoint)
    for name, p in module.model.named_parameters():
        p.data.copy_(saved.tensor(f"model.{name}"))
    x, _ = module.data.val[torch.arange(31).numpy()]
    p = F.linear(module.model(x), module.model.readout.weight).softmax(-1).detach()
    assert last["val_max_probability"] == pytest.approx(p.amax(-1).mean().item(), rel=1e-5)
    assert last["val_entropy"] == pytest.approx(-(p * p.log()).sum(-1).mean().item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def test_settings_that_cannot_be(tiny: RunConfig) -> None:
    for settings, words in {
        ("interval", -1): "--diagnostics.interval must not be negative",
        ("probe", 0): "--diagnostics.probe must be at least 1",
        ("eigenvalues", 2): "--diagnostics.eigenvalues needs --diagnostics.sharpness_interval",
        ("ntk", True): "--diagnostics.ntk needs --diagnostics.sharpness_interval",
        ("spectra", True): "--diagnostics.spectra needs --diagnostics.interval or --diagnostics.first",
        ("reference", "previous"): "--diagnostics.reference needs",
    }.items():
        with pytest.raises(RequestError, match=words):
            changed(tiny, diagnostics=DiagnosticsConfig(**dict([settings])))  # type: ignore[arg-type]


def test_a_run_of_before_is_read(tiny: RunConfig) -> None:
    config = diagnosed(tiny)
    trained(config)
    file = config.run_dir / "config.yaml"
    assert load_run(file)[0] == config
    start = file.read_text()
    without = start[: start.index("diagnostics:")] + start[start.index("recorded:") :]
    file.write_text(without)
    assert load_run(file)[0].diagnostics == DiagnosticsConfig()


# ---------------------------------------------------------------------------------------------------------------------
# In another Lightning project


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_plain(folder: Path, callbacks: list[pl.Callback]) -> Plain:
    torch.manual_seed(0)
    module = Plain()
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(40, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator))
    trainer = pl.Trainer(
        max_steps=7, callbacks=callbacks, logger=CSVLogger(folder), enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=0.1, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=8))
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*`srun` command is available")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_any_lightning_project(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    probe = torch.randn(4, 6, generator=generator), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(0)
    start = Plain()
    monitor = Monitor(probe, every=3, first=1, spectra=True)
    silent = Monitor(probe, every=3, log=False)
    monitored, alone = fit_plain(tmp_path / "a", [monitor]), fit_plain(tmp_path / "b", [])
    fit_plain(tmp_path / "c", [silent])
    assert silent.values.keys() <= monitor.values.keys()
    assert not list((tmp_path / "c").rglob("metrics.csv"))
    for p, q in zip(monitored.parameters(), alone.parameters(), strict=True):
        assert torch.equal(p, q)
    (file,) = (tmp_path / "a").rglob("metrics.csv")
    header, *rows = (line.split(",") for line in file.read_text().splitlines())
    logged = [dict(zip(header, row, strict=True)) for row in rows]
    assert [int(r["step"]) for r in logged if r["effective/layers.3.weight"]] == [1, 3, 6, 7]
    last = {key: float(value) for key, value in logged[-1].items() if value}
    assert {k: v for k, v in last.items() if "/" in k}.keys() == {k for k in monitor.values if "/" in k}
    with torch.no_grad():
        h = monitored.layers[0](probe[0]).relu()
        difference = monitored.layers[3].weight - start.layers[3].weight
        wanted = (h @ difference.T).square().mean(-1).sqrt().mean()
        loss = F.cross_entropy(monitored.eval()(probe[0]), probe[1])
    assert last["effective/layers.3.weight"] == pytest.approx(float(wanted), rel=1e-4)
    assert last["probe_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert last["sparsity/layers.0"] == pytest.approx(float((h == 0).float().mean()), rel=1e-5)
    assert last["gradient/layers.3.bias"] > 0


# ---------------------------------------------------------------------------------------------------------------------
# Two processes


def worst(ours: list[Record], theirs: list[Record]) -> dict[str, float]:
    """Largest relative difference of every quantity, over all steps and weights; those that nearly vanish by themselves
    (the gradient of a key's bias is zero but for rounding) count absolutely."""
    found: dict[str, float] = {}
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys(), (a["step"], a.keys() ^ b.keys())
        for key in b:
            if key in ("tokens_per_second",):
                continue
            quantity = key.partition("/")[0]
            found[quantity] = max(found.get(quantity, 0.0), abs(a[key] - b[key]) / max(abs(b[key]), 1e-6))
    return found


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tiny: RunConfig, tmp_path: Path) -> None:
    """Every strategy, both references, a probe that does not divide, spectra and sharpness; resumed under another
    strategy; the perceptron."""
    recipe = changed(
        tiny, width=64, param="mup", optimizer="sgd", lr=0.05, weight_decay=0.0, global_batch=8, micro_batch=2,
        grad_clip=0.5, val_sequences=5,
    )  # fmt: skip
    full = diagnosed(recipe, "alone", sharpness_interval=6, sharpness_probe=2, ntk=True)
    previous = diagnosed(recipe, "previous", reference="previous", probe=1)
    mlp = perceptron(tiny.out, diagnostics=FIRST, study="mlp")
    sharded = ("fsdp", "deepspeed_zero3")
    runs: list[tuple[int | None, RunConfig]] = [(None, parallel(full, s)) for s in STRATEGIES]
    runs += [(None, parallel(previous, s, f"previous-{s}")) for s in sharded]
    runs += [(None, parallel(mlp, s, f"mlp-{s}")) for s in ("ddp", *sharded)]
    runs += [(7, parallel(full, "fsdp", "chain")), (None, parallel(full, "deepspeed_zero3", "chain"))]
    output = run_all(runs, tmp_path)
    assert "invalidate" not in output.lower(), output
    pairs = [(s, parallel(full, s), full) for s in STRATEGIES]
    pairs += [(f"previous {s}", parallel(previous, s, f"previous-{s}"), previous) for s in sharded]
    pairs += [(f"mlp {s}", parallel(mlp, s, f"mlp-{s}"), mlp) for s in ("ddp", *sharded)]
    pairs += [("chain", parallel(full, "deepspeed_zero3", "chain"), full)]
    alone = {c.study: trained(c) for c in (full, previous, mlp)}
    off = {name: worst(RunDir(ours.run_dir).records(), alone[theirs.study]) for name, ours, theirs in pairs}
    exact = {
        name: {k: v for k, v in w.items() if v > (1e-3 if k in ("sharpness", "ntk") else 1e-4)}
        for name, w in off.items()
    }
    assert {name: w for name, w in exact.items() if w} == {}, json.dumps(off, indent=1)
