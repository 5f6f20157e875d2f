"""Lists of numbers as people write them."""

from typing import Any

import pytest

from pipeline.errors import RequestError
from pipeline.ranges import is_power, number, spelled_out


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2^-3:2^1:x2", [0.125, 0.25, 0.5, 1.0, 2.0]),
        ("1e-4:1e-1:7", [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1]),
        ("64:1024:x2", [64, 128, 256, 512, 1024]),
        ("64:1024:5", [64, 128, 256, 512, 1024]),
        ("1e-3:1e-1:x4", [1e-3, 4e-3, 1.6e-2, 6.4e-2]),
        ("0:4", [0, 1, 2, 3, 4]),
        ("64:100:x2", [64]),
        ("sp", ["sp"]),
        (0.5, [0.5]),
        ("1:30:", ["1:30:"]),
    ],
)
def test_ranges_are_spelled_out(text: Any, values: list[Any]) -> None:
    found = spelled_out(text)
    assert found == pytest.approx(values) if isinstance(values[0], float) else found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    "text", ["4:0", "1e-1:1e-3:x2", "0:1:x2", "1:8:x1", "0.1:0.4", "1:2:1", "1:1e9", "1:1e99:x1.0001"]
)
def test_wrong_ranges_are_said(text: str) -> None:
    with pytest.raises(RequestError, match="^" + text.replace(".", r"\.")):
        spelled_out(text)


def test_powers() -> None:
    assert (number("2^-10"), number("10^2"), number("1e-3")) == (2**-10, 100, 1e-3)
    assert is_power("2^-10")
    assert not is_power("1e-3")
    with pytest.raises(ValueError, match="9"):
        number("9^9999")
