import math

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.studies import KINDS, NOTE, OTHER, Design, draw, draw_kind, make_runs
from pipeline.analysis.fit.estimate import estimate
from pipeline.analysis.fit.fitted import LeftOut
from pipeline.analysis.fit.local import fit
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.grid import grid_of
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import LANGUAGE

WIDTHS = (64, 256, 1024)


def study(change=lambda place, u, loss: loss, edge=2.2, widths=WIDTHS, seeds=(0, 1), noise=0.004):
    """Bottoms at 0, -1, -2 octaves, unstable from `edge` above them; `change` may spoil single runs."""
    rng, rows = np.random.default_rng(4), []
    for place, width in enumerate(widths):
        for seed in seeds:
            for x in np.arange(-7.0, 5) + 0.5 * seed:
                u = x + place
                loss = 5 + 0.06 * shape(np.array([u]), 0.5, 1.0)[0] + rng.normal(0, noise)
                rows.append((width, 2.0**x, seed, change(place, u, loss) if u < edge else math.nan))
    return Runs.of(*zip(*rows, strict=True))


def fitted(runs):
    return fit(grid_of(runs, LANGUAGE))


def best(runs):
    return [None if w.best is None else math.log2(w.best.value) for w in fitted(runs).widths]


def test_the_optimum_lies_between_the_learning_rates_tried():
    found = estimate(study())
    assert found.exponent("optimal").median == pytest.approx(-0.5, abs=0.03)
    assert found.exponent("max_stable").median == pytest.approx(-0.5, abs=0.15)
    assert best(study()) == pytest.approx([0, -1, -2], abs=0.12)
    assert [w.best_loss for w in fitted(study()).widths] == pytest.approx([5] * 3, abs=0.02)
    assert not found.edge_limited
    assert found.at("optimal", 512).median == pytest.approx(-1.5, abs=0.15)
    assert found.at("max_stable", 512).median == pytest.approx(0.7, abs=0.5)
    assert found.at("optimal", 2**16).standard_deviation > 2 * found.at("optimal", 2**11).standard_deviation


@pytest.mark.parametrize("world", [NOTE, OTHER], ids=lambda world: world.name)
def test_intervals_hold(world):
    """95 % intervals of every width, and of the exponent; a binomial of one in a thousand is allowed for."""
    widths, exponents = [], []
    for seed in range(12):
        truth = draw(world, 4, 0.04, np.random.default_rng([seed, 50]))
        known = estimate(make_runs(truth, Design()))
        low, high = known.exponent("optimal").interval()
        exponents.append(low <= truth.alpha <= high)
        for place, width in enumerate(truth.widths):
            low, high = known.at("optimal", width).interval()
            widths.append(low <= truth.optimum[place] <= high)
    assert sum(widths) >= binom.ppf(0.001, len(widths), 0.92)
    assert sum(exponents) >= binom.ppf(0.001, len(exponents), 0.95)


def test_the_optimum_is_never_printed_above_the_edge():
    for seed in range(6):
        truth = draw_kind(KINDS["saturation"], NOTE, 4, np.random.default_rng([seed, 51]))
        known = fitted(make_runs(truth, Design()))
        for width in (*truth.widths, 2 * truth.widths[-1], 64):
            optimum, edge = known.lr_at("optimal", width, 0.9), known.lr_at("max_stable", width, 0.9)
            if optimum is not None and edge is not None:
                assert optimum.value <= edge.value


def test_no_valley_is_said_and_not_numbered():
    """Nine times in ten and more where there is noise alone, and always where all losses agree."""
    said = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        said += estimate(study(lambda place, u, loss, rng=rng: 5 + rng.normal(0, 0.01))).no_valley
    assert said >= 7
    ties = study(lambda place, u, loss: 2.3026)
    found = fitted(ties)
    assert {w.left_out for w in found.widths} == {LeftOut.NO_VALLEY}
    assert best(ties) == [None] * 3
    assert "optimal" not in found.posteriors
    assert estimate(ties).price(256, 0.9) is None


@pytest.mark.parametrize(("below", "above"), [(0.8, 0.05), (0.05, 0.4)])
def test_one_seed_and_five_learning_rates_show_a_valley_with_a_steep_side(below: float, above: float):
    """Too small a learning rate costs more than a nat, as too large a one may: what half-recovered runs look like lies
    above the best."""
    said = 0
    for trial in range(6):
        rng = np.random.default_rng(trial)
        points = [(width, j) for width in (64, 128, 256) for j in range(-2, 3)]
        losses = [3 + (below if j < 0 else above) * j**2 + 0.01 * rng.standard_normal() for _, j in points]
        said += estimate(
            Runs.of([width for width, _ in points], [2.0**j for _, j in points], [0] * len(points), losses)
        ).no_valley
    assert said == 0


def test_seeds_whose_levels_differ_hide_no_valley():
    """A tenth of a nat between seeds beside .004 of noise within them, and a valley that both of them show."""
    said = {}
    for depth in (0.0, 0.01, 0.02):
        flat = 0
        for trial in range(8):
            rng = np.random.default_rng(trial)
            level = {seed: 4 + 0.1 * rng.standard_normal() for seed in (0, 1)}
            points = [(width, j, seed) for width in (64, 128, 256, 512) for j in range(-3, 3) for seed in (0, 1)]
            losses = [level[seed] + depth * (j + 0.4) ** 2 + 0.004 * rng.standard_normal() for _, j, seed in points]
            lrs = [2.0**j * (width / 64) ** -0.5 for width, j, _ in points]
            widths, _, seeds = (list(column) for column in zip(*points, strict=True))
            flat += estimate(Runs.of(widths, lrs, seeds, losses)).no_valley
        said[depth] = flat
    assert said[0.0] >= 7
    assert (said[0.01], said[0.02]) == (0, 0)


