import dataclasses
import json
import math
import re
import shutil

import pytest
from markupsafe import Markup

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.page import inside, ran, report
from pipeline.analysis.page.answer import answer
from pipeline.analysis.page.words import MINUS, TIMES
from pipeline.cli import report as verb
from pipeline.config import DataConfig
from pipeline.errors import RequestError
from tests.support.pages import Page
from tests.support.synthetic_coordinates import MLP, write_coordinates
from tests.support.synthetic_study import BASE, valley, write_run, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "quick"
    return write_study(folder, valley(-0.5), params=("sp", "mup"))


@pytest.fixture(scope="module")
def fitted(study):
    return fit([study])


@pytest.fixture(scope="module")
def page(fitted):
    return report.render(fitted)


def test_main_writes_the_page_the_tables_and_the_figures(study, capsys):
    assert verb.main([str(study)]) == 0
    printed = capsys.readouterr().out
    figures = [f"figures/lr_transfer.{kind}" for kind in ("pdf", "svg", "png")]
    for name in ("report.html", "exponents.csv", *figures):
        assert (study / name).stat().st_size > 0
        assert str(study / name) in printed


def test_the_page_is_light_and_fetches_nothing(page):
    assert len(page.encode()) < 300_000
    found = Page(page)
    assert [value for _, name, value in found.attributes if name == "href" and not value.startswith("#")] == []
    assert not [a for a in found.attributes if a[1] in ("src", "srcset", "data", "action")]
    assert not [a for a in found.attributes if a[0] in ("link", "iframe", "img")]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "{{" not in page


def test_the_same_study_gives_the_same_bytes(study, page):
    assert report.render(fit([study])) == page


def test_the_first_table_is_the_answer(fitted, page):
    tables = Page(page).tables
    for group, rows in zip(fitted.groups, tables, strict=False):
        header, *body = rows
        assert [" ".join(cell.split()) for cell in header] == [
            "width", "learning rate(the best)", "costsat most,nats", "stableup to", "runsbehind it",
        ]  # fmt: skip
        for row, cells in zip(answer(fitted, group).rows, body, strict=True):
            level = f"{row.width}" + (
                "" if row.times == 1 else f" {row.times}{TIMES}" + ", unchecked" * (row.times == 8)
            )
            assert cells == [level, f"{row.lr} ({row.best})", row.cost, row.stable, str(row.runs)]


def test_sentences_and_sections(page):
    text = Page(page).text
    assert "Under SP with AdamW, divide the rate by 1.4 with every doubling of the width" in text
    found = re.search(rf"exponent {MINUS}0\.(?:49|50|51) ± ", text)
    assert found
    assert "± the posterior's standard deviation" in text  # where it is used it is explained
    for heading in (
        "Loss against learning rate", "How rates move with width, and what limits that", "What was stable",
        "Loss while training", "Side by side", "Inside", "Per width", "What ran",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page
    assert "Public domain" in text
    assert "State of the Union addresses" in text
    assert "width-scaling-pipeline 0." in text
    assert "Device-hours" in text
    assert "refresh" not in page


def test_figures_tables_and_toggles_are_labelled(page):
    found = Page(page)
    drawings = [attributes for tag, attributes in found.elements if tag == "svg"]
    assert len(drawings) > 10
    assert all(one["role"] == "img" and len(one["aria-label"]) > 10 for one in drawings)
    assert {attributes.get("scope") for tag, attributes in found.elements if tag == "th"} == {"col", "row"}
    pressed = [attributes["aria-pressed"] for tag, attributes in found.elements if tag == "button"]
    assert pressed == ["true", "false", "true", "false", "false"]
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in found.attributes if name == "href"} <= set(ids)
    headings = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    spoken = found.elements[0][1]
    assert spoken == {"lang": "en"}


def test_the_stability_map_counts_seeds(fitted, page):
    table = next(rows for rows in Page(page).tables if rows[0][0].startswith("rate"))
    assert table[0][1:] == ["64", "128", "256"]
    assert [row[0] for row in table[1:]] == ["6.4e-2", "3.2e-2", "1.6e-2", "8e-3", "4e-3", "2e-3", "1e-3"]
    by_rate = {row[0]: row[1:] for row in table[1:]}
    assert by_rate["6.4e-2"] == ["0/1"] * 3
    assert by_rate["8e-3"][0] == "1/1 ★"
    assert by_rate["4e-3"][2] == "1/1 ★"


def test_a_page_of_a_sweep_that_goes_reads_itself_anew(study, fitted, tmp_path):
    page = report.render(fitted, going=True)
    assert f'<meta http-equiv="refresh" content="{report.LATEST}">' in page
    assert "Still going: 42 runs have ended" in Page(page).text
    write_study(tmp_path, valley(-0.5), widths=(64, 128))
    next(tmp_path.glob("*/result.json")).unlink()
    page = report.render(fit([tmp_path]))
    assert "refresh" not in page
    assert "Not whole: 1 runs have no result, and 13 have." in Page(page).text


