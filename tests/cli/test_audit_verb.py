"""`pipeline audit`: words, JSON, page and exit codes."""

import json
from pathlib import Path

import pytest

from pipeline.cli.main import main
from tests.support.pages import Page

STRANGER = """
import torch
from torch import nn

def build(width):
    print("building", width)
    model = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(STRANGER)
    return f"{tmp_path}/mine.py:build"


def test_words_and_page(stranger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["audit", stranger, "--widths", "32:128:x2", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "\nsp\n" in out
    assert "nothing departs" in out
    row = next(line for line in out.splitlines() if line.strip().startswith("2.weight"))
    role, std, rate = row.split()[1:4]
    assert (role, rate) == ("hidden", "0")
    assert float(std) == pytest.approx(-0.5, abs=0.05)
    text = (tmp_path / "out" / "audit.html").read_text()
    page = Page(text)
    assert "Coordinate check" in page.text
    assert len(page.tables[0]) == 7, "a row per tensor, and the head"
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["parameterization"] == "sp"


def test_expectations_and_json(stranger: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["audit", stranger, "--widths", "32,64,128", "--seeds", "1", "--json"]
    assert main([*argv, "--expect", "sp"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["expected"], found["departures"]) == (True, "sp", [])
    assert main([*argv, "--expect", "mup"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert {(d["tensor"], d["quantity"]) for d in found["departures"]} == {
        ("2.weight", "rate"), ("4.weight", "rate"), ("4.weight", "std"),
    }  # fmt: skip
    hidden = next(t for t in found["tensors"] if t["tensor"] == "2.weight")
    assert hidden["measured"]["std"]["exponent"] == pytest.approx(-0.5, abs=0.05)
    assert hidden["expected_rate"] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--widths", "64"], "one width (64) shows no scaling"),
        (["--widths", "64,x"], "--widths: expected numbers"),
        (["--widths", "64,128", "--expect", "mupp"], "did you mean 'mup'"),
        (["--widths", "64,128", "--seeds", "0"], "at least one seed"),
        ([], "--widths"),
    ],
)
def test_wrong_requests(stranger: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", stranger, *flags]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
