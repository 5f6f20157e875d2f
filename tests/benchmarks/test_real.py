"""Real trainings as a benchmark: which runs it makes, and how their truths and intervals are told. Nothing trains."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import real, truth
from benchmarks.scoring import Score, recorded
from benchmarks.truth import Measured, Truth
from pipeline.analysis.study.runs import Runs
from pipeline.errors import RequestError
from tests.support.synthetic_study import valley, write_study

X = np.arange(-3.0, 4.0)


def runs(centres, cliff=math.inf):
    """A seed per centre, a valley that is steeper above; lost from `cliff` on."""
    x, seed = np.tile(X, len(centres)), np.repeat(np.arange(len(centres)), len(X))
    away = x - np.repeat(centres, len(X))
    loss = np.where(x < cliff, 0.1 + 0.02 * away**2 + 0.002 * away**3, np.nan)
    return Runs.of(np.full(len(x), 64), 2.0**x, seed, loss)


def test_the_truth_is_the_median_of_single_seeds_optima():
    known = truth.truth(runs([0.3, 0.4, 0.5, 2.2, 0.4]))
    assert known.x == pytest.approx(0.4, abs=0.08)
    assert known.seeds == 5
    assert known.side == 0
    assert truth.GRID_ERROR <= known.error < 0.3
    spread = truth.truth(runs([-1.0, 0.0, 0.4, 0.8, 1.4]))
    assert spread.error > 0.3


def test_an_optimum_at_an_end_of_the_grid_is_a_bound_and_one_below_a_cliff_is_not():
    assert truth.truth(runs([4.4, 4.5, 5.0])).side == 1
    assert truth.truth(runs([-4.4, -4.5, -5.0])).side == -1
    below = truth.truth(runs([3.0, 3.0, 3.2], cliff=1.5))
    assert below.side == 0
    assert 1.0 <= below.x <= 1.5
    assert truth.truth(runs([0.0, 0.0])) is None


def test_the_slope_of_truths_carries_their_errors():
    truths = {width: Truth(5 - 0.5 * math.log2(width), 0.1, 6, 0) for width in (32, 64, 128, 256)}
    assert truth.slope(truths) == pytest.approx((-0.5, 0.1 / math.sqrt(5)))


def test_a_lost_run_costs_an_untrained_model():
    measured = Measured(runs([0.0, 0.0, 0.0], cliff=2.5), untrained=1.5)
    assert measured.best == 0.0
    assert measured.regret(0.0) == pytest.approx(0.0, abs=1e-3)
    assert measured.regret(1.0) == pytest.approx(0.022, abs=2e-3)
    exploded = replace(measured, runs=measured.runs.with_loss(np.where(X[None].repeat(3, 0).ravel() > 2.5, 1e9, 0.1)))
    assert exploded.regret(3.0) == pytest.approx(1.4, abs=0.01)
    assert measured.regret(3.0) == measured.regret(9.0) == pytest.approx(1.4, abs=0.01)


def test_an_interval_holds_the_truth_or_holds_it_with_its_error():
    def at(place, error=0.0):
        return Score("a sp", "target", 512, place, error, middle=0.0, low=-1.0, high=0.5)

    assert at(-0.9).inside(False)
    assert not at(0.6).inside(False)
    assert not at(0.6, 0.1).inside(True)
    assert at(0.6, 0.25).inside(True)
    assert not at(0.6, 0.25).inside(False)


def test_every_recipe_plans_its_runs(tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr(real.local, "run_study", lambda config, todo: made.update({config.study: todo}) or {})
    for recipe in real.RECIPES.values():
        real.train(recipe, tmp_path, "fit")
        low, high = recipe.octaves
        runs = made[recipe.name]
        assert len(runs) == 2 * 2 * len(recipe.widths) * ((high - low) // recipe.step + 1)
        assert {run.width for run in runs} == set(recipe.widths)
        assert recipe.target == 4 * recipe.widths[-1]
        assert all(run.run_dir.parent == tmp_path / "fit" / recipe.name for run in runs)
        assert not any(run.keep_checkpoint for run in runs)


def test_seeds_follow_the_best_where_it_lies_at_an_end_of_theirs(tmp_path, monkeypatch):
    asked = []
    training = real.Training(real.RECIPES["index-sgd"], tmp_path, "seeds")
    monkeypatch.setattr(real.Training, "launch", lambda self, octaves, seeds: asked.append(octaves))
    found = iter([runs([4.4, 4.5, 5.0]), runs([0.0, 0.0, 0.0])])
    monkeypatch.setattr(real, "measured", lambda folder: {("sp", 64): Measured(next(found), 1.0)})
    training.around({("sp", 64): 1.0})
    assert asked == [{("sp", 64): [-1.0, 0.0, 1.0, 2.0]}, {("sp", 64): [4.0, 5.0]}]


def test_predictions_are_recorded_before_the_target_and_told_after_it(tmp_path):
    recipe = replace(real.RECIPES["noisy-sgd"], name="a", target=512)
    fitted, target = (real.Training(recipe, tmp_path, phase).folder for phase in ("fit", "target"))
    wide = tuple(2.0**k for k in range(-13, -2))
    write_study(fitted, valley(-0.5), lrs=wide, seeds=(0, 1))
    real.record(recipe, tmp_path)
    with pytest.raises(RequestError, match="a is recorded"):
        real.record(recipe, tmp_path)
    assert not list(real.came_out({"a": recipe}, tmp_path)), "no target yet"
    write_study(target, valley(-0.5), widths=(512,), lrs=wide, seeds=(2, 3, 4))

    def told():
        return list(recorded(list(real.came_out({"a": recipe}, tmp_path))))

    file = fitted / "predictions.jsonl"
    assert any(line.startswith("Recorded after the first run: 2") for line in told()), "runs began 4 s before"
    file.write_text(re.sub(r'"time": "\d+', '"time": "2020', file.read_text()))
    lines = told()
    (optimum,) = (line for line in lines if line.startswith("| a | sp | optimal | 512 |"))
    assert "| yes |" in optimum
    assert any(line.startswith("Optimal lr by local, 1 prediction") and "1 of 1 measured" in line for line in lines)
    assert "Recorded after the first run: 0." in lines
    file.unlink()
    with pytest.raises(RequestError, match="cannot be predicted any more"):
        real.record(recipe, tmp_path)
