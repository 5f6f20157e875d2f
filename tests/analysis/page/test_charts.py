"""Places of marks against the numbers that they show."""

import math
import re

import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import charts, trajectories
from pipeline.analysis.page.answer import Shown, answer
from pipeline.analysis.page.hero import rates
from pipeline.analysis.page.svg import Drawing, Panel, Scale, apart
from pipeline.analysis.page.words import TIMES
from tests.support.synthetic_study import valley, write_study


def shown_of(fitted):
    return [Shown(place, answer(fitted, group), f"g{place}") for place, group in enumerate(fitted.groups)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fit([write_study(tmp_path_factory.mktemp("charts") / "s", valley(-0.5), params=("sp", "mup"))])


def test_a_scale_is_straight_in_logarithms_and_ends_at_its_ends():
    scale = Scale(1e-3, 1e-1, 0, 200)
    assert [scale(v) for v in (1e-3, 1e-2, 1e-1, 10, 1e-9, 0)] == pytest.approx([0, 100, 200, 200, 0, 0])
    assert scale.ticks(3) == pytest.approx([1e-3, 1e-2, 1e-1])
    assert len(Scale(1e-9, 1e9, 0, 1).ticks(5)) <= 5
    flat = Scale(4.2, 5.1, 0, 90, log=False)
    assert flat(4.65) == pytest.approx(45)
    assert flat.ticks(5) == pytest.approx([4.2, 4.4, 4.6, 4.8, 5.0])
    assert apart([1, 2, 4, 8, 16], 3) == [1, 4, 16]


def test_marks_of_the_first_figure_lie_at_their_rates(fitted):
    shown = shown_of(fitted)
    drawn = str(rates(shown[:1], fitted.study.axis, (700, 400), named=True))
    rows = shown[0].answer.rows
    marks = re.findall(
        r'<circle class="m g0( hollow)?" cx="([\d.]+)" cy="([\d.]+)" r="4.6"><title>(.*?)</title>', drawn
    )
    assert [bool(hollow) for hollow, *_ in marks] == [row.times > 1 for row in rows]
    y = [float(place) for _, _, place, _ in marks]
    # one octave of learning rate is as many pixels everywhere
    octaves = [math.log2(row.value / rows[0].value) for row in rows]
    per_octave = (y[-1] - y[0]) / octaves[-1]
    assert y == pytest.approx([y[0] + per_octave * octave for octave in octaves], abs=0.15)
    assert per_octave < 0
    for row, (_, _, _, title) in zip(rows, marks, strict=True):
        assert row.lr in title
        assert row.best in title
    crosses = re.findall(r'class="x g0".*?<title>(.*?)</title>', drawn)
    assert "SP · AdamW, width 64: 3.2e-2 was unstable" in crosses


def test_the_first_figure_reaches_a_best_rate_tried_far_from_all_others():
    """Two learning rates at the widest width tell no optimum; the better one is a star, where it lies."""
    shift = {64: 4, 128: 5, 256: 6}
    rows = [(n, 2.0**j, 3 + 0.1 * (j + shift[n]) ** 2) for n in shift for j in range(-9, -1)]
    rows += [(512, 2.0**4, 3.0), (512, 2.0**5, 3.5)]
    fitted = pipeline.fit(pd.DataFrame(rows, columns=["width", "lr", "loss"]))
    shown = shown_of(fitted)
    drawn = str(rates(shown, fitted.study.axis, (700, 400), named=True))
    known = [row.value for row in shown[0].answer.rows if row.times == 1 and row.value is not None]
    y = [float(place) for place in re.findall(r'<circle class="m g0" cx="[\d.]+" cy="([\d.]+)"', drawn)]
    (tip,) = re.findall(r'd="M[\d.]+ ([\d.]+)[^"]*"><title>[^<]*width 512: best tried 16; the best is not known', drawn)
    per_octave = (y[2] - y[0]) / math.log2(known[2] / known[0])
    assert float(tip) + 6.5 == pytest.approx(y[0] + per_octave * math.log2(16 / known[0]), abs=2)


def test_scaling_brings_the_stars_together(fitted):
    one = shown_of(fitted)[0]
    by_key = {scaling.key: str(charts.curves(fitted, [one], scaling)) for scaling in charts.scalings([one])}
    assert list(by_key) == ["raw", "fit", "theory"]

    def stars(drawn):
        found = re.findall(r'<path class="m g0 w\d" d="M([\d.]+) [^"]*Z"><title>[^<]*best at', drawn)
        return np.array([float(x) for x in found])

    assert np.ptp(stars(by_key["raw"])) > 40
    assert np.ptp(stars(by_key["fit"])) < 4
    assert np.ptp(stars(by_key["theory"])) < 4
    assert f"learning rate {TIMES} (n/64)^0.50" in by_key["theory"]


def test_a_cross_says_what_the_learning_rate_is_unstable_by(tmp_path):
    def loss(config):
        if config.width == 256:  # trains, but nowhere as well as narrower ones
            return 6.6 + 0.1 * abs(math.log2(config.lr / 8e-3))
        return {0.032: 6.2, 0.064: math.nan}.get(config.lr, 5 + 0.05 * math.log2(config.lr / 8e-3) ** 2)

    fitted = fit([write_study(tmp_path, loss, widths=(64, 256))], estimator="paper")
    one = shown_of(fitted)[0]
    drawn = str(charts.curves(fitted, [one], charts.scalings([one])[0]))
    titles = re.findall(r'class="x g0 w\d".*?<title>(.*?)</title>', drawn)
    failed, lost, *wide = titles
    assert lost == "SP · AdamW, width 64, lr 6.4e-2: unstable in 1 of 1 seed"
    assert failed == "SP · AdamW, width 64, lr 3.2e-2: loss 6.2, 1 seed; unstable: more than 1 above the best 5.000"
    assert len(wide) == 7
    assert all(t.endswith("nothing at this width trains as well as at a narrower one") for t in wide)


def test_losses_over_training_are_thinned_to_means():
    steps, losses = np.arange(1.0, 1001), np.linspace(8, 4, 1000)
    thin_steps, thin_losses = trajectories.thin(steps, losses)
    assert len(thin_steps) == trajectories.MOST_POINTS
    assert (thin_steps[0], thin_losses[0], thin_steps[-1]) == (1, 8, 1000)
    assert thin_losses[1] == pytest.approx(losses[1:14].mean())
    lost = losses.copy()
    lost[500:] = math.nan
    thin_steps, thin_losses = trajectories.thin(steps, lost)
    assert thin_steps[-1] == 500
    assert np.isfinite(thin_losses).all()


def test_of_many_learning_rates_the_best_one_stays(tmp_path):
    lrs = tuple(1e-4 * 2 ** (k / 2) for k in range(20))
    fitted = fit([write_study(tmp_path, valley(0.0, lrs[7]), widths=(64,), lrs=lrs)])
    w = fitted.groups[0].widths[0]
    drawn = trajectories.lines(fitted, fitted.groups[0], w)
    assert len(drawn) <= trajectories.MOST_LINES
    assert [line.lr for line in drawn if line.ended == "best"] == [w.optimum.lr]
    assert {line.ended for line in drawn} == {"best", "stable", "unstable"}


def test_a_group_has_a_mark_of_its_own():
    drawing = Drawing(10, 10, "marks")
    for kind in range(6):
        drawing.mark(kind, "m", (5, 5))
    assert len(set(drawing.parts)) == 6


@pytest.mark.parametrize(
    ("heights", "pieces"),
    [
        ((1, 5, 9), ["M0 90L50 50L100 10"]),
        (
            (1, 13, 1),
            ["M0 90L37.5 0", "M62.5 0L100 90"],
        ),  # left between the first two points, three quarters of the way
        ((1, 13, 13), ["M0 90L37.5 0"]),
        ((13, 13, 13), []),
        ((13, -7, -7), ["M7.5 0L32.5 100"]),
    ],
)
def test_a_line_is_cut_off_where_it_leaves_the_panel(heights, pieces):
    panel = Panel(Drawing(100, 100, "a line"), Scale(0, 2, 0, 100, log=False), Scale(0, 10, 100, 0, log=False))
    panel.line("l", list(zip((0.0, 1.0, 2.0), heights, strict=True)))
    assert re.findall(r' d="(.*?)"', "".join(panel.drawing.parts)) == pieces
