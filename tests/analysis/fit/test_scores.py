import dataclasses
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import norm

from pipeline.analysis.fit.ledger import PROBABILITIES, Line, Predicted
from pipeline.analysis.fit.measured import Unmeasured
from pipeline.analysis.fit.scores import crps, interval_with_error, score
from pipeline.analysis.page.words_ledger import as_json, summary
from pipeline.analysis.study.load import Study, load_study
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from tests.support.synthetic_study import BASE, valley, write_run

X = np.arange(-11.0, -3.0, 0.5)


def normal(at, sd, level=0.9):
    reach = ndtri((1 + level) / 2) * sd
    return Predicted(2.0**at, 2.0 ** (at - reach), 2.0 ** (at + reach), tuple(at + sd * ndtri(PROBABILITIES)))


@pytest.mark.parametrize("x", [-8.0, -7.7, -6.0, -9.5])
def test_crps_of_a_normal_distribution(x):
    at, sd = -8.0, 0.4
    z = (x - at) / sd
    exact = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))
    assert crps(normal(at, sd), PROBABILITIES, x) == pytest.approx(exact, abs=1e-3)


def test_crps_of_a_point_is_its_error():
    assert crps(Predicted(2.0**-8, math.nan, math.nan, ()), PROBABILITIES, -7.5) == pytest.approx(0.5)


def test_an_error_widens_a_normal_interval_as_it_should():
    low, high = interval_with_error(normal(-8, 0.3), PROBABILITIES, 0.9, 0.4)
    assert (low, high) == pytest.approx((-8 - 1.645 * 0.5, -8 + 1.645 * 0.5), abs=2e-3)


def study(widths, loss, x=X, seeds=(0, 1)):
    """As if loaded; `loss` of width, x and seed, inf: diverged."""
    rows = [(width, value, seed) for width in widths for value in x for seed in seeds]
    losses = np.array([loss(*row) for row in rows])
    runs = pd.DataFrame(rows, columns=["width", "x", "seed"]).assign(
        run="none",
        param="sp",
        optimizer="adamw",
        loss="cross_entropy",
        lr=lambda t: 2.0 ** t["x"],
        status=np.where(np.isfinite(losses), "completed", "diverged"),
        final_train_loss=losses,
        final_val_loss=losses + 1,
        final_train_accuracy=math.nan,
        left_for_good=False,
        lost_ground=False,
    )
    return Study((), runs, BASE, 0, 0)


def line(width, optimal=None, max_stable=None, recommended=None, **changed):
    whole = {
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "version": "0.1.0",
        "study": "s",
        "param": "sp",
        "optimizer": "adamw",
        "loss": "cross_entropy",
        "width": width,
        "estimator": "local",
        "metric": "train",
        "value": "tail",
        "level": 0.9,
        "probabilities": PROBABILITIES,
        "optimal": optimal,
        "max_stable": max_stable,
        "safe": None,
        "recommended": {"lr": recommended},
        "widths": (64, 128),
        "settings": Study((), pd.DataFrame({"optimizer": ["adamw"]}), BASE, 0, 0).recipe,
        "data": "",
    }
    return Line(**whole | changed)


def bowl(at, edge=math.inf):
    return lambda width, x, seed: math.inf if x > edge else 3 + 0.08 * (x - at) ** 2 + 0.01 * seed


@pytest.fixture(scope="module")
def many():
    """Sixty widths, each with an optimum of its own, and these."""
    rng = np.random.default_rng(0)
    truths = dict(zip(range(1000, 1060), rng.uniform(-8, -6, 60), strict=True))
    return study(truths, lambda width, x, seed: bowl(truths[width])(width, x, seed)), truths


@pytest.mark.parametrize(("claimed", "least", "most"), [(0.3, 48, 59), (0.03, 0, 20)])
def test_coverage_tells_who_knows_from_who_boasts(many, claimed, least, most):
    found, truths = many
    rng = np.random.default_rng(1)
    lines = [line(width, normal(truth + rng.normal(0, 0.3), claimed)) for width, truth in truths.items()]
    (total,) = score(found, lines).totals
    assert (total.n, total.targets, total.with_interval) == (60, 60, 60)
    assert total.expected_inside == pytest.approx(54)
    assert least <= total.inside <= most
    assert total.inside <= total.inside_with_error
    assert total.rms == pytest.approx(0.3, rel=0.25)
    exact = 0.3 / math.sqrt(math.pi) if claimed == 0.3 else 0.3 * math.sqrt(2 / math.pi)
    assert total.crps == pytest.approx(exact, rel=0.25)
    assert total.regret == pytest.approx(0.08 * 0.3**2, rel=0.5)


def test_one_score_in_closed_form():
    found = study([1024], bowl(-7, edge=-4.2))
    (one, edge) = score(found, [line(1024, normal(-6.5, 0.2), normal(-4.5, 0.2), recommended=2.0**-8)]).scores
    assert one.measured.x == pytest.approx(-7)
    assert one.error == pytest.approx(0.5)
    assert (one.inside, one.inside_with_error) == (False, False)
    assert one.regret.loss == pytest.approx(0.08 * 0.25)
    assert one.regret_recommended.loss == pytest.approx(0.08)
    assert (edge.measured.x, edge.measured.error) == (-4.25, 0.25)
    assert (edge.inside, edge.regret) == (True, None)


def test_the_measurement_s_own_error_may_explain_a_miss():
    found = study([1024], bowl(-7, edge=-4.2))
    (edge,) = score(found, [line(1024, max_stable=normal(-4.5, 0.05))]).scores
    assert (edge.inside, edge.inside_with_error) == (False, True)


