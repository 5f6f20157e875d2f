import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest

from pipeline.analysis.fit import ledger
from pipeline.analysis.fit.ledger import PROBABILITIES, Line, data_hash
from pipeline.analysis.fit.predict import predict
from pipeline.analysis.fit.study_fit import fit
from pipeline.errors import RequestError
from tests.support.synthetic_study import BASE, valley, write_study


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fit([write_study(tmp_path_factory.mktemp("ledger") / "s", valley(-0.5), params=("sp", "mup"), seeds=(0, 1))])


def lines(fitted, width=1024):
    return ledger.lines(fitted, [predict(group, width, 0.9) for group in fitted.groups])


@pytest.fixture(scope="module")
def made(fitted):
    return lines(fitted)


def test_a_line_is_what_was_predicted(fitted):
    one, two = lines(fitted)
    found = predict(fitted.groups[0], 1024, 0.9)
    assert (one.param, two.param) == ("sp", "mup")
    assert (one.width, one.widths, one.level) == (1024, (64, 128, 256), 0.9)
    assert (one.estimator, one.metric, one.value) == ("local", "train", "tail")
    assert (datetime.now(UTC) - one.time).total_seconds() < 60
    assert one.recommended["lr"] == found.recommended.lr
    assert one.safe == found.safe
    assert one.settings["steps"] == BASE.steps
    for quantity, lr in (("optimal", found.optimal), ("max_stable", found.max_stable)):
        written = one.predicted(quantity)
        quantiles = dict(zip(PROBABILITIES, written.log2_lr, strict=True))
        assert (written.lr, written.low, written.high) == (lr.value, lr.low, lr.high)
        assert quantiles[0.05] == pytest.approx(math.log2(lr.low), abs=1e-5)
        assert quantiles[0.5] == pytest.approx(math.log2(lr.value), abs=1e-5)
        assert quantiles[0.95] == pytest.approx(math.log2(lr.high), abs=1e-5)
        assert list(written.log2_lr) == sorted(set(written.log2_lr))


def test_there_and_back(fitted, tmp_path):
    file = tmp_path / "p.jsonl"
    points = lines(fit(fitted.study.dirs, estimator="paper"))
    ledger.append(file, lines(fitted))
    ledger.append(file, points)
    read = ledger.read(file)
    assert [line.to_json() for line in read] == [line.to_json() for line in [*lines_of(read[:2]), *points]]
    assert read[:2] == lines_of(read[:2])
    assert read[2].optimal.log2_lr == ()
    assert read[2].recommended["lr"] is None
    assert all(line.same_recipe(fitted.study.recipe) for line in read)


def lines_of(read):
    return [Line.from_json(json.loads(line.to_json())) for line in read]


def test_a_trained_width_is_no_prediction(fitted):
    with pytest.raises(RequestError, match="--record: width 128 has finished runs"):
        lines(fitted, 128)


def test_two_that_append_at_once_lose_nothing(fitted, tmp_path):
    one = lines(fitted)[0]

    def append(place):
        ledger.append(tmp_path / "p.jsonl", [dataclasses.replace(one, width=1000 * place + k) for k in range(2)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(1, 33)))
    found = [line.width for line in ledger.read(tmp_path / "p.jsonl")]
    assert sorted(found) == sorted(1000 * place + k for place in range(1, 33) for k in range(2))
    assert all(b == a + 1 for a, b in zip(found[::2], found[1::2], strict=True))  # what is added together stays so


def break_(content, **changed):
    return json.dumps(json.loads(content) | changed)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text[:-20], "line 2"),
        (lambda text: "[1]", "line 2: not a JSON object"),
        (lambda text: '{"time": "now"}', "line 2: no 'version'"),
        (lambda text: break_(text, time="yesterday"), "line 2: Invalid isoformat string"),
        (lambda text: break_(text, time="2026-01-01T00:00:00"), "line 2: time 2026-01-01T00:00:00 names no time zone"),
        (lambda text: break_(text, level=1), "line 2: level 1"),
        (lambda text: break_(text, level="high"), "line 2"),
        (lambda text: break_(text, metric="luck"), "line 2: --value tail is not recorded for luck"),
        (lambda text: break_(text, probabilities=[0.5, 0.1]), "line 2: probabilities that do not ascend"),
        (
            lambda text: break_(text, optimal={"lr": -1, "low": 1, "high": 2, "log2_lr": []}),
            "line 2: a prediction that",
        ),
        (lambda text: break_(text, optimal={"lr": 1, "low": 1, "high": 2, "log2_lr": [1, 2]}), "line 2: a prediction"),
        (lambda text: break_(text, optimal={"lr": 1}), "line 2: no 'low'"),
        (lambda text: break_(text, optimal=4e-3), "line 2"),
        (lambda text: break_(text, recommended={"lr": 0}), "line 2: recommended learning rate 0"),
        (lambda text: break_(text, recommended=[3]), "line 2"),
        (lambda text: break_(text, width=None), "line 2"),
        (lambda text: break_(text, settings=None), "line 2"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_added_to_it(made, tmp_path, harm, said):
    file = tmp_path / "p.jsonl"
    good = [line.to_json() for line in made]
    harmed = "\n".join([good[0], harm(good[1]), good[1]]) + "\n"
    file.write_text(harmed)
    for act in (lambda: ledger.read(file), lambda: ledger.append(file, made)):
        with pytest.raises(RequestError) as caught:
            act()
        assert said in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert file.read_text() == harmed


def test_a_line_without_an_end_is_damage(fitted, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(line.to_json() for line in lines(fitted)))
    with pytest.raises(RequestError, match="line 2: it has no end"):
        ledger.read(file)


def test_a_file_that_is_not_there_or_cannot_be_written(fitted, tmp_path):
    with pytest.raises(RequestError, match="no ledger of predictions"):
        ledger.read(tmp_path / "none.jsonl")
    with pytest.raises(RequestError, match="cannot write"):
        ledger.append(tmp_path / "no" / "folder.jsonl", lines(fitted))


def test_the_hash_follows_the_runs_and_nothing_else(fitted):
    group = fitted.groups[0]
    runs = group.grid.runs

    def hashed(some, **changed):
        return data_hash(dataclasses.replace(group, grid=dataclasses.replace(group.grid, runs=some), **changed))

    same = hashed(runs)
    assert hashed(runs.where(np.random.default_rng(0).permutation(len(runs)))) == same
    assert same == data_hash(group) != data_hash(fitted.groups[1])
    assert hashed(runs.where(np.arange(len(runs)) > 0)) != same
    assert hashed(runs, param="ntp") != same
    for field in ("width", "lr", "seed", "loss", "left", "accuracy"):
        changed = getattr(runs, field).copy()
        changed[3] = 1 - changed[3] if field != "accuracy" else 0.5
        assert hashed(dataclasses.replace(runs, **{field: changed})) != same, field


def test_another_recipe_is_told_by_what_matters(fitted):
    one, recipe = lines(fitted)[0], fitted.study.recipe
    assert one.same_recipe(recipe | {"data.path": "/elsewhere"})
    assert one.same_recipe({key: value for key, value in recipe.items() if key not in ("weight_decay", "betas")})
    assert one.same_recipe(recipe | {"precision": "32-true"})
    assert not one.same_recipe(recipe | {"steps": 61})
    assert not one.same_recipe(recipe | {"added_later": 1})
