"""A study looked at from inside: coordinate check, regimes, sharpness and calibration, as text, tables and figures."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.inside import regime as regimes
from pipeline.analysis.inside.check import Ladder, Records, table
from pipeline.analysis.inside.lr_rules import ladder, ladders, recorded, requests
from pipeline.analysis.page import figures, figures_inside, words, words_inside
from pipeline.analysis.page.tables import to_json, write_text
from pipeline.analysis.page.words_regime import calibration_words, regime_words
from pipeline.analysis.study.load import Study, load_study
from pipeline.console import wrapped
from pipeline.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LADDERS = 6  # that are shown where nobody chose

# Names of the ladders of a sweep
BEST = "the best learning rate tried of every width"
LARGEST = "the largest stable learning rate tried of every width"


def look(dirs: Sequence[Path], lr: float | None = None, *, as_json: bool = False) -> str:
    """`pipeline coordcheck` on studies that exist: writes coordcheck.csv, coordcheck_groups.csv and the figures into
    the first one, and returns what it found, in words or as JSON the rows of coordcheck_groups.csv. Raises
    `RequestError` where nothing was recorded."""
    study = load_study(dirs)
    there = ladders(study, recorded(study))
    every = [f for f in there if f.compares]
    where = ", ".join(map(str, dirs))
    if not every:
        raise RequestError(
            f"{where}: no coordinates at two widths: train with --diagnostics.first 10, or run pipeline coordcheck"
        )
    found = [f for f in every if lr is None or math.isclose(f.lr, lr, rel_tol=1e-3)]
    if not found:
        known = ", ".join(sorted({words.lr(f.lr) for f in every}, key=float))
        raise RequestError(f"{where}: no coordinates at lr {lr:g}: choose one of {known}")
    notes = []
    if broken := sorted({f.lr for f in there if f.diverged and not f.compares and lr is None}):
        notes.append(f"Left out, since runs diverged before the last step: lr {', '.join(map(words.lr, broken))}.")
    if lr is None and len(every) > MOST_LADDERS:
        found = telling(every)
        more = f"{len(every) - len(found)} more with --lr"
        notes.append(f"Shown at the largest learning rate that no run diverged at; {more}.")
    folder = study.dirs[0]
    paths = [
        write_text(folder / "coordcheck.csv", table(found).to_csv(index=False, float_format="%.6g")),
        write_text(folder / "coordcheck_groups.csv", table(found, "groups").to_csv(index=False, float_format="%.6g")),
    ]
    for f in found:
        paths += figures.save(figures_inside.coordinate_figure(f), folder / "figures", figures_inside.name_of(f))
    if as_json:
        return to_json(table(found, "groups").to_dict("records")).rstrip()
    lines = []
    for f in found:
        lines += [words.plain(words_inside.title(f)), words.plain(words_inside.subtitle(f))]
        lines += words.aligned(words_inside.table_rows(f))
        if any(e.quantity in words_inside.SPECTRA for e in f.by_group):
            lines += ["", *words.aligned(words_inside.table_rows(f, words_inside.SPECTRA))]
        lines += [words.plain(line) for sentence in said(f) for line in wrapped(sentence, "  - ")] + [""]
    return "\n".join([*lines, *notes, *map(str, paths)])


def telling(every: Sequence[Ladder], lr: float | None = None) -> list[Ladder]:
    """Those of a learning rate, or of every parameterization, optimizer, loss and exponent one ladder: that of the
    largest learning rate at which no run diverged, else of the smallest one."""
    if lr is not None:
        return [f for f in every if math.isclose(f.lr, lr, rel_tol=1e-3)]
    by_kind: dict[tuple[object, ...], list[Ladder]] = {}
    for f in every:
        by_kind.setdefault((f.param, f.optimizer, f.loss, *f.cell.values(), f.lr_exponent), []).append(f)
    chosen = []
    for of_kind in by_kind.values():
        stable = [f for f in of_kind if not f.diverged and len(f.widths) == max(len(g.widths) for g in of_kind)]
        chosen.append(max(stable, key=lambda f: f.lr) if stable else min(of_kind, key=lambda f: f.lr))
    return chosen


def said(f: Ladder) -> list[str]:
    """What a ladder's coordinates say, its regime and its calibration: one paragraph each."""
    return [*words_inside.findings(f), *regime(f)]


def regime(f: Ladder) -> list[str]:
    """The regime with its evidence, and calibration by width."""
    found = regimes.inside(f)
    sentences = [] if found is None else [regime_words(found), calibration_words(found.calibration)]
    return [sentence for sentence in sentences if sentence]


