import builtins
import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import inside, report
from pipeline.analysis.page.words import MINUS
from pipeline.cli import report as verb
from pipeline.config import DataConfig
from pipeline.errors import RequestError
from tests.support.synthetic_coordinates import MLP, write_coordinates
from tests.support.synthetic_study import BASE, valley, write_run, write_study

pytest.importorskip("plotly")


class Page(HTMLParser):
    """Elements, attributes and text of a page; contents of scripts apart."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.text, self.scripts, self._inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._inside = tag

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.text).append(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "quick"
    return write_study(folder, valley(-0.5), params=("sp", "mup"))


@pytest.fixture(scope="module")
def page(study):
    return report.render(fit([study]))


def charts_of(page):
    return json.loads(re.search(r"const charts = (.*);\n", page)[1])


def test_main_writes_the_page_the_tables_and_the_figures(study, capsys):
    assert verb.main([str(study)]) == 0
    printed = capsys.readouterr().out
    for name in (
        "report.html",
        "exponents.csv",
        "figures/lr_transfer.pdf",
        "figures/lr_transfer.svg",
        "figures/lr_transfer.png",
    ):
        assert (study / name).stat().st_size > 0
        assert str(study / name) in printed


def test_the_page_fetches_nothing(page):
    found = Page(page)
    assert not [a for a in found.attributes if a[1] in ("src", "href", "srcset", "data", "action")]
    assert not [a for a in found.attributes if a[0] in ("link", "iframe", "img")]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_same_study_gives_the_same_bytes(study, page):
    assert report.render(fit([study])) == page


def test_the_answer_is_made_of_the_numbers(page):
    text = " ".join(" ".join(Page(page).text).split())
    found = re.search(
        r"Under SP with AdamW the optimal learning rate is (\S+) \((\S+) to (\S+)\) at width 64 and (\S+) \((\S+) to "
        r"(\S+)\) "
        rf"at width 256: exponent {MINUS}0\.(?:49|50|51) ± ",
        text,
    )
    assert found
    low_64, high_64, low_256, high_256 = (float(found[place]) for place in (2, 3, 5, 6))
    assert low_64 <= 8e-3 <= high_64
    assert low_256 <= 4e-3 <= high_256
    assert "License" not in text
    assert "Public domain" in text
    assert "State of the Union addresses" in text
    assert "width-scaling-pipeline 0." in text


def test_the_charts_hold_the_curves_and_the_scalings(page):
    charts = charts_of(page)
    assert list(charts) == ["g0-0", "g0-1", "g0-2", "g1-0", "g1-1", "g1-2"]
    curves, scaled = charts["g0-0"], charts["g0-1"]
    assert curves["data"][0]["x"] == pytest.approx([1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])
    assert curves["data"][1]["x"] == pytest.approx([3.2e-2, 6.4e-2])
    buttons = scaled["layout"]["updatemenus"][0]["buttons"]
    assert [button["label"] for button in buttons] == ["fitted", "0", f"{MINUS}1/2", f"{MINUS}1"]
    inverse = buttons[3]["args"][0]["x"][4]  # the line of width 256: lr * (256 / 64)^1
    assert inverse == pytest.approx([4 * lr for lr in curves["data"][4]["x"]])
    for chart_id in charts:
        assert f'id="{chart_id}"' in page


def test_hostile_values_are_escaped(tmp_path):
    hostile = "</script><img src=x onerror=alert(1)>"
    folder = tmp_path / "a<b>&c"
    data = DataConfig(license=hostile, citation="$title", path=hostile)
    write_run(folder, dataclasses.replace(BASE, data=data), 5.0, status="completed")
    page = report.render(fit([folder]))
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<h1>Learning rate against width: a&lt;b&gt;&amp;c</h1>" in page
    assert report._script_json({"name": hostile}).count("<") == 0


def test_no_name_becomes_a_script(tmp_path):
    """Of the study or of where its data come from; where runs looked inside, too. A data set's own name is plain."""
    hostile = "<script>alert(1)</script>"
    with pytest.raises(RequestError, match="plain folder name"):
        dataclasses.replace(MLP, data=dataclasses.replace(MLP.data, name=hostile))
    base = dataclasses.replace(MLP, data=DataConfig(license=hostile, citation=hostile, format="digits"))
    folder = write_coordinates(tmp_path / "<script>alert(1)", base, {("effective", ""): 0.5})
    found = fit([folder])
    page = report.render(found)
    assert "<h2>Inside</h2>" in page
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") == 4  # title and heading, licence and citation
    part = inside.Part(hostile, hostile, [f"n^2 {hostile}"], inside.Drawing(hostile, "0 0 1 1", 1.0, Markup("</svg>")))
    page = report.render(found, inside.Section([part]))
    assert "<script>alert" not in page
    assert "<li>n<sup>2</sup> &lt;script&gt;alert(1)&lt;/script&gt;</li>" in page


def test_what_was_left_out_and_what_is_not_known_is_said(tmp_path):
    write_study(tmp_path, lambda config: math.nan if config.width == 256 else valley(0.0)(config), lrs=(4e-3, 8e-3))
    write_run(tmp_path, dataclasses.replace(BASE, lr=1.0), 5.0, status="failed")
    text = " ".join(Page(report.render(fit([tmp_path]))).text)
    assert "1 failed run left out" in text
    assert "Width 256 took no part in the fit of the optimum: nothing trained stably there" in text
    assert "extend the grid upwards" in text
    assert "nan" not in text


def test_without_plotly_it_says_what_to_install(study, monkeypatch):
    real_import = builtins.__import__

    def no_plotly(name, *args, **kwargs):
        if name.startswith("plotly"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_plotly)
    with pytest.raises(RequestError, match=r"needs plotly: pip install 'width-scaling-pipeline\[report\]'"):
        report.render(fit([study]))
