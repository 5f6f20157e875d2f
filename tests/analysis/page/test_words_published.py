"""Published exponents beside those of a study."""

import pytest

from analysis import lr_transfer
from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import figures
from pipeline.analysis.page.words_published import beside, published
from pipeline.config import DataConfig, ModelConfig
from tests.support.synthetic_study import valley, write_study


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """GPTs on DCLM; exponents off the published ones."""
    folder = tmp_path_factory.mktemp("published") / "gpt"
    return fit([write_study(folder, valley(-0.3), data=DataConfig(name="dclm"))])


def items(found):
    return [{item for one in of_group for item in one.items} for of_group in found]


def test_what_is_published_for_the_very_setting_and_data_is_found(fitted, tmp_path):
    assert items(published(fitted)) == [{"Figure 5", "Figure F.2"}]
    fixed = ModelConfig(n_layer=2, vocab_size=2048, train_norms=False)
    assert items(
        published(fit([write_study(tmp_path / "f", valley(-1.0), data=DataConfig(name="dclm"), model=fixed)]))
    ) == [{"Figure 5", "Figure F.3"}]
    assert items(published(fit([write_study(tmp_path / "s", valley(0.0))]))) == [set()]  # other data


def test_an_item_is_compared_with_whatever_its_data(fitted, tmp_path):
    other = fit([write_study(tmp_path / "s", valley(0.0), params=("sp", "mup"))])
    assert items(published(other, "Figure 5")) == [{"Figure 5"}, set()]
    assert items(published(fitted, "Table F.1")) == [set()]  # of SGD


def test_measured_and_published_stand_in_one_table(fitted):
    lines = beside(fitted, published(fitted))
    assert "\n".join(lines).isascii()
    assert sum("measured" in line for line in lines) == 2
    assert sum("Haas et al. 2025, Figure" in line for line in lines) == 3
    assert beside(fitted, [()]) == []


def test_published_slopes_are_dotted_lines(fitted):
    def dotted(published):
        axes = figures.lr_curves(fitted, published).get_axes()[-1]
        return [line for line in axes.get_lines() if line.get_linestyle() == ":"]

    assert not dotted(None)
    lines = dotted(published(fitted))
    assert [line.get_label() for line in lines] == ["published: \u22120.50"] * 2
    (x0, x1), (y0, y1) = lines[0].get_data()
    assert y1 / y0 == pytest.approx((x1 / x0) ** -0.5)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ([], 0, "Haas et al. 2025, Figure 5"),
        (["--published", "off"], 0, None),
        (["--published", "Fig. F.2"], 0, "Figure F.2"),
        (["--published", "Fig F.4"], 0, "Nothing was published"),
        (["--published", "Fig 99"], 2, "choose one of Figure 5"),
    ],
)
def test_the_script(fitted, tmp_path, monkeypatch, capsys, argv, code, said):
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: [folder / name])
    monkeypatch.setattr("sys.argv", ["lr_transfer.py", str(fitted.study.folder), "--out", str(tmp_path), *argv])
    assert lr_transfer.main() == code
    out = "".join(capsys.readouterr())
    assert said is None or said in out
    assert said is not None or out.splitlines() == [str(tmp_path / "lr_transfer")]
