"""The grid: its runs, their order, and what is refused."""

from pathlib import Path

import pytest

from pipeline.cli.arguments import parse
from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.sweep import rounds
from pipeline.sweep.grid import cell, cost, grid
from tests.conftest import changed
from tests.support.studies import study


def test_grid_is_the_product_most_expensive_first(tiny: RunConfig) -> None:
    runs = grid(study(tiny, params=("sp", "mup"), seeds=(0, 1)))
    points = {(r.width, r.param, r.lr, r.seed) for r in runs}
    assert len(runs) == len(points) == 16
    assert points == {(w, p, lr, s) for w in (32, 64) for p in ("sp", "mup") for lr in (1e-3, 1e-2) for s in (0, 1)}
    assert [r.width for r in runs] == [64] * 8 + [32] * 8
    assert len({r.run_name for r in runs}) == 16
    assert all(type(r) is RunConfig for r in runs)


def test_params_and_seeds_default_to_the_runs(tiny: RunConfig) -> None:
    runs = grid(study(changed(tiny, param="mup", seed=3)))
    assert {(r.param, r.seed) for r in runs} == {("mup", 3)}


def test_cost_counts_matrix_weights(tiny: RunConfig) -> None:
    assert cost(tiny) == (12 * 2 * 32**2 + 300 * 32) * 12 * 4 * 16


def test_sources_of_data_are_an_axis() -> None:
    argv = ["--config", "mlp-digits", "--widths", "64", "--lrs", "1", "--seeds", "0", "--params", "sp"]
    config = parse("sweep", [*argv, "--grid.data", "digits,multi-index"])[0]
    runs = {run.data.name: run for run in grid(config)}
    assert {name: (run.data.format, run.n_classes) for name, run in runs.items()} == {
        "digits": ("digits", 10), "multi-index": ("multi_index", 2),
    }  # fmt: skip
    alone = parse("train", ["--config", "mlp-digits", "--data", "multi-index", "--width", "64", "--lr", "1"])[0]
    assert runs["multi-index"].run_name == alone.run_name
    assert {cell(config, run) for run in runs.values()} == {"data digits", "data multi-index"}


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        ({"widths": ()}, "--widths is empty: give the study at least one, for example --widths 64,128,256"),
        ({"lrs": ()}, "--lrs is empty: give the study at least one, for example --lrs 1e-3,4e-3,1.6e-2"),
        ({"lrs": (1.0, 1.0)}, "--lrs names a value twice: 1.0, 1.0"),
        ({"widths": (32, 40)}, "--width 40 is not divisible by the head size 16: use 32 or 48"),
        ({"params": ("sp", "mupp")}, "--param: unknown parameterization 'mupp': did you mean 'mup'?"),
    ],
)
def test_a_wrong_grid_is_one_line(tiny: RunConfig, axes: dict[str, object], line: str) -> None:
    with pytest.raises(RequestError) as error:
        grid(study(tiny, **axes))
    assert str(error.value).partition(": while scanning")[0] == line


def test_any_setting_is_an_axis(tiny: RunConfig) -> None:
    runs = grid(
        study(tiny, lrs=(1e-2,), grid={"model.n_layer": (1, 2), "mult.hidden_lr": (0.5, 1.0), "steps": (6, 12)})
    )
    points = {(r.width, r.model.n_layer, r.mult.hidden_lr, r.steps) for r in runs}
    assert points == {
        (w, depth, mult, steps) for w in (32, 64) for depth in (1, 2) for mult in (0.5, 1.0) for steps in (6, 12)
    }
    assert len({r.run_name for r in runs}) == len(runs) == 16
    assert [cost(r) for r in runs] == sorted(map(cost, runs), reverse=True)
    assert all(r.model.head_size == tiny.model.head_size for r in runs)


def test_what_is_left_open_follows_the_point() -> None:
    """The weight decay is the optimizer's where none was given, the micro-batch that of the batch."""
    config, _ = parse(
        "sweep",
        [
            "--widths",
            "64",
            "--lrs",
            "1e-3",
            "--params",
            "sp",
            "--grid.optimizer",
            "sgd,adamw,adam",
            "--grid.global_batch",
            "8,4",
        ],
    )
    found = {(r.optimizer, r.global_batch): (r.weight_decay, r.micro_batch) for r in grid(config)}
    assert found == {
        (name, size): (decay, size) for name, decay in (("sgd", 0), ("adamw", 0.1), ("adam", 0)) for size in (8, 4)
    }
    decayed, _ = parse(
        "sweep", ["--widths", "64", "--lrs", "1", "--weight_decay", "0.2", "--grid.optimizer", "sgd,adamw"]
    )
    assert {r.weight_decay for r in grid(decayed)} == {0.2}


