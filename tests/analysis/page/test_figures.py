import math
import sys

import pytest

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import figures, transfer
from tests.support.synthetic_study import LRS, valley, write_study


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("figures") / "quick", valley(-0.5), params=("sp", "mup"))
    return fit([folder])


@pytest.mark.slow
def test_the_figure_is_saved_as_pdf_svg_and_png_and_twice_the_same(fitted, tmp_path):
    first = figures.save(figures.lr_curves(fitted), tmp_path / "a", "lr_transfer")
    again = figures.save(figures.lr_curves(fitted), tmp_path / "b", "lr_transfer")
    magic = {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}
    assert [path.suffix for path in first] == list(magic)
    for path, twin in zip(first, again, strict=True):
        assert path.read_bytes().startswith(magic[path.suffix])
        assert path.stat().st_size > 10_000
        assert path.read_bytes() == twin.read_bytes()


def test_the_scaled_panel_lines_up_the_optima(fitted):
    axes = figures.lr_curves(fitted).axes
    plain, scaled = [[line for line in ax.lines if line.get_marker() == "*"] for ax in (axes[0], axes[2])]
    assert [line.get_xdata()[0] for line in plain] == pytest.approx([w.best.value for w in fitted.groups[0].widths])
    base, slope = 64, fitted.groups[0].optimal.exponent
    expected = [w.best.value * (w.width / base) ** -slope for w in fitted.groups[0].widths]
    assert [line.get_xdata()[0] for line in scaled] == pytest.approx(expected)


def test_unstable_learning_rates_are_crossed_out(fitted):
    strip = figures.lr_curves(fitted).axes[1]
    crosses = [line.get_xdata().tolist() for line in strip.lines if line.get_marker() == "x"]
    assert crosses == [w.curve.lrs[w.unstable].tolist() for w in fitted.groups[0].widths]
    assert all(crosses)


def test_the_loss_axis_shows_the_valleys(fitted, tmp_path):
    low, high = transfer.loss_range(fitted)
    assert low < 4.5 < 5.0 < high < 5.0 + 1.5 + 0.2
    flat = write_study(tmp_path, lambda config: 7.5 - config.lr, widths=(64,))  # barely trained: up to the initial loss
    low, high = transfer.loss_range(fit([flat]))
    assert 7.3 < low < 7.44 < high < 7.7


@pytest.mark.parametrize(
    ("loss", "grid"),
    [
        (lambda config: math.nan, {}),
        (valley(0.0), {"widths": (64,)}),
        (valley(0.0), {"widths": (64,), "lrs": (8e-3,)}),
        (valley(-1.0, edge_octaves=99), {"lrs": LRS[3:]}),
        (valley(-1.0, edge_octaves=99), {"lrs": (4e-3,)}),
    ],
    ids=["all diverged", "one width", "one run", "nothing unstable", "one learning rate"],
)
def test_hopeless_studies_still_draw(tmp_path, loss, grid):
    figure = figures.lr_curves(fit([write_study(tmp_path, loss, **grid)]))
    assert len(figures.save(figure, tmp_path / "figures", "f")) == 3


def test_colours_go_from_light_to_dark():
    from matplotlib.colors import to_rgb

    lightness = [sum(to_rgb(colour)) for colour in transfer.width_colours(5)]
    assert lightness == sorted(lightness, reverse=True)
    assert len(set(transfer.width_colours(1))) == 1


def test_fitting_does_not_load_plotting():
    import subprocess

    code = "import sys, pipeline.analysis.page.summary, pipeline.analysis.page.figures; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
