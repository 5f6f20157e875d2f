"""Phrases of a fit: how the result of an estimator reads. One entry per estimator with a wording of its own; the others
have the general one."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.analysis.fit.estimators import Estimator
from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import words_fit, words_local, words_paper


@dataclass(frozen=True)
class Phrases:
    """What a wording provides."""

    reading: str = words_fit.READING
    """How to read the exponents and their errors; ``{nouns}`` stands for the levels of the axis."""
    width_rows: Callable[[GroupFit], list[tuple[str, ...]]] = words_fit.width_rows
    """The table of the widths, header first."""
    answer: Callable[[GroupFit], str] = words_fit.answer
    """Where optimum and stability edge went with width: the paragraph a hurried reader takes away."""
    notes: Callable[[GroupFit], list[str]] = words_fit.notes
    """What qualifies the numbers of a group, one sentence each."""
    answers_on_terminal: bool = True


OWN = {
    "local": Phrases(words_local.READING, notes=words_local.notes),
    "paper": Phrases(
        words_paper.READING, words_paper.width_rows, words_paper.answer, words_paper.notes, answers_on_terminal=False
    ),
}


def phrases(estimator: Estimator) -> Phrases:
    return OWN.get(estimator.name, Phrases())
