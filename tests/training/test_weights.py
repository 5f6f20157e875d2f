"""weights.json: every name that records use, with the role that the model's own modules give it; analysis reads it."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.study.load import load_study
from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig
from pipeline.entries.kinds import Place, place_of
from pipeline.errors import RequestError
from pipeline.models.build import build
from pipeline.run.directory import RunDir
from pipeline.training.trainer import train
from pipeline.training.weights import describe_weights
from tests.conftest import changed

# theory's layer -> the role of its weights
ROLE = {"input": "input", "hidden": "hidden", "hidden1": "hidden", "key_value": "hidden", "output": "output"}
ROLE |= {"vector": "vector", "finite": "finite"}


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"model_kv_heads": 1},
        {"model_qk_norm": False},
        {"model_name": "tiny-llama-1.1b"},
    ],
)
def test_roles_are_the_modules_own_and_groups_agree_with_them(tiny: RunConfig, model: dict[str, object]) -> None:
    config = changed(tiny, **model)
    module, specs = build(config)
    weights = describe_weights(module, specs, config)
    assert set(specs) <= set(weights)
    for name, spec in specs.items():
        assert weights[name]["role"] == spec.role
        assert weights[name]["place"] == spec.place
        layer = weights[name]["layer"]
        fused = name.endswith("attn.qkv.weight")  # reported in its parts
        assert layer is None if fused else ROLE[layer] == spec.role, name
    for row in "qkv":
        assert weights[f"transformer.h.0.attn.{row}.weight"]["role"] == "hidden"
    assert weights["transformer.h.1.attn"]["part"] == "attention"


def test_of_an_mlp() -> None:
    config = RunConfig(
        width=16,
        model=ModelConfig(kind="mlp", n_layer=4),
        data=DataConfig(name="digits", format="digits"),
        optimizer="sgd",
    )
    module, specs = build(config)
    weights = describe_weights(module, specs, config)
    assert {name: entry["group"] for name, entry in weights.items() if name in specs} == {
        "layers.0.weight": "input", "layers.1.weight": "first hidden", "layers.2.weight": "hidden", "readout.weight": "readout",
    }  # fmt: skip
    module_of = {"role": None, "place": None, "trained": None}
    assert weights["layers.2"] == {**module_of, **dataclasses.asdict(place_of("layers.2", config))}
    assert weights["layers.2.weight"]["trained"] is True


@pytest.mark.parametrize(
    ("train", "trained"),
    [
        ("readout", {"readout.weight", "readout.bias"}),
        ("no_input", {"layers.1.weight", "layers.1.bias", "norms.0.weight", "norms.1.weight", "readout.weight", "readout.bias"}),
    ],
)  # fmt: skip
def test_it_says_what_is_not_trained(train: str, trained: set[str]) -> None:
    model = ModelConfig(kind="mlp", n_layer=3, norm="rmsnorm", bias=True, train=train)
    config = RunConfig(width=16, model=model, data=DataConfig("digits", "digits"), optimizer="sgd")
    weights = describe_weights(*build(config), config)
    assert {name for name, entry in weights.items() if entry["trained"]} == trained
    groups = {name: weights[name]["group"] for name in ("layers.0.bias", "norms.1.weight", "readout.bias")}
    assert groups == {"layers.0.bias": "biases", "norms.1.weight": "norms", "readout.bias": "readout bias"}


def test_a_tied_tensor_has_both_its_names(tiny: RunConfig) -> None:
    config = changed(tiny, model_tie_embeddings=True)
    weights = describe_weights(*build(config), config)
    assert {name: weights[name]["layer"] for name in ("transformer.wte.weight", "lm_head.weight")} == {
        "transformer.wte.weight": "input", "lm_head.weight": "output",
    }  # fmt: skip


def test_training_writes_it_once_with_every_name_of_its_records(tiny: RunConfig) -> None:
    config = dataclasses.replace(tiny, diagnostics=DiagnosticsConfig(first=1, spectra=True))
    train(config, show_progress=False)
    run = RunDir(config.run_dir)
    named = {name.partition("/")[2] for record in run.records() for name in record if "/" in name}
    assert named <= set(run.weights())
    assert any(name.endswith("attn.q.weight") for name in named)
    before = run.weights_file.stat()
    run.record_weights({})
    assert run.weights_file.stat() == before


def test_analysis_reads_the_file_and_older_runs_without_it(tiny: RunConfig, tmp_path: Path) -> None:
    for width in (32, 64):
        train(dataclasses.replace(tiny, width=width, diagnostics=DiagnosticsConfig(first=1)), show_progress=False)
    study = Path(tiny.out) / tiny.study
    loaded = load_study([study])
    (known,) = ladders(loaded, recorded(loaded))
    file = next(iter(study.glob("*w32*/weights.json")))
    content = json.loads(file.read_text())
    for older in study.glob("*/weights.json"):
        older.unlink()
    (derived,) = ladders(loaded, recorded(loaded))
    assert derived.places == known.places
    content["lm_head.weight"] |= {"group": "v", "layer": "hidden"}
    file.write_text(json.dumps(content))
    (told,) = ladders(loaded, recorded(loaded))
    assert told.places["lm_head.weight"] == Place("v", "hidden")
    del content["lm_head.weight"]
    file.write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"weights\.json of a run of width 32 lacks lm_head\.weight"):
        _ = ladders(loaded, recorded(loaded))[0].places
    file.write_text("[]")
    with pytest.raises(RequestError, match=r"weights\.json is damaged"):
        ladders(loaded, recorded(loaded))
