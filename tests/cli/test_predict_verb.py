"""`pipeline predict` with several widths, and the ledger: recorded before the runs, scored after them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.run.directory import RunDir
from tests.support.synthetic_study import BASE, valley, write_run, write_study

LRS = [1e-3 * 2**k for k in range(-2, 8)]


def noisy():
    rng, shape = np.random.default_rng(0), valley(-0.5, edge_octaves=2.4)
    return lambda config: shape(config) + rng.normal(0, 0.004)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A study that nothing is written to."""
    folder = tmp_path_factory.mktemp("predict") / "s"
    return write_study(folder, noisy(), widths=(64, 128, 256), lrs=LRS, seeds=(0, 1))


@pytest.fixture
def folder(untouched, tmp_path):
    return shutil.copytree(untouched, tmp_path / "s")


def train(folder, width):
    """The runs of a wider width, begun now."""
    loss = noisy()
    for lr in LRS:
        for seed in (0, 1):
            config = dataclasses.replace(BASE, width=width, lr=lr, seed=seed)
            RunDir(write_run(folder, config, loss(config))).record_start(config, 0)


def say(capsys, folder, *flags, code=0):
    assert main.main(["predict", str(folder), *flags]) == code
    printed = capsys.readouterr()
    assert printed.out.isascii()
    return printed.err if code else printed.out


def test_widths_are_a_table(untouched, capsys):
    rows = [line.split() for line in say(capsys, untouched, "--widths", "2048,512,2048,256").splitlines()]
    table = [row for row in rows if row[:1] and row[0].isdigit()]
    assert [row[0] for row in table] == ["2048", "512", "256"]
    assert table[2][1] == "(trained)"
    alone = json.loads(say(capsys, untouched, "--width", "512", "--json"))["predictions"]
    several = json.loads(say(capsys, untouched, "--widths", "2048,512", "--json"))["predictions"]
    assert several[1:] == alone
    assert float(table[1][1]) == pytest.approx(several[1]["optimal"]["value"], rel=5e-3)
    assert "Width 2048 is 8 times the widest trained" in say(capsys, untouched, "--widths", "2048,512")
    assert say(capsys, untouched, "--widths", "512:2048:x4") == say(capsys, untouched, "--widths", "512,2048")
    assert "say --width LEVEL" in say(capsys, untouched, "--tokens", "1B", code=2)


def test_a_width_that_no_run_can_have_has_no_command(untouched, capsys):
    said = " ".join(say(capsys, untouched, "--width", "100").split())
    assert (
        "! Runs of this study cannot have this width: --width 100 is not divisible by the head size 32: use 96 or 128."
        in said
    )
    assert "pipeline train" not in said
    (found,) = json.loads(say(capsys, untouched, "--width", "100", "--json"))["predictions"]
    assert found["command"] is None


def test_record_then_train_then_score(folder, capsys):
    said = say(capsys, folder, "--widths", "512,1024", "--record")
    ledger = folder / "predictions.jsonl"
    assert f"Recorded in {ledger}: 2 predictions." in said
    assert "recorded" in json.loads(say(capsys, folder, "--width", "512", "--estimator", "paper", "--record", "--json"))
    assert [json.loads(line)["width"] for line in ledger.read_text().splitlines()] == [512, 1024, 512]
    assert "Nothing measured yet at widths 512 and 1024" in say(capsys, folder, "--score")
    train(folder, 512)
    said = " ".join(say(capsys, folder, "--score").split())
    assert "Optimal lr by local, 1 prediction of 1 target: 1 of 1 measured values inside" in said
    assert "Optimal lr by paper" in said
    assert "Nothing measured yet at width 1024" in said
    found = json.loads(say(capsys, folder, "--score", "--json"), parse_constant=pytest.fail)
    best = next(one for one in found["scores"] if one["quantity"] == "optimal")
    assert best["measured"]["lr"] == pytest.approx(8e-3 / 8**0.5, rel=0.03)
    assert not best["late"]
    assert best["inside_with_error"]
    assert best["regret"]["loss"] < 0.005
    assert len(found["waiting"]) == 2
    assert "512 has finished runs" in say(capsys, folder, "--width", "512", "--record", code=2)
    assert len(ledger.read_text().splitlines()) == 3


def test_another_file(folder, tmp_path, capsys):
    file = tmp_path / "mine.jsonl"
    say(capsys, folder, "--width", "512", "--record", str(file))
    assert not (folder / "predictions.jsonl").exists()
    train(folder, 512)
    assert "1 of 1" in say(capsys, folder, "--score", str(file))


def test_a_ledger_damaged_by_hand_is_one_line(folder, capsys):
    say(capsys, folder, "--width", "512", "--record")
    ledger = folder / "predictions.jsonl"
    ledger.write_text(ledger.read_text() + "oops\n")
    for flags in (["--score"], ["--width", "512", "--record"]):
        said = say(capsys, folder, *flags, code=2)
        assert f"{ledger} is damaged (line 2: " in said
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "required: --width N or --widths N,M"),
        (["--width", "512", "--widths", "512,1024"], "--width and --widths exclude each other"),
        (["--widths", "512,wide"], "several with commas or as 1024:8192:x2; got 'wide'"),
        (["--widths", "512,0"], "--widths must be at least 1, got 0"),
        (["--widths", ""], "--widths takes numbers"),
        (["--record"], "required: --width"),
        (["--width", "256", "--record"], "--record: width 256 has finished runs"),
        (["--widths", "512,256", "--record"], "--record: width 256 has finished runs"),
        (["--width", "512", "--record", "--score"], "--record and --score exclude each other"),
        (["--score", "--width=512"], "leave out --width"),
        (["--score", "--metric", "val"], "leave out --metric"),
        (["--score"], "no ledger of predictions"),
        (["--width", "512", "--record", "/nowhere/p.jsonl"], "--record: /nowhere/p.jsonl: cannot write"),
    ],
)
def test_a_wrong_request_is_one_line_and_records_nothing(untouched, capsys, flags, said):
    error = say(capsys, untouched, *flags, code=2)
    assert said in error
    assert error.count("\n") == 1
    assert not (untouched / "predictions.jsonl").exists()
