"""Numbers as people write lists of them: ``2^-10``, ``2^-10:2^2:x2`` by a factor, ``1e-4:1e-1:7`` so many, ``0:4``."""

import math
import re
from typing import Any

from pipeline.errors import RequestError

LIKE = "64,128,256 or 64:1024:x2"
MOST = 10_000
_NUMBER = r"[+-]?[\d.]+(?:e[+-]?\d+)?(?:\^[+-]?[\d.]+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::(x{_NUMBER}|\d+))?", re.IGNORECASE)


def number(text: str) -> float:
    """``0.5``, ``1e-3`` or a power such as ``2^-10``. Raises `ValueError`."""
    base, power, exponent = text.partition("^")
    try:
        found = float(base) ** float(exponent) if power else float(base)
    except (OverflowError, ZeroDivisionError):
        raise ValueError(text) from None
    if isinstance(found, complex) or not math.isfinite(found):
        raise ValueError(text)
    return found


def is_power(text: str) -> bool:
    """Whether a text is a number that YAML does not know: a power."""
    return "^" in text and re.fullmatch(_NUMBER, text.strip(), re.IGNORECASE) is not None


def spelled_out(entry: Any) -> list[Any]:
    """The numbers that an entry of a list stands for, both ends included; the entry itself where it is no range.

    ``A:B:xF``: A, A F, A F^2, ... up to B. ``A:B:N``: N numbers from A to B at one ratio, to three digits. ``A:B``: the
    whole numbers from A to B. Whole ends give whole numbers. Raises `RequestError`.
    """
    found = _RANGE.fullmatch(entry.strip()) if isinstance(entry, str) else None
    if found is None:
        return [entry]
    try:
        first, last = number(found[1]), number(found[2])
        step = number(found[3].lower().removeprefix("x")) if found[3] else 0.0
    except ValueError:
        raise RequestError(f"{entry}: {LIKE} is a list of numbers") from None
    whole = first.is_integer() and last.is_integer()
    if found[3] is None:
        if not whole:
            raise RequestError(f"{entry}: say how it goes, {entry}:x2 (by a factor) or {entry}:7 (so many)")
        values = [first + place for place in range(min(int(last - first), MOST) + 1)]
    elif not (0 < first <= last):
        raise RequestError(f"{entry}: a range goes from a positive number up to a larger one")
    elif found[3].lower().startswith("x"):
        if step <= 1:
            raise RequestError(f"{entry}: the factor must be above 1")
        times = math.log(last / first) / math.log(step)
        values = [first * step**place for place in range(min(math.floor(times + 1e-9), MOST) + 1)]
    else:
        steps = min(int(step), MOST + 1) - 1
        if steps < 1:
            raise RequestError(f"{entry}: at least two numbers lie between two ends")
        exact = [first * (last / first) ** (place / steps) for place in range(steps + 1)]
        values = [*(float(f"{value:.3g}") for value in exact[:-1]), last]
        values[0] = first
        if whole and all(math.isclose(value, round(value), rel_tol=1e-9) for value in exact):
            values = exact
    if not 0 < len(values) <= MOST:
        raise RequestError(f"{entry}: {'more than ' + str(MOST) if values else 'no'} numbers lie in this range")
    near = [round(value) if math.isclose(value, round(value), rel_tol=1e-9) else value for value in values]
    return near if whole and all(isinstance(value, int) for value in near) else [float(value) for value in values]
