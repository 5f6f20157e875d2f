"""The adaptive plan: what it proposes on simulated studies, and that rounds can be stopped, continued and repeated."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.adaptive import simulate
from benchmarks.studies import NOTE, OTHER, draw
from pipeline.analysis.study.runs import Runs
from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.sweep import rounds
from pipeline.sweep.adaptive.cells import SCAN_LIMIT
from pipeline.sweep.adaptive.next_round import next_round
from pipeline.sweep.adaptive.seeds import limit_of
from pipeline.sweep.adaptive.state import Aim, Round
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.launch import local
from pipeline.sweep.plan_file import PLAN, budget
from pipeline.sweep.study import Planned, sweep
from tests.support.synthetic_study import BASE, valley, write_run

WIDTHS = (64, 256, 1024)
AIM = Aim(WIDTHS, start=-8.0, half_width=0.1, cost=lambda n: (n / 1024) ** 2)
Row = tuple[int, float, int, float, bool]


def runs_of(rows: list[Row]) -> Runs:
    columns = list(zip(*rows, strict=True)) or [[], [], [], [], []]
    return Runs.of(*columns[:4], left=columns[4])


def play(aim: Aim, loss: Any, most: int = 40) -> tuple[list[Row], list[Round]]:
    """Rounds to the end, every run answered by `loss(width, x, seed)`; nan diverges."""
    rows: list[Row] = []
    made: list[Round] = []
    for _ in range(most):
        made.append(next_round(runs_of(rows), aim))
        if not made[-1].proposals:
            return rows, made
        rows += [(p.width, 2.0**p.x, p.seed, loss(p.width, p.x, p.seed), False) for p in made[-1].proposals]
    raise AssertionError(f"no end after {most} rounds: {made[-1].finding}")


def clean(alpha: float, edge: float, at: float = -8.0) -> Any:
    """Valleys without noise at -8 octaves + alpha z, the edge `edge` octaves above."""

    def loss(width: int, x: float, seed: int) -> float:
        u = x - at - alpha * math.log2(width / 64)
        return (
            math.nan if u > edge else 4 - 0.1 * math.log2(width / 64) + 0.08 * (math.exp(0.4 * u) - 1 - 0.4 * u) / 0.16
        )

    return loss


def test_a_clean_study_is_understood_in_few_runs() -> None:
    rows, made = play(AIM, clean(-0.5, 2.4))
    assert made[-1].finding.startswith("as asked: optimal exponent to +-0.0")
    widest = [row for row in rows if row[0] == 1024]
    assert len(widest) <= 12
    assert len({(row[0], row[1], row[2]) for row in rows}) == len(rows), "no run is made twice"
    assert all(p.why for r in made for p in r.proposals)


def test_a_sweep_may_end_on_what_a_learning_rate_costs() -> None:
    asked = dataclasses.replace(AIM, regret=0.004, at_width=2048)
    rows, made = play(asked, clean(-0.5, 2.4))
    assert made[-1].finding.startswith("as asked: at width 2048 the recommended learning rate is expected to cost 0.00")
    assert len(rows) < len(play(dataclasses.replace(asked, regret=0.0015), clean(-0.5, 2.4))[0])


@pytest.mark.parametrize("at", [-15.0, -1.0])
def test_the_scan_goes_on_where_its_end_is_interesting(at: float) -> None:
    rows, made = play(AIM, clean(-0.5, 2.4, at))
    assert made[-1].finding.startswith("as asked")
    scanned = [math.log2(row[1]) for row in rows if row[0] == 64 and row[2] == 0]
    assert min(scanned) < at - 1.9
    assert max(scanned) > at + 2.4


def test_it_gives_up_where_nothing_is_ever_unstable() -> None:
    rows, made = play(AIM, lambda width, x, seed: 4 - 0.8 * math.exp(-((x + 8) ** 2) / 8))
    assert made[-1].finding == "gave up: nothing is unstable so far, 20 octaves from the first guess"
    assert max(math.log2(row[1]) for row in rows) == pytest.approx(AIM.start + SCAN_LIMIT)


def test_the_order_of_runs_does_not_matter() -> None:
    truth = draw(NOTE, 4, 0.04, np.random.default_rng(3))
    aim = Aim(truth.widths, float(truth.optimum[0]), 0.1, lambda n: float(n**2))
    rows: list[Row] = []
    rng = np.random.default_rng(0)
    for _ in range(8):
        found = next_round(runs_of(rows), aim)
        mixed = [rows[i] for i in rng.permutation(len(rows))]
        assert next_round(runs_of(mixed), aim) == found
        for p in found.proposals:
            loss, left = truth.run(truth.widths.index(p.width), p.x, p.seed)
            rows.append((p.width, 2.0**p.x, p.seed, loss, left))


def test_too_few_widths_for_the_precision_are_said_to_be() -> None:
    aim = Aim((64, 128), -8.0, 0.01, lambda n: 1.0)
    _, made = play(aim, clean(-0.5, 2.4))
    assert f"2 widths cannot tell it closer than +-{limit_of((64, 128)):.3f}: add a width" in made[-1].finding


@pytest.mark.slow
@pytest.mark.parametrize("world", [NOTE, OTHER], ids=lambda world: world.name)
def test_simulated_sweeps_reach_what_was_asked(world: Any) -> None:
    found = [simulate(draw(world, 4, 0.04, np.random.default_rng([11, i])), 0.1) for i in range(6)]
    assert sum(f["opt_half"] <= 0.1 and f["max_half"] <= 0.1 for f in found) >= 5
    assert np.mean([f["opt_hit"] for f in found] + [f["max_hit"] for f in found]) >= 0.75
    assert np.median([f["cost"] for f in found]) < 12  # runs of the widest width


# ---------------------------------------------------------------------------------------------------------------------
# Rounds on disk


@pytest.fixture
def config(tmp_path: Path) -> SweepConfig:
    settings = {name: getattr(BASE, name) for name in RunConfig.__dataclass_fields__}
    return SweepConfig(
        **settings | {"out": str(tmp_path), "study": "s", "lr": 8e-3},
        widths=(64, 256, 1024), plan="adaptive", target_half_width=0.2, launcher="local",
    )  # fmt: skip


def trained(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[str]:
    """Replace training by a known valley, noisy; `stop_after` so many runs comes Ctrl-C. The runs made, in order."""
    made: list[str] = []

    def submit(config: SweepConfig, planned: Planned, crew: object) -> int:
        for run in planned.runs:
            if RunDir(run.run_dir).result() is not None:
                continue
            if stop_after is not None and len(made) >= stop_after:
                raise KeyboardInterrupt
            noise = np.random.default_rng([run.seed, run.width, round(1e9 * run.lr)]).normal(0, 0.01)
            write_run(run.run_dir.parent, run, valley(-0.5, edge_octaves=2.2)(run) + noise)
            made.append(run.run_name)
        return 0

    monkeypatch.setattr(local, "submit", submit)
    return made


def test_a_stopped_sweep_goes_on_as_if_nothing_had_been(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        whole = trained(patched)
        assert sweep(config) == 0
    plan = (tmp_path / "s" / PLAN).read_text()
    other = dataclasses.replace(config, study="t")
    made: list[str] = []
    for _ in range(20):
        with monkeypatch.context() as patched:
            part = trained(patched, stop_after=5)
            try:
                assert sweep(other) == 0
                made += part
                break
            except KeyboardInterrupt:
                made += part
    assert made == whole
    assert (tmp_path / "t" / PLAN).read_text() == plan
    assert all(entry["why"] for line in plan.splitlines() for entry in json.loads(line)["runs"])
    end, before = (json.loads(line) for line in reversed(plan.splitlines()[-2:]))
    assert (end["runs"], end["round"]) == ([], before["round"])
    assert max(end["reached"]["sp"].values()) <= 0.2 < max(before["reached"]["sp"].values())
    assert sweep(other) == 0, "at its end it stays there"
    assert (tmp_path / "t" / PLAN).read_text() == plan


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    config: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(config, dry_run=True) == 0
    said = capsys.readouterr().out
    assert said.startswith("round 1: scanning width 64\n  sp width 64 lr 0.000125 seed 0: scan\n")
    assert len(said.splitlines()) == 8
    assert not list(tmp_path.iterdir())


def test_the_budget_is_kept(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trained(monkeypatch)
    assert sweep(dataclasses.replace(config, budget="9 runs")) == 0
    assert len(made) == 9
    said = capsys.readouterr().out
    assert "a budget of 9 runs is too small to reach all widths, which takes about 19 runs" in said.splitlines()[0]
    assert "the budget of 9 runs is spent" in said
    hours = budget("2.5h")
    assert (hours.hours, hours.runs) == (2.5, math.inf)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_plan_that_lost_rounds_does_not_give_the_budget_back(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: int
) -> None:
    made = trained(monkeypatch)
    nine = dataclasses.replace(config, budget="9 runs")
    assert sweep(nine) == 0
    plan = tmp_path / "s" / PLAN
    lines = plan.read_text().splitlines(keepends=True)
    assert len(lines) > kept
    plan.write_text("".join(lines[:kept]))
    assert sweep(nine) == 0
    assert len(made) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (64,)}, "--plan adaptive needs two widths at least"),
        ({"budget": "much"}, "--budget: expected runs such as 200, or hours such as 20h, got 'much'"),
        ({"budget": "-3h"}, "--budget: expected"),
        ({"target_half_width": 0.0}, "--target_half_width must be 0.001..2"),
        ({"target_regret": 0.01}, "--target_regret and --at_width go together"),
        ({"target_regret": -0.01, "at_width": 64}, "--target_regret and --at_width go together"),
        ({"widths": (64, 100)}, "--width 100 is not divisible"),
    ],
)
def test_wrong_requests(config: SweepConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sweep(dataclasses.replace(config, **changes), dry_run=True)


def test_a_damaged_plan_is_one_line(config: SweepConfig, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / PLAN).write_text('{"runs": [{}]}\n')
    with pytest.raises(RequestError, match=r"plan\.jsonl is damaged: delete it, the finished runs are kept"):
        rounds.plan(config)


def test_few_runs_are_audited_and_the_others_may_be_aborted(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [rounds._run(config, "sp", rounds.Proposal(64, seed, -8.0, "")) for seed in range(400)]
    audited = sum(run.abort_after is None for run in many)
    assert 8 <= audited <= 36  # 20 expected
    assert {run.abort_after for run in many} == {None, 20}
    assert len({run.run_name for run in many}) == 400


def test_runs_of_other_settings_say_nothing(tmp_path: Path) -> None:
    """A study folder may hold cells of an earlier grid."""
    settings = {f.name: getattr(BASE, f.name) for f in dataclasses.fields(RunConfig)}
    config = SweepConfig(**settings | {"out": str(tmp_path), "study": "s", "widths": (64, 128), "plan": "adaptive"})
    for lr, steps in ((1e-3, BASE.steps), (2e-3, BASE.steps), (4e-3, BASE.steps + 10)):
        write_run(tmp_path / "s", dataclasses.replace(BASE, lr=lr, steps=steps), 5.0)
    assert sorted(rounds._table(config)["lr"]) == [1e-3, 2e-3]
