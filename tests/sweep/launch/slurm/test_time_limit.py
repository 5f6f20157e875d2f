"""Time limits: measured, else scaled, else estimated."""

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.sweep.grid import cost
from pipeline.sweep.launch.slurm.profile import load_profile
from pipeline.sweep.launch.slurm.time_limit import Measured, time_limit
from tests.conftest import changed
from tests.support.slurm_stand_in import profile_file


def test_time_is_measured_else_scaled_else_estimated(tmp_path: Path, tiny: RunConfig) -> None:
    profile = load_profile(str(profile_file(tmp_path, margin=2, max_time="10h", flops_per_second=1e6)))
    wide = changed(tiny, width=64)
    own, other = Measured(32, cost(tiny), 1200.0, 3), Measured(64, cost(wide), 3600.0, 1)
    limit = time_limit(tiny, profile, [own, other])
    assert (limit.minutes, str(limit)) == (45, "00:45:00")  # 2 x 20 min + 5
    assert limit.reason == "the longest of 3 finished runs of this width, 20 min x 2 + 5 min"
    two = changed(tiny, devices=2, micro_batch=2)
    assert time_limit(two, profile, [own]).minutes == 25
    scaled = time_limit(wide, profile, [own])
    assert scaled.minutes == pytest.approx(40 * cost(wide) / cost(tiny) + 5, abs=1)
    assert scaled.reason.startswith("scaled by cost from width 32")
    guess = time_limit(tiny, profile, [])
    assert guess.minutes == -(-2 * 6 * cost(tiny) // 6e7) + 5
    assert guess.reason.startswith("estimated: ")


def test_time_stays_between_the_shortest_limit_and_max_time(tmp_path: Path, tiny: RunConfig) -> None:
    profile = load_profile(str(profile_file(tmp_path, signal_seconds=600, max_time="1h")))
    assert time_limit(tiny, profile, [Measured(32, cost(tiny), 1.0, 1)]).minutes == 21
    long = time_limit(tiny, profile, [Measured(32, cost(tiny), 1e6, 1)])
    assert (long.minutes, long.reason.rpartition(", ")[2]) == (
        60,
        "above max_time: goes back into the queue and resumes",
    )
    assert (
        time_limit(tiny, profile, []).reason == "max_time: no run has finished, and the profile has no flops_per_second"
    )
