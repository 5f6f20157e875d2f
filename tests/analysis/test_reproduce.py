"""Claims measured anew: what is trained, and how numbers are told to be the same."""

import csv

import pytest

from analysis import claims, reproduce


def test_the_cheapest_studies_stand_first_and_can_be_planned(tmp_path):
    found = reproduce.studies(tmp_path)
    hours = [study.hours for study in found]
    assert hours == sorted(hours)
    assert (found[0].name, hours[0], found[0].train) == ("linear_model", 0, ())
    assert {study.name for study in found[1:]} == {claim.study for claim in claims.claims()[3:]}
    for study in found[1:]:
        ((module, package, verb, *flags),) = study.train
        assert (module, package) == ("-m", "pipeline")
        assert verb in ("sweep", "coordcheck")
        assert study.name in flags


def test_numbers_are_the_same_inside_or_outside(tmp_path, monkeypatch):
    head = ["study", "group", "quantity", "exponent", "ci_low", "ci_high"]
    quantities = ("same", "near", "far", "gone")

    def write(path, exponents):
        rows = [
            ["a", "g", quantity, exponent, "-1", "0"] for quantity, exponent in zip(quantities, exponents, strict=True)
        ]
        with path.open("w") as file:
            csv.writer(file).writerows([head, *rows])

    monkeypatch.setattr(reproduce, "RESULTS", tmp_path)
    write(tmp_path / "t.csv", ["-.5"] * 4)
    write(tmp_path / "now.csv", ["-.5", "-.9", ".1", ""])
    study = reproduce.Study("a", "t", 0, (), (), tmp_path / "now.csv")
    assert [line[-1] for line in reproduce.compare(study)] == ["same digits", "inside", "OUTSIDE", "OUTSIDE"]


def test_no_studies_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["--studies", "0"]) == 2
    assert capsys.readouterr().err == "--studies must be positive, got 0\n"
