"""Predictions for several widths as a table."""

import math
from collections.abc import Sequence

from pipeline.analysis.fit.predict import LrPrediction
from pipeline.analysis.fit.study_fit import StudyFit
from pipeline.analysis.page import words
from pipeline.analysis.page.words import DASH, cost
from pipeline.analysis.page.words_fit import percent
from pipeline.analysis.page.words_predict import warning
from pipeline.console import wrapped


def summary(fitted: StudyFit, predictions: Sequence[LrPrediction]) -> str:
    """Plain text for a terminal: a table per group, a line per width in the order asked for, and what qualifies them,
    said once."""
    level = predictions[0].level
    lines = [f"{fitted.study.name}: learning rates by {fitted.measure.name}, with {100 * level:g} % intervals"]
    for group in fitted.groups:
        of_group = [one for one in predictions if one.group is group]
        at_most = f"at most ({100 * level:g} %)"
        header = (
            fitted.study.axis.noun,
            "optimal lr",
            f"{group.estimator.edge_name} lr",
            "recommended lr",
            "costs",
            at_most,
            "diverges",
        )
        lines += ["", words.group_title(group), *words.aligned([header, *map(_row, of_group)])]
        for note in dict.fromkeys(warning(one, doubt) for one in of_group for doubt in one.doubts):
            lines += wrapped(f"! {note}", "  ")
    return words.plain("\n".join(lines))


def _row(one: LrPrediction) -> tuple[str, ...]:
    trained = " (trained)" if one.width in one.group.grid.runs.widths else ""
    recommended = "none" if one.recommended.lr is None else words.lr(one.recommended.lr)
    price = one.recommended.price
    costs = (
        (DASH, DASH, DASH)
        if price is None
        else (
            cost(price.expected),
            cost(price.at_most),
            DASH if math.isnan(price.diverges) else percent(price.diverges),
        )
    )
    return (
        f"{words.level(one.width)}{trained}",
        words.known(one.optimal),
        words.known(one.max_stable),
        recommended,
        *costs,
    )