def test_a_point_has_no_coverage_but_an_error():
    point = Predicted(2.0**-6.5, math.nan, math.nan, ())
    scored = score(study([1024], bowl(-7)), [line(1024, point, estimator="paper"), line(1024, normal(-7, 0.1))])
    one = scored.scores[0]
    assert (one.inside, one.inside_with_error) == (None, None)
    assert one.crps == pytest.approx(0.5)
    points, intervals = sorted(scored.totals, key=lambda total: total.with_interval)
    assert (points.estimator, points.with_interval, intervals.with_interval) == ("paper", 0, 1)
    assert " 0 of 0 " not in summary(scored, "s")


def test_repeated_predictions_are_scored_and_counted_as_one_target():
    lines = [line(1024, normal(at, 0.1)) for at in (-7, -7.1, -7.2)]
    (total,) = score(study([1024], bowl(-7)), lines).totals
    assert (total.n, total.targets) == (3, 1)
    assert "3 predictions of 1 target:" in summary(score(study([1024], bowl(-7)), lines), "s")


def test_the_metric_is_the_recorded_one():
    found = study([1024], bowl(-7))
    found.runs["final_val_loss"] = 3 + 0.1 * (found.runs["x"] + 6) ** 2
    train, val = score(found, [line(1024, normal(-7, 0.1)), line(1024, normal(-7, 0.1), metric="val")]).scores
    assert (train.measured.x, val.measured.x) == (pytest.approx(-7), pytest.approx(-6))


def test_what_is_not_measured_waits_and_says_why():
    found = study([1024], bowl(-12, edge=-4.2))
    lines = [line(width, normal(-7, 0.1), normal(-4, 0.1)) for width in (1024, 2048)]
    scored = score(found, [*lines, line(1024, normal(-7, 0.1), param="mup"), line(1024, settings={"steps": 7})])
    assert [(w.line.width, w.quantity, w.why) for w in scored.waiting[:3]] == [
        (1024, "optimal", Unmeasured.LOW_END),
        (2048, "optimal", None),
        (2048, "max_stable", None),
    ]
    assert [(s.line.width, s.quantity) for s in scored.scores] == [(1024, "max_stable")]
    assert (scored.waiting[3].line.param, scored.waiting[3].why) == ("mup", None)
    assert scored.other_recipes == 1
    text = " ".join(summary(scored, "s").split())
    assert "Width 1024, SP / AdamW: the optimum is not measured: the smallest usable learning rate" in text
    assert "Nothing measured yet at widths 1024 and 2048" in text
    assert "1 line of the ledger left out: on runs of another recipe" in text
    assert len(as_json(scored, "s", "f")["waiting"]) == 4


def test_regret_beyond_the_grid_is_a_bound_and_said_to_be():
    scored = score(study([1024], bowl(-7)), [line(1024, normal(-2, 0.1))])
    text = " ".join(summary(scored, "s").split())
    assert ">= 0.9800" in text
    assert "Mean regret at least 0.9800" in text


# ---------------------------------------------------------------------------------------------------------------------
# Recorded too late


@pytest.fixture
def folder(tmp_path):
    """One width with an optimum at 8e-3 / sqrt(16), and the run folders."""
    configs = [dataclasses.replace(BASE, width=1024, lr=2.0**x) for x in range(-12, -4)]
    return [write_run(tmp_path / "s", config, valley(-0.5)(config)) for config in configs]


def started(run_dir, *times):
    run_dir.joinpath("starts.jsonl").write_text("".join(f'{{"time": "{time.isoformat()}"}}\n' for time in times))


def scored(folder, one):
    found = load_study([folder[0].parent])
    return score(found, [dataclasses.replace(one, settings=found.recipe)])


@pytest.mark.parametrize(("hours", "late"), [(-1, True), (0, False), (1, False)])
def test_what_was_recorded_after_a_run_began_is_left_out(folder, hours, late):
    one = line(1024, normal(-9, 0.1))
    for run_dir in folder:
        started(run_dir, one.time + timedelta(days=9))
    started(folder[3], one.time + timedelta(hours=hours), one.time + timedelta(days=1))
    found = scored(folder, one)
    assert [s.late for s in found.scores] == [late]
    assert len(found.totals) == (0 if late else 1)
    assert ("1 line marked ! recorded after" in " ".join(summary(found, "s").split())) == late


def test_the_totals_are_those_of_what_was_in_time(folder):
    early = line(1024, normal(-9, 0.1))
    for run_dir in folder:
        started(run_dir, early.time + timedelta(hours=1))
    late = dataclasses.replace(early, time=early.time + timedelta(hours=2), optimal=normal(-5, 0.1))
    found = load_study([folder[0].parent])
    both = score(found, [dataclasses.replace(one, settings=found.recipe) for one in (early, late)])
    assert [s.late for s in both.scores] == [False, True]
    (total,) = both.totals
    assert (total.n, total.inside) == (1, 1)


def test_without_a_record_of_starts_the_result_tells(folder):
    end = RunDir(folder[0]).result_file.stat().st_mtime
    for shift, late in ((-10, False), (-1, True)):  # every run took 4.2 s
        one = line(1024, normal(-9, 0.1), time=datetime.fromtimestamp(end + shift, UTC))
        assert [s.late for s in scored(folder, one).scores] == [late]


def test_a_damaged_record_of_starts_is_named(folder):
    folder[2].joinpath("starts.jsonl").write_text("{}\n")
    with pytest.raises(RequestError, match=r"starts.jsonl is damaged \(.*time"):
        scored(folder, line(1024, normal(-9, 0.1)))
