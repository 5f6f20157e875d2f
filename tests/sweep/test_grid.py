"""The grid: its runs, their order, and what is refused."""

import pytest

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.sweep.grid import cost, grid
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
    assert str(error.value) == line
