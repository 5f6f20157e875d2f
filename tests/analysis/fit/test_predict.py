import json
import math

import numpy as np
import pytest

from pipeline.analysis.fit import predict as module
from pipeline.analysis.fit.advice import advise
from pipeline.analysis.fit.estimate import estimate
from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page.words_predict import reason, sentences, warning
from pipeline.cli import main
from tests.support.synthetic_study import valley, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng, shape = np.random.default_rng(0), valley(-0.5, edge_octaves=2.4)
    lrs = [1e-3 * 2**k for k in range(-2, 8)]
    return write_study(
        tmp_path_factory.mktemp("predict") / "s",
        lambda config: shape(config) + rng.normal(0, 0.004),
        widths=(64, 128, 256, 512),
        lrs=lrs,
        seeds=(0, 1),
    )


def warnings(group, width):
    one = module.predict(group, width, 0.9)
    return [warning(one, doubt) for doubt in one.doubts]


@pytest.fixture(scope="module")
def group(folder):
    return fit([folder]).groups[0]


def test_the_truth_lies_in_the_intervals_and_they_widen_with_distance(group):
    spans = []
    for width in (256, 1024, 4096):
        found = module.predict(group, width, 0.9)
        truth = 8e-3 * (width / 64) ** -0.5
        assert found.optimal.low < truth < found.optimal.high
        assert found.max_stable.low < truth * 2**2.4 < found.max_stable.high
        spans.append(found.optimal.high / found.optimal.low)
    assert spans == sorted(spans)


def test_a_higher_level_is_a_wider_interval(group):
    narrow, wide = (module.predict(group, 1024, level).optimal for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_the_recommendation_is_the_cheapest(group):
    near, far = (module.predict(group, width, 0.9) for width in (1024, 16384))
    for found in (near, far):
        assert found.recommended.lr == found.recommended.price.lr
        assert found.optimal.low < found.recommended.lr < found.optimal.high
        assert found.safe < found.max_stable.value
        assert "expected to cost" in reason(found)
        assert "to diverge" in reason(found)
    assert near.recommended.price.expected < far.recommended.price.expected
    assert near.recommended.price.at_most < far.recommended.price.at_most
    assert near.recommended.price.diverges < far.recommended.price.diverges < 0.2


def test_beyond_what_was_tried_is_said_first(tmp_path):
    write_study(tmp_path, valley(0.7, best_at_64=8e-3, edge_octaves=99), seeds=(0, 1))
    found = module.predict(fit([tmp_path]).groups[0], 4096, 0.9)
    assert found.optimal.value > 6.4e-2
    assert found.doubts[0].kind == "beyond tried"
    first = sentences(found)[0]
    assert first == "! Beyond the largest learning rate tried at any width, 6.4e-2: nothing was seen there."


def test_far_extrapolation_is_warned_of(group):
    assert any("nothing checks the power law that far out" in text for text in warnings(group, 4096))
    assert not warnings(group, 2048)
    assert any("narrower than any trained" in text for text in warnings(group, 8))


def test_advice_would_narrow_and_says_at_what_cost(group):
    found = module.predict(group, 8192, 0.9)
    for quantity in ("optimal", "max_stable"):
        ways = found.advice[quantity]
        assert [way.shrink for way in ways] == sorted(way.shrink for way in ways)
        assert all(0 < way.shrink < 1 for way in ways)
        assert {way.kind: way.width for way in ways} == {"narrower": 32, "wider": 2048, "seeds": 512}
        cost = {way.kind: way.cost for way in ways}
        assert cost["narrower"] < 0.01 < cost["seeds"] == 1 < cost["wider"]
    assert {
        way.width for way in advise(group.fitted.observed["optimal"], group.grid.runs, 8192) if way.kind == "narrower"
    } == {16}
    assert "narrower" not in {
        way.kind for way in advise(group.fitted.observed["optimal"], group.grid.runs, 8192, width_step=64)
    }  # GPTs have heads
    assert advise(group.fitted.observed["optimal"], group.grid.runs, 512.0)[0].kind != "wider"
    assert module.predict(group, 512, 0.9).advice["optimal"] == ()


def test_without_an_edge_it_says_so(tmp_path):
    write_study(tmp_path, valley(-0.5, edge_octaves=99), seeds=(0, 1))
    found = module.predict(fit([tmp_path]).groups[0], 512, 0.9)
    assert found.max_stable is None
    assert found.recommended.lr == pytest.approx(found.optimal.value, rel=0.1)
    assert math.isnan(found.recommended.price.diverges)
    assert "6.4e-2 is the largest rate seen to be stable" in reason(found)


def test_main_in_words_and_as_json(folder, capsys):
    assert main.main(["predict", str(folder), "--width", "1024"]) == 0
    words = capsys.readouterr().out
    assert words.isascii()
    assert "learning rate at width 1024 (not trained)" in words
    assert "To narrow the interval of the optimum: " in words
    assert main.main(["predict", str(folder), "--width", "1024", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["predictions"]
    assert found["optimal"]["low"] < 2e-3 < found["optimal"]["high"]
    assert found["price"]["lr"] == found["recommended"]
    assert found["price"]["expected"] < found["price"]["at_most"]
    assert set(found["role_lrs"].values()) == {found["recommended"]}
    assert found["command"].endswith(f"--width 1024 --lr {found['recommended']:.4g}")
    assert not (folder / "predict.json").exists()


def test_the_published_practice_predicts_points(folder, capsys):
    assert main.main(["predict", str(folder), "--width", "1024", "--estimator", "paper"]) == 0
    words = capsys.readouterr().out
    assert "(no interval)" in words
    assert "recommended lr  none" in words
    optimal = fit([folder], estimator="paper").groups[0].optimal
    assert f"{optimal.lr_at(1024):.2e}"[:3] in words


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "required: --width"),
        (["--width", "0"], "--width must be at least 1, got 0"),
        (["--width", "64", "--level", "1"], "--level must lie between 0 and 1, got 1"),
        (["--width", "wide"], "--width takes numbers"),
    ],
)
def test_a_wrong_request_is_one_line(folder, capsys, flags, said):
    assert main.main(["predict", str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_safe_rate_allows_for_seeds(group):
    found = estimate(group.grid.runs, wander=group.grid.wander)
    edge = found.at("max_stable", 1024)
    assert module.predict(group, 1024, 0.9).safe < 2 ** edge.quantile(0.05)
    assert math.log2(module.predict(group, 1024, 0.9).safe) == pytest.approx(
        edge.shifted(0, found.max_stable.seed_scatter).quantile(0.05), abs=1e-4
    )
