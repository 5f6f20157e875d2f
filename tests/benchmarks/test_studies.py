"""The kinds of simulated studies, and how they are scored."""

import numpy as np
import pytest

from benchmarks import kinds
from benchmarks.kinds import Scored
from benchmarks.studies import KINDS, WORLDS, draw_kind
from pipeline.analysis.fit.posterior import Mixture


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.changes.get("flat")])
def test_the_stated_optimum_is_where_the_height_is_least(name):
    for seed in range(12):
        world = list(WORLDS.values())[seed % 3]
        truth = draw_kind(KINDS[name], world, 4, np.random.default_rng([seed, 5]))
        u = np.linspace(-3.5, 2.5, 301)
        place = seed % 4
        assert u[np.argmin([truth.height(place, at) for at in u.tolist()])] == pytest.approx(0, abs=0.011)
    # and runs lie on that valley: noise, and seeds, leave the least losses near it
    truth.noise = truth.seed_level = truth.shift = 0.0
    truth.edge = truth.optimum + 9
    x = truth.optimum[1] + np.linspace(-0.75, 0.75, 31)
    loss = [truth.run(1, at, 0)[0] for at in x.tolist()]
    assert x[np.argsort(loss)[:3]] == pytest.approx(truth.optimum[1], abs=0.15)


def test_kinds_are_scored_by_what_was_said():
    found = Scored.of(Mixture(np.array([1.0]), np.array([0.5]), np.ones(1)), 1.9)
    assert (found.error, found.sd, found.half) == pytest.approx((-0.9, 0.5, 0.98), abs=1e-3)
    assert found.inside
    assert not Scored.of(Mixture(np.array([1.0]), np.array([0.4]), np.ones(1)), 1.9).inside
    told, flat = kinds.study("note", 3), kinds.study("no valley", 3)
    assert len(told.widths) == 4
    assert told.exponent is not None
    assert not told.no_valley
    assert (flat.widths, flat.exponent, flat.no_valley) == ((), None, True)
    assert kinds.row("both", [told, flat]).endswith("| 0.50 | 0.50 | 0.00 |")
    assert [kinds.row("no valley", [flat]).count("|"), kinds.row("one", [told]).count("|")] == [
        kinds.HEADER.count("|")
    ] * 2
