"""Which runs the halves of a grid are."""

import numpy as np
import pytest

from benchmarks.staggered import half, simulated, table
from pipeline.analysis.study.runs import Runs


def test_halves_of_a_grid() -> None:
    widths, lrs = (64, 256, 1024), (1.0, 2.0, 4.0, 8.0)
    cells = [(width, lr) for width in widths for lr in lrs]
    runs = Runs.of(*zip(*cells, strict=True), [0] * 12, [1.0] * 12)

    def chosen(design: str, offset: int) -> list[tuple[float, float]]:
        kept = runs.where(half(runs, design, offset))
        return list(zip(kept.width.tolist(), kept.lr.tolist(), strict=True))

    assert chosen("all", 1) == cells
    assert chosen("coarse", 0) == [(width, lr) for width in widths for lr in (1.0, 4.0)]
    assert chosen("staggered", 0) == [(64, 1.0), (64, 4.0), (256, 2.0), (256, 8.0), (1024, 1.0), (1024, 4.0)]
    for design in ("coarse", "staggered"):
        assert sorted(chosen(design, 0) + chosen(design, 1)) == cells, "the other half"


@pytest.mark.slow
def test_all_runs_know_more_than_half_of_them() -> None:
    rows = simulated("note", "mild", 1, range(3))
    widths = {
        design: np.nanmean([row[1] for row in rows[design, "optimal"]]) for design in ("all", "staggered", "coarse")
    }
    assert widths["all"] < min(widths["staggered"], widths["coarse"])
    assert len(list(table(rows))) == 7