@pytest.mark.slow
def test_watch_writes_as_runs_finish_and_once_more_at_the_end(study, capsys, monkeypatch):
    looks = iter([True] * 30 + [False, True, False, False])  # between rounds nothing goes for a moment
    monkeypatch.setattr(verb, "going", lambda path: next(looks))
    monkeypatch.setattr(verb.os, "nice", lambda by: 0)
    monkeypatch.setattr(verb, "SHARE", 1e-3)
    monkeypatch.setattr(verb.figures, "save", lambda *_: [])
    slept, written = [], []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 10:  # a run finishes
            name = next(study.glob("*/result.json"))
            (study / "again").mkdir()
            shutil.copy(name, study / "again")

    monkeypatch.setattr(verb.time, "sleep", sleep)
    monkeypatch.setattr(verb, "write_text", lambda path, text: written.append("refresh" in text) or path)
    try:
        assert verb.main([str(study), "--watch"]) == 0
    finally:
        shutil.rmtree(study / "again")
    assert written == [True, True, False]
    assert slept == [verb.POLL] * 34
    assert "42 runs" in capsys.readouterr().out


def test_watch_pauses_for_what_a_page_takes(study, monkeypatch):
    looks, clock = iter([True] * 23 + [False] * 2), iter([0.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(verb, "going", lambda path: next(looks))
    monkeypatch.setattr(verb.os, "nice", lambda by: 0)
    monkeypatch.setattr(verb.time, "process_time", lambda: next(clock))  # two seconds
    monkeypatch.setattr(verb.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(verb, "write_text", lambda path, text: path)
    verb._watch(verb.study_args(verb.study_parser("report", "").parse_args([str(study)])), None)
    assert next(clock) == 2.0  # 24 looks, 120 seconds, then one short pause: 4 readings of the clock
    assert next(clock) == 2.0


def test_watch_says_what_is_missing(tmp_path):
    with pytest.raises(RequestError, match="no such study folder"):
        verb.main([str(tmp_path / "none"), "--watch"])


def test_hostile_values_are_escaped(tmp_path):
    hostile = "</script><img src=x onerror=alert(1)>"
    folder = tmp_path / "a<b>&c"
    data = DataConfig(license=hostile, citation="$title", path=hostile)
    write_run(folder, dataclasses.replace(BASE, data=data), 5.0, status="completed")
    page = report.render(fit([folder]))
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<h1>Learning rate against width: a&lt;b&gt;&amp;c</h1>" in page
    Page(page)


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
    assert page.count("&lt;script&gt;alert(1)") == 7  # title, heading, three commands, licence and citation
    part = inside.Part(hostile, hostile, [f"n^2 {hostile}"], inside.Drawing(hostile, "0 0 1 1", 1.0, Markup("</svg>")))
    page = report.render(found, inside.Section([part]))
    assert "<script>alert" not in page
    assert "<li>n<sup>2</sup> &lt;script&gt;alert(1)&lt;/script&gt;</li>" in page


def test_what_was_left_out_and_what_is_not_known_is_said(tmp_path):
    write_study(tmp_path, lambda config: math.nan if config.width == 256 else valley(0.0)(config), lrs=(4e-3, 8e-3))
    write_run(tmp_path, dataclasses.replace(BASE, lr=1.0), 5.0, status="failed")
    text = Page(report.render(fit([tmp_path]))).text
    assert "1 failed run left out" in text
    assert "Width 256 took no part in the fit of the optimum: nothing trained stably there" in text
    assert "extend the grid upwards" in text
    assert not re.search(r"\bnan\b", text)


def test_several_studies_stand_side_by_side(tmp_path):
    for name, steps, best in (("a", 60, 8e-3), ("b", 120, 4e-3)):
        write_study(tmp_path / name, valley(-0.5, best), widths=(64, 128), params=("sp", "mup"), steps=steps)
    fitted = fit([tmp_path / "a", tmp_path / "b"])
    page = Page(report.render(fitted))
    assert len(fitted.groups) == 4
    compared = next(rows for rows in page.tables if rows[0][:2] == ["group", "width 64"])
    assert [row[0] for row in compared[1:]] == [
        "SP · AdamW · 60 steps", "SP · AdamW · 120 steps", "μP · AdamW · 60 steps", "μP · AdamW · 120 steps",
    ]  # fmt: skip
    for group, row in zip(fitted.groups, compared[1:], strict=True):
        assert [float(cell) for cell in row[1:]] == pytest.approx([w.optimum.loss for w in group.widths], abs=5e-4)
    overlaid = [one for tag, one in page.elements if tag == "svg" and one["aria-label"].count("steps") >= 4]
    assert overlaid  # all groups on shared axes


def test_what_ran(study, fitted):
    run = study / fitted.study.runs["run"].iloc[0]
    start = {"time": "2026-01-02T03:04:05+00:00", "host": "a", "step": 0, "processes": 2}
    (run / "starts.jsonl").write_text(json.dumps(start) + '\n{"time": "torn')
    text = " ".join(" ".join(pair) for pair in ran.pairs(fitted))
    assert "Started 2026-01-02 03:04 UTC" in text
    assert "Hardware 1 machine, 1 device a run" in text
    assert "FLOPs about" in text
    assert "Runs 42 used (" in text
    hours = (4.2 * 41 + 2 * 4.2) / 3600  # one of the runs had two processes
    assert f"Device-hours {hours:.2g} of training" in text
    runs = fitted.study.runs
    flops = 6 * sum(int(n) * int(tokens) for n, tokens in zip(runs["parameters"], runs["tokens"], strict=True))
    assert f"about {flops:.1e}".replace("e+", "e") in text