# ---------------------------------------------------------------------------------------------------------------------
# The section of `pipeline report`


@dataclass(frozen=True)
class Drawing:
    """A figure as what the page's SVG element is made of."""

    label: str
    view: str
    """Its viewBox."""
    width: float
    """At most, in CSS pixels."""
    body: Markup
    """All that comes after the opening tag."""


@dataclass(frozen=True)
class Part:
    """What stands under one heading."""

    title: str
    subtitle: str = ""
    sentences: Sequence[str] = ()
    drawing: Drawing | None = None


@dataclass
class Section:
    """The report's section, empty where no run looked inside, and its figures by file name."""

    parts: list[Part] = field(default_factory=list)
    figures: "dict[str, Figure]" = field(default_factory=dict)


def section(fit: StudyFit) -> Section:
    """Coordinate checks of the study's ladders; of ordinary sweeps, the regime at every width's optimum and at its
    largest stable learning rate; sharpness over training; calibration over width."""
    if not isinstance(fit.study, Study):  # tables have no records
        return Section()
    records = recorded(fit.study)
    if not records:
        return Section()
    found = ladders(fit.study, records)
    checked = [f for f in found if f.compares]
    of_sweep = {} if any(map(requests, fit.study.dirs)) else _chosen(fit, records)
    shown = telling(checked) if of_sweep else checked
    made = Section()
    for f in shown:
        name, title = figures_inside.name_of(f), words_inside.title(f)
        made.figures[name] = figures_inside.coordinate_figure(f)
        made.parts.append(Part(title, words_inside.subtitle(f), said(f), drawing(made.figures[name], title)))
    made.parts += [Part(title, sentences=regime(f)) for title, f in of_sweep.items() if f.by_group]
    beside = list(of_sweep.values()) or found
    over_all = {
        "sharpness": _sharpness([f for f in beside if f.name in ("", BEST)]),
        "calibration": _calibration(beside),
    }
    for name, figure in over_all.items():
        if figure is not None:
            made.figures[name] = figure
            made.parts.append(Part(words.capital(name), drawing=drawing(figure, name)))
    return made


def _chosen(fit: StudyFit, records: Mapping[str, Records]) -> dict[str, Ladder]:
    """Ladders of the runs at every width's best learning rate, and at its largest stable one, of groups with a
    grid."""
    found = {}
    for group in fit.groups:
        if all(len(w.curve.lrs) == 1 for w in group.widths):
            continue
        lrs = {
            BEST: {w.width: w.optimum.lr for w in group.widths},
            LARGEST: {w.width: w.edge.last_stable_lr for w in group.widths},
        }
        for name, of_width in lrs.items():
            for f in _ladder_at(fit, group, of_width, name, records):
                found[words_inside.title(f)] = f
    return found


def _ladder_at(
    fit: StudyFit, group: GroupFit, lr_of: Mapping[float, float], name: str, records: Mapping[str, Records]
) -> list[Ladder]:
    key = tuple(group.key.values())
    assert isinstance(fit.study, Study), "it has records"
    runs = fit.study.runs
    of_group = np.all([runs[column] == value for column, value in group.key.items()], axis=0)
    own = runs[of_group & runs["run"].isin(records)]
    near = [math.isclose(lr, lr_of[width], rel_tol=1e-9) for width, lr in zip(own["width"], own["lr"], strict=True)]
    return list(ladder(key, own[near], math.nan, None, fit.study, records, name))


def _sharpness(found: Sequence[Ladder]) -> "Figure | None":
    curves = {words_inside.title(f): regimes.sharpness_curves(f) for f in found}
    curves = {title: of_ladder for title, of_ladder in curves.items() if of_ladder}
    return figures_inside.sharpness_figure(curves) if curves else None


def _calibration(found: Sequence[Ladder]) -> "Figure | None":
    points = {words_inside.title(f): regimes.calibration(f) for f in found}
    points = {title: of_ladder for title, of_ladder in points.items() if len(of_ladder) > 1}
    return figures_inside.calibration_figure(points) if points else None


def drawing(figure: "Figure", label: str) -> Drawing:
    """The figure as an SVG element that a page may hold several of: nothing to fetch, no size of its own."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context(figures.STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    head, body = text[text.index("<svg") :].split(">", 1)
    return Drawing(label, head.split('viewBox="')[1].split('"')[0], figure.get_figwidth() * 96, Markup(body))
