from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.analysis.page import palette
from pipeline.analysis.page.palette import GROUNDS, HUES, LEAST, TEXT, contrast, shade, strengths

CSS = Path(palette.__file__).with_name("report.css").read_text()


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # the well-known grey
    assert contrast("#ffffff", "#767676") == contrast("#767676", "#ffffff")


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
@pytest.mark.parametrize("hue", HUES)
def test_every_shade_is_readable_and_stronger_with_width(hue, ground):
    found = [contrast(shade(hue, wanted, ground), ground) for wanted in strengths(6)]
    assert found[0] >= LEAST > 3
    assert all(wide > 1.15 * narrow for narrow, wide in pairwise(found))
    assert contrast(shade(hue, TEXT, ground), ground) >= TEXT > 4.5


def variables(theme):
    block = CSS.split(":root{")[1 if theme == "light" else 2].split("}")[0]
    return dict(rule[2:].split(":") for rule in block.split(";") if rule.startswith("--"))


@pytest.mark.parametrize("theme", GROUNDS)
def test_the_pages_own_colours_are_readable(theme):
    of = variables(theme)
    assert of["bg"] == GROUNDS[theme]
    for ground in ("bg", "card", "zone"):
        assert contrast(of["ink"], of[ground]) > 7
        assert contrast(of["mut"], of[ground]) >= 4.5
    assert contrast(of["mut"], of["rule"]) >= 4.5  # behind 0/3 in the stability map
    assert contrast(of["mark"], of["bg"]) >= 3
    assert contrast(of["warn"], of["bg"]) >= 4.5
    for hue in HUES:  # text on a cell of the stability map: 40 % of the group's colour
        rgb = [palette._rgb(colour) for colour in (shade(hue, TEXT, of["bg"]), of["bg"])]
        mixed = "#" + "".join(f"{round(255 * (0.4 * a + 0.6 * b)):02x}" for a, b in zip(*rgb, strict=True))
        assert contrast(of["ink"], mixed) >= 4.5
