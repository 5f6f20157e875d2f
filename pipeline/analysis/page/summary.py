"""The summary of a fit: plain text for a terminal."""

from pipeline.analysis.fit.study_fit import StudyFit
from pipeline.analysis.page import words
from pipeline.analysis.page.phrases import phrases
from pipeline.console import wrapped


def summary(fit: StudyFit) -> str:
    """Every group's table of widths, exponents, answer and notes."""
    study, left_out, say = fit.study, words.left_out(fit), phrases(fit.estimator)
    lines = [f"{study.name}: {len(study.runs)} runs, by {fit.measure.name}{left_out and f' ({left_out})'}"]
    lines += [line for note in study.notes for line in wrapped(note, "  - ")]
    for group in fit.groups:
        lines += ["", words.group_title(group), *words.aligned(say.width_rows(group)), ""]
        laws = [("optimal lr", group.optimal), ("max-stable lr", group.max_stable)]
        cells = [(name, words.exponent(law), words.interval(law), str(law.n_widths)) for name, law in laws]
        lines += words.aligned([("", "exponent", "95 % interval", study.axis.nouns), *cells])
        if say.answers_on_terminal:
            lines += ["", *wrapped(say.answer(group), "  ")]
        for note in say.notes(group):
            lines += wrapped(note, "  - ")
    lines += ["", *wrapped(said, "  ")] if (said := best_losses(fit)) else []
    return words.plain("\n".join(lines))


def best_losses(fit: StudyFit) -> str:
    """At the widest width that all groups have: what the choice of a parameterization costs. Empty where it cannot be
    compared."""
    known = [{w.width: w.best_loss for w in group.widths if w.best is not None} for group in fit.groups]
    common = set.intersection(*map(set, known)) if known else set()
    if len(known) < 2 or not common or len({group.unit for group in fit.groups}) > 1:
        return ""
    widest = max(common)
    losses = ", ".join(
        f"{losses[widest]:.4g} under {words.group_title(group)}"
        for group, losses in zip(fit.groups, known, strict=True)
    )
    return f"The best loss at {words.at(fit.study.axis, widest)}: {losses}."
