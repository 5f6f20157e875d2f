"""Exponents by the length of training, read off runs at a constant learning rate."""

import dataclasses
import json
import math

import pandas as pd
import pytest

from analysis import horizons
from pipeline.run.directory import RunDir
from pipeline.training.trainer import train
from tests.support.synthetic_study import BASE, valley, write_run

EXPONENTS = {20: -1.0, 40: -0.75, 60: -0.5}


def write(folder, schedule="constant", diverged_above=math.inf, **settings):
    for width in (64, 128, 256):
        for k in range(-3, 5):
            config = dataclasses.replace(BASE, width=width, lr=8e-3 * 2**k, schedule=schedule, **settings)
            at = {step: valley(exponent, edge_octaves=9)(config) for step, exponent in EXPONENTS.items()}
            lost = config.lr > diverged_above
            run = write_run(folder, config, math.nan if lost else at[60])
            records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            records = [one | ({"val_loss": at[one["step"]]} if one["step"] in at else {}) for one in records]
            (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder


def test_a_long_run_holds_the_shorter_one(tiny):
    """The loss that is read at a step is that of a run trained for so many steps, to the last bit."""
    long, short = (dataclasses.replace(tiny, schedule="constant", steps=steps, study=f"s{steps}") for steps in (10, 5))
    for config in (long, short):
        train(config, show_progress=False)
    assert horizons.is_constant(long)
    rows = list(horizons.shortened(long.run_dir.parent, [5, 10]))
    assert [row["steps"] for row in rows] == [5, 10]
    assert rows[0]["loss"] == RunDir(short.run_dir).result().final_value("val_loss")
    assert rows[1]["loss"] == RunDir(long.run_dir).result().final_value("val_loss") != rows[0]["loss"]


def test_every_length_has_its_exponent(tmp_path, capsys):
    study = write(tmp_path / "constant")
    decayed = write(tmp_path / "cosine", schedule="cosine")
    argv = [str(study), str(decayed), "--steps", "20,40,60", "--out", str(tmp_path / "out")]
    assert horizons.main(argv) == 0
    found = pd.read_csv(tmp_path / "out" / "horizons.csv", comment="#").query("quantity == 'exponent'")
    assert list(zip(found["schedule"], found["steps"], strict=True)) == [
        ("constant", 20), ("constant", 40), ("constant", 60), ("cosine", 60),
    ]  # fmt: skip
    for row in found.itertuples():
        assert row.value == pytest.approx(EXPONENTS[row.steps], abs=0.05)
        assert row.ci_low < row.value < row.ci_high
    runs = pd.read_csv(tmp_path / "out" / "horizons-runs.csv")
    assert len(runs) == 24 * 4
    assert runs["tokens_per_parameter"].iloc[0] == pytest.approx(20 * 8 * 64 / (12 * 64**2), rel=1e-4)
    assert (tmp_path / "out" / "horizons.png").stat().st_size > 10_000


def test_a_run_counts_as_lost_from_where_it_was_lost(tmp_path):
    rows = list(horizons.shortened(write(tmp_path / "s", diverged_above=0.05), [20, 40]))
    lost = {(row["steps"], row["diverged"]) for row in rows if row["lr"] > 0.05}
    assert lost == {(20, False), (40, True)}, "diverged at step 31"
    assert not any(row["diverged"] for row in rows if row["lr"] < 0.05)


@pytest.mark.parametrize(("steps", "message"), [
    ("30", "was not validated after step 30: choose from 20, 40, 60"),
    ("90", "has 60 steps: leave out --steps 90"),
    ("5", "is warming up until step 6"),
    ("20,x", "--steps 20,x: expected steps such as 60,120"),
])  # fmt: skip
def test_a_length_that_no_run_tells_is_one_line(tmp_path, capsys, steps, message):
    study = write(tmp_path / "constant")
    assert horizons.main([str(study), "--steps", steps, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_what_depends_on_the_length_of_the_run_is_not_constant():
    assert not horizons.is_constant(BASE)
    constant = dataclasses.replace(BASE, schedule="constant")
    assert horizons.is_constant(constant)
    assert not horizons.is_constant(dataclasses.replace(constant, weight_decay_scaling="timescale", base_steps=60))
