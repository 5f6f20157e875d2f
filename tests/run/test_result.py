"""What a run's result holds, and how it reads."""

import math
from typing import Any

import pytest

from pipeline.run.result import Record, RunResult, final_values


def test_final_values_average_the_last_twentieth() -> None:
    records = [Record(step=s, loss=float(s)) for s in range(1, 101)]
    records[49]["val_loss"] = 7.0
    assert final_values(records, 100) == {
        "final_train_loss": pytest.approx((96 + 97 + 98 + 99 + 100) / 5),
        "final_val_loss": 7.0,
    }
    assert final_values(records[:3], 3) == {"final_train_loss": 3.0, "final_val_loss": None}
    sparse = [
        Record(step=10, loss=2.0, accuracy=0.1),
        Record(step=90, loss=4.0, accuracy=0.5, val_accuracy=0.4),
    ]
    assert final_values(sparse, 100) == {
        "final_train_loss": 4.0, "final_val_loss": None, "final_train_accuracy": 0.5, "final_val_accuracy": 0.4,
    }  # fmt: skip
    assert final_values([], 100) == {"final_train_loss": None, "final_val_loss": None}


def result(status: str = "completed", train: float | None = 1.25, val: float | None = None) -> RunResult:
    final = {"final_train_loss": train, "final_val_loss": val}
    return RunResult(status, final, 9, 72, 1.5, 48.0, 100, 7 if status == "diverged" else None)


def test_in_words() -> None:
    assert str(result()) == "training loss 1.2500, validation not finite", "the last update may be the one too many"
    assert str(result(val=2.0)) == "training loss 1.2500, validation 2.0000"
    assert "not finite at step 7" in str(result("diverged"))


def test_numbers_that_are_not_there_are_nan() -> None:
    assert result().final_value("train_loss") == 1.25
    assert math.isnan(result().final_value("val_loss"))
    assert math.isnan(result().final_value("train_accuracy"))
    assert math.isnan(Record(step=1, loss=None).number("loss"))
    with pytest.raises(KeyError):
        Record(step=1, loss=None).number("val_loss")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"final_train_loss": True}, "final_train_loss True is no number"),
        ({"final_train_loss": "0.5"}, "final_train_loss '0.5' is no number"),
        ({"final_train_loss": -5}, "final_train_loss -5 is below 0"),
        ({"final_train_loss": math.nan}, "final_train_loss is too large"),
        ({"final_train_loss": 10**400}, "final_train_loss is too large"),
        ({"final_train_loss": None}, "status completed, and final_train_loss null"),
        ({"final_val_accuracy": [1]}, r"final_val_accuracy \[1\] is no number"),
        ({"status": ["completed"]}, r"status \['completed'\]"),
        ({"steps": 1.5}, "steps 1.5"),
        ({"steps": -1}, "steps -1"),
        ({"seconds": "9"}, "seconds '9' is no number"),
        ({"diverged_at": "x"}, "diverged_at 'x' is no number"),
    ],
)
def test_what_no_run_ends_with_is_refused(changes: dict[str, Any], why: str) -> None:
    whole = RunResult("completed", {"final_train_loss": 1.0, "final_val_loss": None}, 10, 100, 1.0, 100.0, 7, None)
    assert RunResult.from_json(whole.to_json()) == whole
    with pytest.raises(ValueError, match=why):
        RunResult.from_json(whole.to_json() | changes)
