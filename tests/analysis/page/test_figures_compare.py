"""The comparison of groups: what stands behind its marks."""

import dataclasses
import itertools
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import figures_compare, words
from pipeline.analysis.page.figures_compare import best_of, compare_figure, looks, value_range
from pipeline.analysis.study.measure import Measure
from pipeline.run.directory import RunDir
from tests.support.synthetic_study import BASE, LRS, WIDTHS, valley, write_run, write_study


def accuracy(config):
    return 0.9 + 0.01 * math.log2(config.width / 64) - 0.02 * abs(math.log2(config.lr / 8e-3)) - 0.001 * config.seed


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    one = write_study(root / "a", valley(-0.5), params=("sp", "mup"), seeds=(0, 1))
    deep = dataclasses.replace(BASE.model, n_layer=4)
    for width, lr, seed in itertools.product(WIDTHS, LRS, (0, 1)):
        config = dataclasses.replace(BASE, width=width, lr=lr, seed=seed, loss="mse", model=deep)
        write_run(root / "b", config, valley(0.0)(config) / 10)
    return [one, root / "b"]


@pytest.fixture(scope="module")
def fitted(folders):
    return fit(folders)


def test_a_panel_per_group_and_one_scale_per_unit(fitted):
    axes = compare_figure(fitted).axes
    titles = [one.get_title(loc="left") for one in axes[:3]]
    assert titles == ["SP · AdamW · 2 layers", "μP · AdamW · 2 layers", "SP · AdamW · MSE · 4 layers"]
    shown = sorted(fitted.groups, key=lambda group: group.loss)
    for one, group in zip(axes, shown, strict=False):
        lines = [line for line in one.lines if line.get_marker() == "o" and line.get_linestyle() == "-"]
        for line, w in zip(lines, group.widths, strict=True):
            finite = np.isfinite(w.curve.losses)
            assert line.get_xdata().tolist() == w.curve.lrs[finite].tolist()
            assert line.get_ydata().tolist() == w.curve.losses[finite].tolist()
        stars = [(*line.get_xdata(), *line.get_ydata()) for line in one.lines if line.get_marker() == "*"]
        best = [w for w in group.widths if w.best is not None]
        assert [x for x, _ in stars] == pytest.approx([w.best.value for w in best])
        on_lines = [np.interp(np.log(w.best.value), np.log(line.get_xdata()), line.get_ydata())
                    for line, w in zip(lines, group.widths, strict=True) if w.best is not None]  # fmt: skip
        assert [y for _, y in stars] == pytest.approx(on_lines)
        crosses = [line.get_xdata()[0] for line in one.lines if line.get_marker() == "x"]
        assert sorted(crosses) == sorted(lr for w in group.widths for lr in w.curve.lrs[w.unstable])
    assert axes[0].get_ylim() == axes[1].get_ylim() != axes[2].get_ylim()
    low, high = value_range(fitted, figures_compare.scale_of(shown[-1]))
    assert low < 0.45 < 0.5 < high < 2.1


def test_optimum_and_edge_of_all_groups(fitted):
    optimum, edge = [one for one in compare_figure(fitted).axes if one.get_ylabel().endswith("learning rate")]
    for axes, quantity in ((optimum, "optimal"), (edge, "max_stable")):
        marks = [line for line in axes.lines if line.get_linestyle() == "None"]
        for line, group in zip(marks, fitted.groups, strict=True):
            points = figures_compare.law_points(group, quantity)
            assert line.get_ydata().tolist() == [lr.value for _, lr in points]
            assert line.get_xdata() == pytest.approx([n for n, _ in points], rel=0.05)
    labels = [text.get_text() for text in optimum.get_legend().get_texts()]
    assert len(labels) == 3
    assert labels[0].startswith(f"SP · AdamW · 2 layers: {words.MINUS}0.5")


def test_a_panel_without_learning_rates_says_so_and_legends_fit(tmp_path):
    """A grid that lies below every optimum; five widths, whose names are longer than the figure is wide."""
    widths = (64, 128, 256, 512, 1024)
    folder = write_study(tmp_path / "s", valley(0.0, edge_octaves=99), widths=widths, lrs=(1e-4, 2e-4, 4e-4))
    figure = compare_figure(fit([folder]))
    figure.draw_without_rendering()
    for axes in figure.axes[-2:]:
        assert not axes.axison
        assert axes.texts[0].get_text().endswith("not estimable at any width")
    (legend,) = figure.legends
    assert figure.bbox.x0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figure.bbox.x1


