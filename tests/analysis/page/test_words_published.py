"""Published exponents beside those of a study."""

import pytest

from analysis import lr_transfer
from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import figures
from pipeline.analysis.page.words_published import beside, facts, published
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
    assert lines[0].split()[-1] == "published"
    assert sum("SP / AdamW" in line for line in lines) == 2
    assert sum("Haas et al. 2025, Figure" in line for line in lines) == 3
    assert [line.split()[-1] for line in beside(fitted, [()])[1:]] == ["-", "-"]
    assert "published" not in "".join(beside(fitted, None))


def test_facts_are_the_groups_own(tmp_path):
    """Several data sets, depths and losses in one fit; MSE by whatever mean, of normalized logits."""
    shared = {"data": DataConfig(name="multi-index", format="multi_index"), "base_width": 64}
    deep = ModelConfig(kind="mlp", n_layer=3)
    two = write_study(
        tmp_path / "2", valley(0.0), model=ModelConfig(kind="mlp", n_layer=2), loss="mse_scalar", **shared
    )
    three = write_study(tmp_path / "3", valley(-0.5), model=deep, optimizer="sgd", **shared)
    fitted = fit([two, three])
    known = [facts(fitted, group) for group in fitted.groups]
    assert sorted((one["depth"], one["loss"]) for one in known) == [("2", "mse"), ("3", "cross_entropy")]
    normal = ModelConfig(kind="mlp", n_layer=8, logit_norm="layernorm")
    alone = fit([write_study(tmp_path / "n", valley(0.0), model=normal, loss="mse_mean", **shared)])
    assert facts(alone, alone.groups[0])["loss"] == "mse of normalized logits"


def test_of_an_item_the_groups_own_depth_comes_first(tmp_path):
    """Figure F.22 has 2 to 4 layers at 0 and 6 to 10 at -1/2: a 3-layer net on other data is compared with the
    former, one of 5 layers with all."""

    def of(depth):
        model, data = ModelConfig(kind="mlp", n_layer=depth), DataConfig(name="digits", format="digits")
        study = write_study(tmp_path / str(depth), valley(0.0), model=model, data=data, optimizer="sgd")
        return {one.exponent for one in published(fit([study]), "Figure F.22")[0] if one.quantity == "max_stable"}

    assert (of(3), of(8), of(5)) == ({0.0}, {-0.5}, {0.0, -0.5})


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
        (["--published", "Fig F.4"], 0, "published\n"),
        (["--published", "Fig 99"], 2, "choose one of Figure 5"),
    ],
)
def test_the_script(fitted, tmp_path, monkeypatch, capsys, argv, code, said):
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: [folder / name])
    monkeypatch.setattr("sys.argv", ["lr_transfer.py", str(fitted.study.folder), "--out", str(tmp_path), *argv])
    assert lr_transfer.main() == code
    out = "".join(capsys.readouterr())
    assert said is None or said in out
    assert said is not None or "published" not in out.splitlines()[0]
    assert code or out.splitlines()[-1] == str(tmp_path / "lr_transfer")
