"""Recipes: every shipped one built, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline.cli.arguments import parse
from pipeline.cli.main import main
from pipeline.config import RunConfig, run_settings
from pipeline.errors import RequestError
from pipeline.models.build import about, build
from pipeline.optim import build_optimizer
from pipeline.recipes import _ELSEWHERE, keys, load_run, shipped
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import grid
from pipeline.training.describe import describe
from pipeline.training.trainer import train

RECIPES = shipped("model_configs")
OVERLAYS = {
    name: [word for word in re.findall(r"[\w-]+", path.read_text().partition(":")[0]) if word in RECIPES]
    for name, path in RECIPES.items()
    if path.read_text().startswith("# Over ")
}
"""Recipes that go over others, and which."""


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - OVERLAYS.keys()))
def test_every_recipe_parses_and_builds(name: str) -> None:
    config, _ = parse("train", ["--config", name])
    study, _ = parse("sweep", ["--config", name])
    assert isinstance(config, RunConfig)
    assert isinstance(study, SweepConfig)
    assert study.widths
    assert study.lrs
    for run in {run.width: run for run in grid(study)}.values():  # whose tensors are the same at every other axis
        with torch.device("meta"):
            model, specs = build(run)
        assert specs.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("name", sorted(OVERLAYS))
def test_every_overlay_says_what_it_goes_over_and_builds_there(name: str) -> None:
    first, *others = OVERLAYS[name]
    if name.startswith("mlp-"):
        others = []  # one of them
    study, _ = parse("sweep", [part for recipe in (first, *others, name) for part in ("--config", recipe)])
    runs = sorted(grid(study), key=lambda run: run.width)
    for run in (runs[0], runs[-1]):
        with torch.device("meta"):
            model, specs = build(run)
        assert specs.keys() == dict(model.named_parameters()).keys()


# What the paper calls 30M, 167M and 1.4B; the default recipe: L (12 n^2 + 13 n + 4 x 32) + 2 V n + 2 n.
@pytest.mark.parametrize(
    ("recipe", "width", "parameters"),
    [
        ("pythia-adamw", 256, 30_100_736),
        ("pythia-adamw", 1024, 167_581_952),
        ("pythia-adamw", 4096, 1_425_295_616),
        ("quick", 64, 362_496),
        ("quick", 1024, 29_389_056),
        ("mlp-multi-index", 256, 100 * 256 + 256**2 + 256 * 2),
        ("mlp-digits", 1024, 64 * 1024 + 6 * 1024**2 + 1024 * 10),
    ],
)
def test_parameter_counts(recipe: str, width: int, parameters: int) -> None:
    config, _ = parse("train", ["--config", recipe, "--width", str(width)])
    assert f"# parameters  {parameters:,}\n" in describe(config)


def test_the_paper_recipe_is_the_papers() -> None:
    c, _ = parse("train", ["--config", "pythia-adamw"])
    assert (c.model.n_layer, c.model.head_size, c.model.kv_heads, c.model.vocab_size) == (6, 32, 4, 50304)
    assert (c.seq_len, c.global_batch, c.steps, c.warmup_steps, c.lr_min_ratio) == (512, 256, 10681, 700, 0.1)
    assert (c.betas, c.eps, c.weight_decay, c.grad_clip, c.precision) == ((0.9, 0.95), 1e-12, 0.1, 1.0, "bf16-mixed")
    assert (c.base_width, c.embedding_init, c.model.qk_norm, c.model.train_norms) == (256, "neox", True, True)


@pytest.mark.parametrize(
    ("recipe", "steps", "examples"),
    [
        ("mlp-fashion-mnist", 938, 60_000),
        ("mlp-mnist", 938, 60_000),
        ("mlp-cifar10", 782, 50_000),
        ("mlp-multi-index-published", 157, 10_000),
    ],
)
def test_the_mlp_recipes_are_the_papers(recipe: str, steps: int, examples: int) -> None:
    c, _ = parse("train", ["--config", recipe])
    assert (c.steps, c.total_tokens, c.global_batch, c.warmup_steps, c.lr_min_ratio) == (steps, examples, 64, 0, 1.0)
    assert (c.optimizer, c.momentum, c.weight_decay, c.grad_clip, c.val_interval) == ("sgd", 0.0, 0.0, None, 1000)
    adam, _ = parse("train", ["--config", recipe, "--optimizer", "adam"])
    built = build_optimizer(adam, [{"params": [torch.nn.Parameter(torch.ones(2))]}])
    theirs = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).defaults
    assert {key: built.defaults[key] for key in ("betas", "eps", "weight_decay")} == {
        key: theirs[key] for key in ("betas", "eps", "weight_decay")
    }


def test_the_published_multi_index_grid() -> None:
    study, _ = parse("sweep", ["--config", "mlp-multi-index-published"])
    half_decades = [10 ** (k / 2) for k in range(-7, 7)]
    assert study.lrs == pytest.approx(half_decades, rel=1e-4)
    assert study.widths == (256, 1024, 4096)


@pytest.mark.parametrize("recipe", ["mlp-fashion-mnist", "mlp-mnist", "mlp-cifar10", "mlp-multi-index-published"])
def test_the_mlp_recipes_take_two_steps(recipe: str, tmp_path: Path) -> None:
    """Those whose data are not here, on a few examples of their shape."""
    flags = [
        "--config",
        recipe,
        "--width",
        "16",
        "--steps",
        "2",
        "--val_sequences",
        "8",
        "--out",
        str(tmp_path),
        "--wandb",
        "disabled",
    ]
    vectors = parse("train", flags)[0].data.vectors
    if vectors.from_files and not Path(vectors.folder or "/none").is_dir():
        rows = np.random.default_rng(0).integers(0, 256, (140, vectors.d_in), dtype=np.uint8)
        np.savez(tmp_path / "few.npz", x=rows, y=np.arange(140) % 10)
        flags += ["--data.path", str(tmp_path / "few.npz")]
    result = train(parse("train", flags)[0], show_progress=False)
    assert (result.status, result.steps, result.tokens) == ("completed", 2, 128)


@pytest.mark.parametrize(
    ("recipe", "kept", "replaced"),
    [
        ("llama", "16 blocks, attention before MLP, heads of 64, all heads together 1 x width, 8 key/value heads, "
         "no qk-norm, RMSNorm (eps 1e-05), MLP of 4 x width (gated, SiLU), rotary base 500000 on 100% of a head, stretched",
         "vocabulary of 128,256 -> vocabulary of 50,304, context of 131,072 -> context of 512"),
        ("qwen3", "28 blocks, attention before MLP, 8 key/value heads, qk-norm, RMSNorm (eps 1e-06), MLP of 3 x width",
         "heads of 128 -> heads of 64, all heads together 2 x width -> all heads together 1 x width, vocabulary of 151,936"),
    ],
)  # fmt: skip
def test_recipes_in_the_style_of_others_say_what_is_theirs(
    recipe: str, kept: str, replaced: str, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keeps, replaces, tied = about(parse("train", ["--config", recipe, "--width", "1024"])[0])
    assert keeps.partition(" keeps: ")[2].startswith(kept)
    assert replaces.partition(" replaces: ")[2].startswith(replaced)
    assert "two tensors" in tied
    flags = (
        f"--width 64 --base_width 32 --model.head_size 8 --model.n_layer 2 --model.vocab_size 300 --data {text_file}"
    )
    run = "--steps 2 --warmup_steps 0 --global_batch 2 --seq_len 16 --val_sequences 2 --precision 32-true --wandb disabled"
    assert main(["train", "--config", recipe, *flags.split(), *run.split(), "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "heads of 64 -> heads of 8" in said or "heads of 128 -> heads of 8" in said
    assert "(2 steps, 64 tokens, 0 s)" in said


def test_a_run_says_nothing_of_the_default_name() -> None:
    assert "keeps" not in describe(parse("train", [])[0])
    flags = ["--model.name", "Gemma-3-4b-it", "--model.qk_norm", "false", "--model.tie_embeddings", "true"]
    said = " ".join(describe(parse("train", flags)[0]).replace("#", "").split())
    for words in ("qk-norm -> no qk-norm", "embeddings times sqrt(width) -> embeddings as they are", "are one tensor",
                  "RMSNorm (eps 1e-05) before and after attention and MLP", "window of 1024 tokens"):  # fmt: skip
        assert words in said


def test_a_runs_config_reads_back(tiny: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(run_settings(tiny) | {"recorded": {"versions": {}}}))
    assert load_run(path)[0] == tiny == parse("train", ["--config", str(path)])[0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"name: [", "{path} cannot be read as YAML: "),
        (b"name: a\n\tformat: sotu\n", "{path} cannot be read as YAML: "),
        (b"name: caf\xe9", "{path} cannot be read as YAML: "),
        (b"name: \x00", "{path} cannot be read as YAML: "),
        (b"", "{path}: a data recipe is a mapping of keys to values"),
        (b"1: 2", "{path}: unknown key 1"),
        (b"validation_fraction: half", "{path}: validation_fraction: expected a number, got 'half'"),
        (b"tokens: [1]", "{path}: tokens: expected an integer or text or null, got '[1]'"),
        (b"format: texts", "{path}: format: expected sotu or text or shards or "),
        (b"name: {a: b}", "{path}: name: expected text, got "),
        (b"format: text\npath: $NONE/x", "{path}: path $NONE/x: no variable $NONE is set"),
    ],
)
def test_a_wrong_data_recipe_is_one_line_with_its_file(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "{braces}.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError) as error:
        parse("train", ["--data", str(path)])
    assert complaint.replace("{path}", str(path)) in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "run.yaml").write_bytes(b"lr: \xff")
    with pytest.raises(RequestError, match=r"run\.yaml cannot be read as YAML"):
        parse("train", ["--config", str(tmp_path / "run.yaml")])


@pytest.mark.parametrize("text", ["", "[]", "width: 64", "{", "width: wide\nmodel: {n_layer: 3}"])
def test_what_is_not_a_runs_config_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=r"is not a run's config\.yaml") as error:
        load_run(path)
    assert "\n" not in str(error.value)


def test_names_from_elsewhere_are_settings_here() -> None:
    assert set(_ELSEWHERE.values()) <= set(keys(SweepConfig))
    assert not set(_ELSEWHERE) & set(keys(SweepConfig))
