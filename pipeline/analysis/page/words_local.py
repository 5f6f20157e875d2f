"""The local fit in words: how to read it, and what it assumes."""

from pipeline.analysis.fit.study_fit import GroupFit
from pipeline.analysis.page import words, words_fit
from pipeline.analysis.page.words import cost

READING = (
    "Exponents and learning rates are posterior medians, ± the posterior's standard deviation; intervals hold 95 % of "
    "it. Each optimum rests on the stable runs near its best learning rate; the other {nouns} say of its valley's "
    "shape what the runs support, and where the power law, which may wander, expects it. Edges are bracketed by each "
    "seed's last stable and first unstable run, told by trajectories alone. An exponent is the average slope over the "
    "{nouns} trained."
)

# Above this probability that the valleys differ in shape, it is said.
_DIFFERS = 0.9


def notes(group: GroupFit) -> list[str]:
    """What qualifies the numbers of `group`, one sentence each."""
    said, noun = words_fit.notes(group), group.axis.noun
    said += _transfer(group)
    if group.fitted.shape_differs > _DIFFERS:
        said.append(f"The valleys' shape differs: the optimum of each {noun} rests on its own runs alone.")
    if all(w.grid.seeds == 1 for w in group.widths):
        said.append(
            f"One seed per {noun}: the noise of a run is taken from the scatter around the fitted valleys, and how far "
            "optimum and edge scatter over seeds (about 0.1 and 0.2 octave) is assumed, not measured."
        )
    return said


def _transfer(group: GroupFit) -> list[str]:
    """The measures of Kalra & Barkeshli (2026)."""
    known, axis = group.fitted.transfer, group.axis
    if known is None:
        return []
    (small, at_small), *_, (large, at_large) = known.off_by_octave
    unit = f" {group.unit}" if group.unit else ""
    carried = "; ".join(f"{cost(value)} at {words.at(axis, level)}" for level, value in known.carried)
    return [
        f"Transfer: the optima lie {known.fit_error:.2f} octaves (rms) off the power law. A learning rate an octave "
        f"off costs {cost(at_small)}{unit} at {words.at(axis, small)} and {cost(at_large)} at {words.at(axis, large)} "
        f"(exponent {words.number(known.robustness)}). The best one at {words.at(axis, small)}, carried over as it is, "
        f"costs {carried}."
    ]
