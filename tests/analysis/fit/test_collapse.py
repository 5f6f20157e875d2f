import dataclasses
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.fit.collapse import estimate, fit
from pipeline.analysis.fit.study_fit import runs_of
from pipeline.analysis.fit.theory import predicted
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.grid import grid_of
from pipeline.analysis.study.measure import Measure
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import LANGUAGE
from pipeline.config import DataConfig, ModelConfig
from tests.support.synthetic_study import BASE

WIDTHS = (64, 256, 1024)


def study(change=lambda place, u, loss: loss, edge=2.2):
    """Bottoms at 0, -1, -2 octaves, unstable from `edge` above them; `change` may spoil single runs."""
    rng, rows = np.random.default_rng(4), []
    for place, width in enumerate(WIDTHS):
        for seed in (0, 1):
            for x in np.arange(-7.0, 5) + 0.5 * seed:
                u = x + place
                loss = 5 + 0.06 * shape(np.array([u]), 0.5, 1.0)[0][0] + rng.normal(0, 0.004)
                loss = change(place, u, loss) if u < edge else math.nan
                rows.append((width, 2.0**x, seed, loss))
    return Runs.of(*zip(*rows, strict=True))


def of_widths(runs):
    return fit(grid_of(runs, LANGUAGE)).widths


def test_the_optimum_lies_between_the_learning_rates_tried():
    found = estimate(study())
    assert found.exponent("optimal").median == pytest.approx(-0.5, abs=0.02)
    assert found.exponent("max_stable").median == pytest.approx(-0.5, abs=0.15)
    assert [math.log2(w.best.value) for w in of_widths(study())] == pytest.approx([0, -1, -2], abs=0.1)
    assert [w.best_loss for w in of_widths(study())] == pytest.approx([5] * 3, abs=0.01)
    assert not found.edge_limited
    assert found.at("optimal", 512).median == pytest.approx(-1.5, abs=0.1)
    far = 2**16  # the law may bend until there
    assert found.at("optimal", far).standard_deviation > 2 * found.own_optimum.at(far).standard_deviation
    assert found.at("max_stable", far).standard_deviation > 1.2 * found.max_stable.at(far).standard_deviation


def test_a_half_recovered_run_tells_neither_stable_nor_unstable():
    """0.5 nats above the valley, below the label's margin of 1: the seed's interval reaches across it."""
    spoilt = estimate(study(lambda place, u, loss: loss + 0.5 if place == 1 and u == 2.0 else loss))
    seen = spoilt.seen.of(256)
    assert (seen.low[0], seen.high[0]) == (0.0, 2.0)
    assert not spoilt.labels.unstable[
        (spoilt.runs.width == 256) & (spoilt.runs.seed == 0) & (spoilt.runs.x == 1.0)
    ].any()


def test_what_comes_through_above_the_first_unstable_rate_is_no_part_of_the_valley():
    def gap(place, u, loss):
        if place == 2 and 0.9 < u < 1.6:
            return math.nan
        return loss + 0.3 if place == 2 and u > 1.6 else loss

    found = estimate(study(gap))
    assert found.at("optimal", 1024).median == pytest.approx(-2, abs=0.15)
    assert found.valley.n_used[2] == found.valley.n_used[1] - 3


def test_losses_that_fall_several_fold_are_fitted_on_a_log_scale():
    runs = study()
    scale = np.where(runs.width == 64, 1.0, np.where(runs.width == 256, 0.2, 0.04))
    found = estimate(scaled := runs.with_loss(runs.loss * scale))
    assert found.log_loss
    assert found.exponent("optimal").median == pytest.approx(-0.5, abs=0.03)
    assert of_widths(scaled)[2].best_loss == pytest.approx(0.2, abs=0.01)


def test_it_is_deterministic():
    first, second = estimate(study()), estimate(study())
    assert first.exponent("max_stable").quantiles([0.1, 0.9]) == second.exponent("max_stable").quantiles([0.1, 0.9])


def table(**columns):
    common = {"width": 64, "lr": [1.0, 2.0, 4.0], "seed": 0, "status": ["completed", "completed", "diverged"]}
    common |= {"left_for_good": False, "final_train_accuracy": [0.9, 0.5, 0.1], "final_train_loss": 1.0}
    return pd.DataFrame(common | columns)


def test_accuracy_is_maximized_and_what_is_lost_stays_lost():
    assert runs_of(table(), Measure("train_accuracy")).loss.tolist() == pytest.approx([0.1, 0.5, math.inf])
    assert runs_of(table(), Measure()).loss.tolist() == [1.0, 1.0, math.inf]
    best = runs_of(table(best_val_loss=[1.0, 2.0, 3.0]), Measure("val", "best"))
    assert best.loss.tolist() == [1.0, 2.0, math.inf]


def test_theory_knows_the_studys_own_setting():
    mlp = dataclasses.replace(
        BASE,
        optimizer="sgd",
        grad_clip=None,
        data=DataConfig(name="digits", format="digits"),
        model=ModelConfig(kind="mlp", n_layer=4),
    )
    found = predicted(mlp, "sp", "sgd", "cross_entropy")
    assert found["max_stable"].exponent == Fraction(-1, 2)
    assert found["max_stable"].status == "derived"
    assert predicted(mlp, "sp", "sgd", "mse")["max_stable"].exponent == -1
    assert predicted(mlp, "mup", "sgd", "cross_entropy")["optimal"].exponent == 0
    assert predicted(BASE, "sp", "adamw", "cross_entropy")["optimal"].status == "observed"


def test_runs_that_agree_to_the_last_digit_have_no_valley():
    """Such as a few steps of one learning rate, or losses that all ended at chance."""
    for lrs in ([0.01], [0.01, 0.02, 0.04]):
        rows = [(width, lr, seed, 2.3026) for width in (64, 128, 256) for lr in lrs for seed in (0, 1, 2)]
        found = estimate(Runs.of(*zip(*rows, strict=True)))
        assert found.own_optimum is None
        assert found.max_stable is None