def test_points_that_differ_in_nothing_are_one_run() -> None:
    config, _ = parse(
        "sweep",
        [
            "--widths",
            "64",
            "--lrs",
            "1e-3",
            "--params",
            "sp",
            "--grid.optimizer",
            "sgd,adam",
            "--grid.betas",
            "[0.9,0.95],[0.9,0.99]",
        ],
    )
    found = sorted((r.optimizer, r.betas) for r in grid(config))
    assert found == [("adam", (0.9, 0.95)), ("adam", (0.9, 0.99)), ("sgd", (0.9, 0.95))]


def test_axes_come_from_recipes_and_flags_win(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "widths: [64]\nlrs: [1e-3]\ngrid: {model.n_layer: [1, 2], steps: [100, 200], grad_clip: [null, 1.0]}\n"
    )
    argv = ["--config", "quick", "--config", str(recipe), "--params", "sp", "--steps", "50", "--grid.n_layer", "3"]
    config, _ = parse("sweep", argv)
    assert {(r.model.n_layer, r.steps, r.grad_clip) for r in grid(config)} == {(3, 50, None), (3, 50, 1.0)}
    one, _ = parse("train", argv[:4])
    assert (one.model.n_layer, one.steps) == (2, 200)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--grid.n_layr", "2,4"], "--grid: unknown key n_layr, did you mean model.n_layer?"),
        (["--grid.depth", "2,4"], "--grid: unknown key depth, did you mean model.n_layer?"),
        (["--grid.name", "a,b"], "--grid.name: could be model.name or data.name"),
        (["--grid.width", "32,64"], "--grid.width: say --widths"),
        (["--grid.data.name", "sotu,digits"], "--grid.data.name: say --grid.data"),
        (["--data", "sotu", "--grid.data", "sotu"], "--data and --grid.data exclude each other: give one of them"),
        (["--grid.data", "sotu,sotu"], "--grid.data names a value twice: sotu, sotu"),
        (
            ["--grid.data", "sotu,digits"],
            "--data digits is for --model.kind mlp, not gpt: such as --config mlp-digits (at width 64, "
            "param sp, lr 0.001, seed 0, data digits)",
        ),
        (["--grid.n_layer", "2,x"], "--grid.model.n_layer: expected an integer, got 'x'"),
        (["--grid.n_layer"], "--grid.n_layer: expected one argument"),
        (["--grid.n_layer", "*"], "--grid.n_layer * cannot be read as YAML"),
        (["--grid", "*"], "--grid * cannot be read as YAML"),
        (["--grid.n_layer", "2", "--grid.model.n_layer", "3"], "--grid.model.n_layer: model.n_layer is given twice"),
        (["--grid.n_layer", "2,2"], "--grid.model.n_layer names a value twice: 2, 2"),
        (["--grid.devices", "1,2"], "--grid.devices changes nothing in these runs: leave it out"),
        (["--steps", "9", "--grid.steps", "1,2"], "--steps and --grid.steps exclude each other: give one of them"),
        (
            ["--grid.warmup_steps", "10,300"],
            "--warmup_steps must be 0..steps (200), got 300 (at width 64, param sp, lr 0.001, seed 0, warmup_steps 300)",
        ),
    ],
)
def test_a_wrong_axis_is_one_line(argv: list[str], line: str) -> None:
    with pytest.raises(RequestError) as error:
        grid(parse("sweep", ["--widths", "64", "--lrs", "1e-3", "--params", "sp", *argv])[0])
    assert str(error.value).partition(": while scanning")[0] == line


def test_an_adaptive_plan_refuses_further_axes(tiny: RunConfig) -> None:
    with pytest.raises(
        RequestError, match=r"^--plan adaptive plans over widths and params alone: .*--grid.model.n_layer"
    ):
        rounds.check(study(tiny, plan="adaptive", grid={"model.n_layer": (1, 2)}))
