"""The regime of a ladder of runs in words, and how calibration goes with width."""

import math
from collections.abc import Mapping

from pipeline.analysis.inside.regime import Inside
from pipeline.analysis.page.words_inside import power


def regime_words(inside: Inside) -> str:
    """The regime with its evidence."""
    said, ladder = f"Regime: {inside.regime}", inside.ladder
    if inside.regime == "undecided":
        said += f", {_why(inside)}"
    theory = ladder.theory
    if theory is not None and theory.regime is not None:
        said += f" (theory: {theory.regime})"
    sentences = [said]
    if inside.lost:
        n, widths = sum(ladder.diverged.values()), ladder.widths
        lost = f"{n} of {len(ladder.records)} runs diverged"
        sentences.append(f"{lost}: all at width {widths[-1]}, none at width {widths[0]}")
    if inside.trends:
        evidence = ", ".join(
            f"{name} {power(trend.exponent, trend.standard_error)}" for name, trend in inside.trends.items()
        )
        sentences.append(f"After step {inside.step}: {evidence}")
    return f"{'. '.join(sentences)}."


def _why(inside: Inside) -> str:
    unclear = [f"{what}s" for what in ("logit", "activation") if inside.growth(what) == "unclear"]
    known = [
        trend for name, trend in inside.trends.items() if name.removesuffix(" changes").rstrip("s") + "s" in unclear
    ]
    names = " and ".join(unclear)
    if not known:
        return f"since {names} were not recorded at every width"
    if all(math.isnan(trend.half_width) for trend in known):
        return "since two widths with one seed allow no error"
    return f"since the errors of {names} allow growth and none alike: more widths or seeds would tell"


def calibration_words(calibration: Mapping[int, tuple[float, float]]) -> str | None:
    """A sentence on how calibration goes with width; None with fewer than two widths."""
    if len(calibration) < 2:
        return None
    ends = (min(calibration), max(calibration))
    errors = ", ".join(f"{calibration[n][0]:.3f} at width {n}" for n in ends)
    sure = ", ".join(f"{calibration[n][1]:.2f} at width {n}" for n in ends)
    return f"Calibration on the validation split: expected calibration error {errors}; mean largest probability {sure}."