def test_one_side_alone_is_no_optimum():
    falling = study(lambda place, u, loss: 5 - 0.1 * u, edge=99)
    assert {w.left_out for w in fitted(falling).widths} == {LeftOut.ONE_SIDED}


def test_a_cliff_after_a_hundredfold_fall():
    def loss(place, u, _):
        rng = np.random.default_rng([place, round(2 * u) + 50])
        return 1e-3 * math.exp(-0.8 * min(u, 0.5) + 5 * (u > 0.6) + rng.normal(0, 0.05))

    known = estimate(study(loss, edge=99))
    assert known.log_loss
    for place, width in enumerate(WIDTHS):
        low, high = known.at("optimal", width).interval()
        assert low - 0.25 < 0.25 - place < high + 0.25


def test_losses_that_fall_with_width_keep_their_shape():
    runs = study()
    scale = np.where(runs.width == 64, 1.0, np.where(runs.width == 256, 0.2, 0.04))
    assert best(runs.with_loss(runs.loss * scale)) == pytest.approx(best(runs), abs=1e-6)
    assert fitted(runs.with_loss(runs.loss * scale)).widths[2].best_loss == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("shift", [-5.5, -5.0])
def test_losses_that_are_not_positive_are_fitted_as_they_are(shift):
    known = estimate(study(lambda place, u, loss: loss + shift))
    assert not known.log_loss
    assert known.exponent("optimal").median == pytest.approx(-0.5, abs=0.04)


def test_huge_losses_and_nan_below_the_optimum_are_survived():
    huge = study(lambda place, u, loss: 1e300 if u > 1.5 else loss)
    assert best(huge) == pytest.approx([0, -1, -2], abs=0.25)
    holed = study(lambda place, u, loss: math.nan if place == 1 and -3 < u < -1.9 else loss)
    assert best(holed) == pytest.approx([0, -1, -2], abs=0.2)


def test_a_run_that_exploded_to_a_finite_loss_does_not_set_the_price():
    calm, exploded = study(), study(lambda place, u, loss: 1e9 if u == 2.0 else loss)
    assert estimate(exploded).price(4096, 0.9).expected < 3 * estimate(calm).price(4096, 0.9).expected


def test_an_edge_seen_at_one_width_says_nothing_of_others():
    runs = study()
    assert estimate(runs).at("max_stable", 4096) is not None
    last = {width: runs.x[(runs.width == width) & np.isfinite(runs.loss)].max() for width in (256, 1024)}
    seen = np.array([x <= last.get(width, np.inf) for width, x in zip(runs.width.tolist(), runs.x, strict=True)])
    alone = estimate(runs.where(seen))
    assert alone.at("max_stable", 64) is not None
    assert alone.at("max_stable", 4096) is None
    price = alone.price(4096, 0.9)
    assert math.isnan(price.diverges)
    assert alone.at("optimal", 4096).interval(0.9)[0] < math.log2(price.lr) < alone.at("optimal", 4096).interval(0.9)[1]


def test_a_half_recovered_run_tells_neither_stable_nor_unstable():
    spoilt = estimate(study(lambda place, u, loss: loss + 1.5 if place == 1 and u == 2.0 else loss))
    seen = spoilt.seen.of(256)
    assert (seen.low[0], seen.high[0]) == (0.0, 2.0)


def test_what_comes_through_above_the_first_unstable_rate_is_no_part_of_the_valley():
    def gap(place, u, loss):
        return math.nan if place == 2 and 0.9 < u < 1.6 else loss + 0.3 * (place == 2 and u > 1.6)

    assert best(study(gap)) == pytest.approx([0, -1, -2], abs=0.2)


@pytest.mark.parametrize("n_widths", [1, 2, 12])
def test_any_number_of_widths(n_widths):
    widths = tuple(2**k for k in range(3, 3 + n_widths))
    known = estimate(study(widths=widths, edge=1.6))
    assert known.at("optimal", widths[0]).median == pytest.approx(0, abs=0.2)
    if n_widths == 1:
        assert known.exponent("optimal") is None
        assert known.at("optimal", 64) is None
    else:
        assert known.exponent("optimal").median == pytest.approx(-1, abs=0.15)


def test_levels_need_not_be_whole():
    runs = study()
    halves = Runs.of(runs.width / 128, runs.lr, runs.seed, runs.loss)
    assert estimate(halves).at("optimal", 8).median == pytest.approx(
        estimate(runs).at("optimal", 1024).median, abs=1e-6
    )


def test_many_seeds_are_fast_and_sure():
    known = estimate(study(seeds=range(150)))
    assert len(known.runs) > 5000
    assert [known.at("optimal", n).standard_deviation < 0.1 for n in WIDTHS] == [True] * 3


def test_it_is_deterministic():
    first, second = estimate(study()), estimate(study())
    for quantity in ("optimal", "max_stable"):
        assert first.exponent(quantity).quantiles([0.1, 0.9]) == second.exponent(quantity).quantiles([0.1, 0.9])


def test_widths_that_differ_in_shape_rest_on_their_own_runs():
    def other(place, u, loss):
        return 5 + 0.06 * shape(np.array([u]), (0.2, 1.6, -0.8)[place], 1.0)[0] + (loss - loss)

    alike, apart = estimate(study(noise=0.001)), estimate(study(other))
    assert apart.optima.shape_differs > alike.optima.shape_differs
    assert alike.optima.weight_C.sum() == pytest.approx(1)
