"""The kinds of simulated studies, and what is scored of them."""

import numpy as np
import pytest

from benchmarks.studies import KINDS, WORLDS, draw_kind


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.changes.get("flat")])
@pytest.mark.parametrize("seed", range(6))
def test_the_stated_optimum_is_where_the_height_is_least(name, seed):
    world = list(WORLDS.values())[seed % 3]
    truth = draw_kind(KINDS[name], world, 4, np.random.default_rng([seed, 5]))
    u = np.linspace(-4, 3, 1401)
    for place in range(4):
        height = [truth.height(place, at) for at in u.tolist()]
        assert u[np.argmin(height)] == pytest.approx(0, abs=0.006)
    # and runs lie on that valley: noise, and seeds, leave the least loss near it
    truth.noise = truth.seed_level = truth.shift = 0.0
    truth.edge = truth.optimum + 9
    x = truth.optimum[1] + np.linspace(-0.75, 0.75, 31)
    loss = [truth.run(1, at, 0)[0] for at in x.tolist()]
    assert x[np.argsort(loss)[:3]] == pytest.approx(truth.optimum[1], abs=0.15)
