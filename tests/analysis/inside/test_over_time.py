"""What is drawn of the inside against steps, widths and learning rates, against the records by brute force."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.inside.over_time import ASKED, sheets
from pipeline.analysis.page import figures_over_time
from pipeline.analysis.study.load import load_study
from pipeline.config import MultConfig
from pipeline.errors import RequestError
from tests.support.synthetic_coordinates import MLP, write_coordinates

WIDTHS = (64, 128, 256)


def cosine(config, step):
    """As it would be recorded: of both signs, different for every weight."""
    values = {f"cosine/layers.{i}.weight": math.cos(i + step + config.seed + config.width) for i in range(3)}
    others = {key.replace("cosine", "cosine_other"): value / 2 for key, value in values.items()}
    return values | others | {"sharpness/1": config.width**0.5 * step * (1 + config.seed)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("over_time")
    exponents = {("update_rank", ""): 0.25, ("effective", ""): 0.5, ("propagating", ""): 0.0}
    for lr in (1e-3, 1e-2):
        base = replace(MLP, lr=lr)
        write_coordinates(folder, base, exponents, widths=WIDTHS, seeds=(0, 1), extra=cosine, ask=False)
    return load_study([folder])


@pytest.fixture(scope="module")
def found(study):
    return ladders(study, recorded(study))


def raw(study):
    """Every record, by (lr, width, seed, step)."""
    values = {}
    for row in study.runs.to_dict("records"):
        lines = (study.dirs[0] / row["run"] / "metrics.jsonl").read_text().splitlines()
        for record in map(json.loads, lines):
            values[row["lr"], row["width"], row["seed"], record["step"]] = record
    return values


def test_against_steps_lines_are_means_over_weights_and_seeds(study, found):
    records = raw(study)
    (ranks,) = sheets([found[0]], found, "update_rank", "step")
    assert ranks.rows == ("input", "first hidden", "hidden", "readout")
    hidden = ranks.panels["update_rank", "hidden"]
    assert [line.level for line in hidden.lines] == list(WIDTHS)
    names = {"hidden": ["layers.2.weight"], "first hidden": ["layers.1.weight"], "input": ["layers.0.weight"]}
    for row, weights in names.items():
        for line in ranks.panels["update_rank", row].lines:
            for x, mean, low, high in zip(line.x, line.mean, line.low, line.high, strict=True):
                of_seeds = [
                    np.prod([records[found[0].lr, line.level, seed, int(x)][f"update_rank/{w}"] for w in weights])
                    ** (1 / len(weights))
                    for seed in (0, 1)
                ]
                assert mean == pytest.approx(math.sqrt(of_seeds[0] * of_seeds[1]))
                assert (low, high) == pytest.approx((min(of_seeds), max(of_seeds)))
    assert hidden.exponent == pytest.approx(0.25, abs=0.05)


def test_cosines_have_arithmetic_means_and_no_exponent(study, found):
    records = raw(study)
    (sheet,) = sheets([found[0]], found, "cosine", "step")
    for part in ("cosine", "cosine_other"):
        panel = sheet.panels[part, "input"]
        assert math.isnan(panel.exponent)
        for line in panel.lines:
            wanted = [
                np.mean([records[found[0].lr, line.level, s, int(x)][f"{part}/layers.0.weight"] for s in (0, 1)])
                for x in line.x
            ]
            assert line.mean == pytest.approx(wanted)


def test_against_widths_lines_are_steps_and_against_rates_ends(study, found):
    (by_width,) = sheets([found[0]], found, "sharpness", "width")
    panel = by_width.panels["sharpness", "model"]
    assert [line.level for line in panel.lines] == [1, 2, 3]
    for line in panel.lines:
        assert line.x.tolist() == list(WIDTHS)
        assert line.mean == pytest.approx([n**0.5 * line.level * math.sqrt(2) for n in WIDTHS])
    assert panel.exponent == pytest.approx(0.5)
    (by_lr,) = sheets([found[0]], found, "sharpness", "lr")
    for line in by_lr.panels["sharpness", "model"].lines:
        assert line.x.tolist() == [1e-3, 1e-2]
        assert line.mean == pytest.approx([line.level**0.5 * 3 * math.sqrt(2)] * 2)
        assert line.high == pytest.approx([line.level**0.5 * 6] * 2)


def test_what_was_not_recorded_is_refused_with_the_flags_that_record_it(found):
    for quantity in ("ntk", "alignment", "sparsity"):
        with pytest.raises(RequestError) as caught:
            sheets(found, found, quantity, "step")
        assert str(caught.value) == f"no {quantity} at two widths: train with {ASKED[quantity].flags}"


@pytest.mark.parametrize("against", ["step", "width", "lr"])
def test_the_panels_hold_the_lines(found, against):
    shown = sheets([found[0]], found, "updates", against)
    (figure,) = figures_over_time.over_time_figures(shown).values()
    (sheet,) = shown
    panels = [(part, row) for row in sheet.rows for part in ("effective", "propagating")]
    for axes, key in zip(figure.axes, panels, strict=True):
        drawn = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]
        lines = sheet.panels[key].lines if key in sheet.panels else ()
        assert drawn == [(line.x.tolist(), line.mean.tolist()) for line in lines]
        low, high = axes.get_ylim()
        assert all(low < value < high for line in lines for value in line.mean)


def test_ladders_of_one_family_have_figures_of_their_own(found):
    names = list(figures_over_time.over_time_figures(sheets(found, found, "updates", "step")))
    assert names == ["-sp-sgd-lr-1e-3-at-every-width", "-sp-sgd-lr-1e-2-at-every-width"]


@pytest.mark.parametrize("quantity", ["update_rank", "cosine"])
def test_the_legend_is_inside_and_titles_tell_settings(found, quantity):
    """A column is narrower than the names of its steps in a line; cosines are shown on a quarter of their range."""
    ladder = replace(found[0], config=replace(found[0].config, readout_init="zero", mult=MultConfig(input_init=8.0)))
    (sheet,) = sheets([ladder], found, quantity, "width")
    longer = {key: replace(panel, lines=(*panel.lines, *(replace(panel.lines[0], level=step) for step in (4, 64, 1000))))
              for key, panel in sheet.panels.items()}  # fmt: skip
    (figure,) = figures_over_time.over_time_figures([replace(sheet, panels=longer)]).values()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert figure.bbox.x0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figure.bbox.x1
    title = figure.axes[0].get_title() if quantity == "update_rank" else figure.get_suptitle()
    assert "zero readout" in title
    assert "input init" in title
    low, high = figure.axes[0].get_ylim()
    assert quantity == "update_rank" or high - low >= 0.25


def test_every_quantity_has_a_head():
    assert {part for asked in ASKED.values() for part in asked.parts} == set(figures_over_time.HEADS)


def test_the_script_draws_a_study(study, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[3] / "analysis" / "over_time.py"
    for quantity, code in (("cosine", 0), ("ntk", 2)):
        argv = ["over_time.py", str(study.dirs[0]), "--quantity", quantity, "--lr", "1e-2", "--out", str(tmp_path)]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == code
    assert {path.name for path in tmp_path.iterdir()} == {f"cosine-against-step.{end}" for end in ("pdf", "svg", "png")}
    assert capsys.readouterr().err.startswith("no ntk at two widths: train with")
