import json
import math

import pytest

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import charts, figures
from pipeline.analysis.page.transfer import transfer
from tests.support.synthetic_study import valley, write_study


def shown(folder, loss, estimator="local", **grid):
    fitted = fit([write_study(folder, loss, **grid)], estimator=estimator)
    return fitted, transfer(fitted, fitted.groups[0])


def hovers(group, width):
    """Of every cross of a width."""
    return charts.loss_curves(group)["data"][2 * group.widths.index(width) + 1]["text"]


def test_a_cross_says_what_the_learning_rate_is_unstable_by(tmp_path):
    def loss(config):
        if config.width == 256:  # trains, but nowhere as well as narrower ones
            return 6.6 + 0.1 * abs(math.log2(config.lr / 8e-3))
        return {0.032: 6.2, 0.064: math.nan}.get(config.lr, 5 + 0.05 * math.log2(config.lr / 8e-3) ** 2)

    _, group = shown(tmp_path, loss, "paper", widths=(64, 256))
    lost, failed = sorted(hovers(group, 64), key=lambda text: "loss" in text)
    assert lost == "width 64<br>lr 6.4e-2<br>unstable in 1 of 1 seed"
    assert failed == "width 64<br>lr 3.2e-2<br>loss 6.200, 1 seed<br>unstable: more than 1 above the best 5.000"
    assert len(hovers(group, 256)) == 7
    assert all(
        text.endswith("nothing at this width trains as well as at a narrower one") for text in hovers(group, 256)
    )


def test_charts_and_figure_show_the_same(tmp_path):
    fitted, group = shown(tmp_path, valley(-0.5), params=("sp",), seeds=(0, 1))
    curves, scaled, laws = charts.loss_curves(group), charts.scaled_curves(group), charts.exponents(group)
    plain, _, in_scaled, _, panel = figures.lr_curves(fitted).axes
    n = len(group.widths)
    for axes, chart in ((plain, curves), (in_scaled, scaled)):
        lines = [line for line in axes.lines if line.get_linestyle() == "-"]
        assert [line.get_xdata().tolist() for line in lines] == [chart["data"][2 * i]["x"] for i in range(n)]
        stars = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "*"]
        assert stars == pytest.approx([star["x"][0] for star in chart["data"][2 * n :]])
        assert list(axes.get_ylim()) == pytest.approx(chart["layout"]["yaxis"]["range"])
    drawn = {line.get_label(): line.get_ydata() for line in panel.lines if ":" in str(line.get_label())}
    assert {trace["name"]: trace["y"] for trace in laws["data"] if trace.get("mode") == "lines"} == {
        name: list(ends) for name, ends in drawn.items()
    }
    json.dumps([curves, scaled, laws], allow_nan=False)