def test_colour_tells_families_and_dash_tells_losses(fitted):
    sp, mup, mse = looks(fitted)[0], looks(fitted)[2], looks(fitted)[1]
    assert sp.style == mup.style != mse.style
    assert sp.colour == mse.colour != mup.colour


def test_more_families_than_colours_look_different(tmp_path):
    folder = tmp_path / "s"
    for depth in range(1, 10):
        deep = dataclasses.replace(BASE.model, n_layer=depth)
        write_run(folder, dataclasses.replace(BASE, model=deep), 1.0)
    many = fit([folder])
    every = [(look.colour, look.style, look.mark) for look in looks(many)]
    assert len(set(every)) == len(every) == 9
    heights = {}
    for name, one in (("many", many), ("few", dataclasses.replace(many, groups=many.groups[:2]))):
        figure = compare_figure(one)
        figure.draw_without_rendering()
        heights[name] = figure.axes[-1].get_position().height * figure.subfigs[1].bbox.height / figure.dpi
    assert heights["many"] == pytest.approx(heights["few"], rel=0.1)


def test_where_losses_alone_differ_colour_tells_them_too(tmp_path):
    alone = fit([write_study(tmp_path / loss, valley(0.0), loss=loss) for loss in ("cross_entropy", "softmax_mse")])
    first, second = looks(alone)
    assert first.colour != second.colour
    assert first.style != second.style


def test_best_values_against_width(folders, fitted):
    for group in fitted.groups:
        best = best_of(fitted, group)
        assert best.widths == [64, 128, 256]
        for i, w in enumerate(group.widths):
            runs = group.grid.runs
            here = runs.width == w.width
            means = {lr: runs.loss[here & (runs.lr == lr)].mean() for lr in LRS}
            least = min(means, key=means.get)
            of_seeds = runs.loss[here & (runs.lr == least)]
            assert best.values[i] == pytest.approx(means[least])
            assert (best.low[i], best.high[i]) == pytest.approx((of_seeds.min(), of_seeds.max()))


def test_accuracies_are_drawn_as_such(tmp_path):
    folder = write_study(tmp_path / "s", valley(0.0), seeds=(0, 1))
    for run in folder.iterdir():
        if run.is_dir() and (run / "result.json").is_file():
            content = json.loads((run / "result.json").read_text())
            value = accuracy(RunDir(run).config())
            content |= {"final_train_accuracy": value, "final_val_accuracy": value}
            (run / "result.json").write_text(json.dumps(content))
    fitted = fit([folder], Measure("train_accuracy"))
    best = best_of(fitted, fitted.groups[0])
    assert best.values == pytest.approx([0.9 + 0.01 * i - 0.0005 for i in range(3)])
    assert figures_compare.name_of(fitted) == "final training accuracy"
    low, high = value_range(fitted, figures_compare.scale_of(fitted.groups[0]))
    assert low < 0.84 < 0.92 < high
    figure = figures_compare.best_figure(fitted)
    assert figure.axes[0].get_ylabel() == "best final training accuracy"
    assert figure.axes[0].lines[0].get_ydata().tolist() == best.values


@pytest.mark.slow
def test_the_script_draws_several_studies(folders, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[3] / "analysis" / "compare.py"
    for what in ("loss", "best", "accuracy"):
        monkeypatch.setattr("sys.argv", ["compare.py", *map(str, folders), "--what", what, "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == (2 if what == "accuracy" else 0)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"compare-{what}.{end}" for what in ("loss", "best") for end in ("pdf", "svg", "png")
    }
    assert "no completed run has a finite final training error" in capsys.readouterr().err


def test_titles_say_what_goes_along_and_stay_within_their_panels(tmp_path):
    for depth, norm in ((2, True), (3, False), (4, True), (6, True)):
        model = dataclasses.replace(BASE.model, n_layer=depth, qk_norm=norm)
        for width, lr in itertools.product(WIDTHS[:2], LRS):
            config = dataclasses.replace(BASE, param="sp_full_align", width=width, lr=lr, loss="mse", model=model)
            write_run(tmp_path / "s", config, valley(0.0)(config))
    figure = compare_figure(fit([tmp_path / "s"]))
    figure.draw_without_rendering()
    panels = figure.axes[:4]
    titles = [axes._left_title for axes in panels]
    assert titles[1].get_text() == "SP-full-align · AdamW · MSE ·\n3 layers · no qk-norm"
    ends = [title.get_window_extent() for title in titles]
    assert all(one.x1 < after.x0 for one, after in itertools.pairwise(ends))
    assert ends[-1].x1 <= figure.bbox.x1
