"""Phrases of a fit: how the result of an estimator reads. One entry per estimator with a wording of its own; the others read
as posteriors do, without what they do not tell."""

from typing import Protocol

from pipeline.analysis.fit.estimators import Estimator
from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import words_paper, words_posterior


class Phrases(Protocol):
    """What a wording provides."""

    READING: str
    """How to read the exponents and their errors."""

    def answer(self, group: GroupFit) -> str:
        """Where optimum and stability edge went with width: the paragraph a hurried reader takes away."""

    def brief(self, group: GroupFit) -> str:
        """That of a terminal; empty: none."""

    def notes(self, group: GroupFit) -> list[str]:
        """What qualifies the numbers of `group`, one sentence each."""

    def width_rows(self, group: GroupFit) -> list[tuple[str, ...]]:
        """The table of the widths, header first."""


OWN: dict[str, Phrases] = {"paper": words_paper}


def phrases(estimator: Estimator) -> Phrases:
    return OWN.get(estimator.name, words_posterior)
