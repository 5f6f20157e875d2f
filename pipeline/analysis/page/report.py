"""The report: one self-contained HTML page with the study's answer first, then what it rests on."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.analysis.fit.fitted import LEVEL
from pipeline.analysis.fit.study_fit import StudyFit
from pipeline.analysis.page import charts, figures_compare, inside, palette, ran, summary, trajectories, words
from pipeline.analysis.page.answer import BEYOND, Answer, Row, Shown, answer, short_names
from pipeline.analysis.page.hero import ON_ONE, rates
from pipeline.analysis.page.phrases import phrases
from pipeline.analysis.page.stability_map import stability_map
from pipeline.analysis.page.verdicts import limits, verdicts
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.stability import MARGIN
from pipeline.analysis.study.table import GROUP
from pipeline.version import __version__

_HERE = Path(__file__).parent
_LEFT = "left for good"
MOST_RUNS = 5000
"""That the page lists; runs.csv has all of them."""
LATEST = 15
"""Seconds after which a page of a sweep that is going reads itself anew."""


def _escaped(value: object) -> Markup:
    """Of everything that a template puts out and that is not HTML yet. Jinja's own escaping spells quotes in another
    way."""
    return Markup(value if hasattr(value, "__html__") else escape(str(value)))


def _powers(text: str) -> Markup:
    """The text with its powers set as such."""
    return Markup(re.sub(rf"\^([{words.MINUS}\d./]*\d)", r"<sup>\1</sup>", str(_escaped(text))))


TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE),
    autoescape=True,
    finalize=_escaped,
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)
TEMPLATES.filters["powers"] = _powers


def render(fit: StudyFit, looked: inside.Section | None = None, going: bool = False) -> str:
    """The page. The same fit gives the same bytes; nothing in it is fetched from anywhere.

    `looked`: the section on what the runs recorded of their inside, if it is there already. `going`: more runs are
    being made, so that the page reads itself anew."""
    study, axis = fit.study, fit.study.axis
    names = short_names(fit)
    shown = [Shown(place, answer(fit, group), names[place]) for place, group in enumerate(fit.groups)]
    scalings = charts.scalings(shown)
    ends = charts.reach([verdict for group in fit.groups for verdict in verdicts(fit, group)])
    return TEMPLATES.get_template("report.html.jinja").render(
        title=f"Learning rate against {axis.noun}",
        study=study.name,
        refresh=LATEST if going else 0,
        css=_css(fit),
        script=Markup((_HERE / "report.js").read_text()),
        level=f"{100 * LEVEL:g}",
        meta=ran.meta(fit),
        notes=study.notes,
        n_runs=len(study.runs),
        n_unfinished=study.n_unfinished,
        left_out=words.left_out(fit),
        axis=axis,
        symbol=words.symbol(axis),
        heroes=_heroes(fit, shown),
        bare=any(w.best is None and w.optimum.index is not None for group in fit.groups for w in group.widths),
        another=_another(fit),
        groups=[_group(fit, one, scalings, ends) for one in shown],
        overlays=_overlays(fit, shown, scalings),
        scalings=[(scaling.key, scaling.name) for scaling in scalings],
        reading=phrases(fit.estimator).reading.format(nouns=axis.nouns),
        unstable_means=_UNSTABLE[fit.estimator.max_stable],
        losses=_losses(fit, shown),
        most_lines=trajectories.MOST_LINES,
        most_points=trajectories.MOST_POINTS,
        **_comparison(fit, shown),
        inside=(looked or inside.section(fit)).parts,
        ran=ran.pairs(fit),
        runs_header=_runs_header(fit),
        runs=list(_runs(fit)),
        recipe=study.recipe.items(),
        version=__version__,
    )


_UNSTABLE = {
    True: "A run is unstable where its loss was not finite, where it left for good, or where it lost for good more "
    "than a quarter of what it had gained.",
    False: f"Unstable by the published criterion: diverged, or more than {MARGIN:g} above the best loss, or an "
    "accuracy near chance.",
}


def _css(fit: StudyFit) -> Markup:
    """The page's style with the colours of these groups and widths."""
    themes = palette.css(len(fit.groups), len(charts.widths_of(fit)))
    dark = f"@media screen and (prefers-color-scheme:dark){{{themes['dark']}}}"
    return Markup(f"{(_HERE / 'report.css').read_text()}{themes['light']}{dark}")


def _heroes(fit: StudyFit, shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """The first figure, for a desk and for a telephone; of many groups one figure each."""
    axis = fit.study.axis
    if len(shown) <= ON_ONE:
        size = (700.0, 400.0) if len(shown) == 1 else (1160.0, 300.0)
        desk = rates(shown, axis, size, named=True)
        return [{"title": "", "desk": desk, "phone": rates(shown, axis, (358, 250), named=True)}]
    return [
        {**_head(one), "svg": rates([one], axis, (361, 262), named=False).replace('class="phone"', "")} for one in shown
    ]


def _head(one: Shown) -> dict[str, Any]:
    return {"place": one.place, "mark": palette.mark(one.place), "title": one.title}


def _another(fit: StudyFit) -> str:
    """The command that predicts at a level of the reader's choice."""
    study, level = fit.study, words.level(2 * BEYOND[-1] * max(charts.widths_of(fit)))
    if isinstance(study, Study) and study.axis.name == "width":
        return f"pipeline predict {' '.join(f'runs/{path.resolve().name}' for path in study.dirs)} --width {level}"
    return f"pipeline predict … --axis {study.axis.name} --at {level}"


def _group(fit: StudyFit, one: Shown, scalings: Sequence[charts.Scaling], ends: tuple[float, float]) -> dict[str, Any]:
    """What the page shows of a group."""
    group, say = one.group, phrases(one.group.estimator)
    header, *rows = say.width_rows(group)
    strengths = charts.widths_of(fit)
    return {
        **_head(one),
        "answer": _with_levels(one.answer),
        "limits": ", ".join(limits(fit, group)),
        "unit": group.unit,
        "widths": [{"level": words.level(w.width), "strength": strengths.index(w.width)} for w in group.widths],
        "curves": {scaling.key: charts.curves(fit, [one], scaling) for scaling in scalings},
        "verdicts": [{**vars(v), "svg": charts.exponent(v, one.place, ends)} for v in verdicts(fit, group)],
        "map": stability_map(group),
        "header": header,
        "rows": rows,
        "said": say.answer(group),
        "notes": say.notes(group),
    }


def _with_levels(found: Answer) -> dict[str, Any]:
    def cells(row: Row) -> dict[str, Any]:
        return {**vars(row), "level": words.level(row.width)}

    return {**vars(found), "rows": [cells(row) for row in found.rows]}


def _overlays(fit: StudyFit, shown: Sequence[Shown], scalings: Sequence[charts.Scaling]) -> list[dict[str, Any]]:
    """Groups that are compared by the same thing, on shared axes; none where each has a scale of its own."""
    found = []
    for scale in dict.fromkeys(figures_compare.scale_of(one.group) for one in shown):
        alike = [one for one in shown if figures_compare.scale_of(one.group) == scale]
        if len(alike) > 1:
            drawn = {scaling.key: charts.curves(fit, alike, scaling, (720, 380)) for scaling in scalings}
            found.append({"title": " and ".join(one.title for one in alike), "curves": drawn})
    return found


def _losses(fit: StudyFit, shown: Sequence[Shown]) -> list[dict[str, Any]]:
    panels = [(one, w) for one in shown for w in one.group.widths]
    found = []
    for one, w in panels[: trajectories.MOST_PANELS]:
        drawn = trajectories.lines(fit, one.group, w)
        if drawn:
            level = words.at(fit.study.axis, w.width)
            svg = trajectories.chart(drawn, f"{one.title}, {level}", f"g{one.place}")
            found.append({**_head(one), "level": level, "svg": svg})
    return found


def _comparison(fit: StudyFit, shown: Sequence[Shown]) -> dict[str, Any]:
    """Of several groups their best values, a chart per scale."""
    charted, rows = [], []
    if len(shown) > 1:
        for scale in dict.fromkeys(figures_compare.scale_of(one.group) for one in shown):
            alike = [one for one in shown if figures_compare.scale_of(one.group) == scale]
            if any(figures_compare.best_of(fit, one.group).widths for one in alike):
                title = f"Best {figures_compare.name_of(fit)}, {' '.join(scale).strip()}".rstrip(", ")
                charted.append({"title": title, "svg": charts.best_losses(fit, alike)})
        widths = charts.widths_of(fit)
        for one in shown:
            best = figures_compare.best_of(fit, one.group)
            of = dict(zip(best.widths, best.values, strict=True))
            rows.append((one.title, *(f"{of[n]:.4g}" if n in of else words.DASH for n in widths)))
    return {
        "compare": charted,
        "compare_header": ("group", *(words.at(fit.study.axis, n) for n in charts.widths_of(fit))),
        "compare_rows": rows,
        "best_losses": summary.best_losses(fit),
    }


def _runs_header(fit: StudyFit) -> tuple[str, ...]:
    if fit.study.config is None:
        return (*_key(fit), fit.study.axis.noun, "lr", "seed", "status", fit.measure.name)
    losses = ("initial loss", "training loss", "validation loss")
    return ("", "optimizer", *_cells(fit), fit.study.axis.noun, "lr", "seed", "status", *losses, "seconds")


def _key(fit: StudyFit) -> tuple[str, ...]:
    """The columns that tell a table's families apart."""
    return tuple(fit.study.group)


def _cells(fit: StudyFit) -> tuple[str, ...]:
    """The columns that tell families apart beside parameterization, optimizer and loss."""
    return tuple(name for name in fit.study.group if name not in GROUP)


def _runs(fit: StudyFit) -> Iterable[tuple[object, ...]]:
    for run in fit.study.runs.head(MOST_RUNS).to_dict("records"):
        if fit.study.config is None:
            yield (
                *(run[name] for name in _key(fit)),
                words.level(run["width"]),
                words.lr(run["lr"]),
                run["seed"],
                run["status"],
                words.number(run[fit.measure.column], 4),
            )
            continue
        yield (
            words.label(run["param"]),
            words.label(run["optimizer"]),
            *(run[name] for name in _cells(fit)),
            run["width"],
            words.lr(run["lr"]),
            run["seed"],
            _LEFT if run["status"] == "completed" and (run["left_for_good"] or run["lost_ground"]) else run["status"],
            words.number(run["initial_loss"], 3),
            words.number(run["final_train_loss"], 3),
            words.number(run["final_val_loss"], 3),
            f"{run['seconds']:.0f}",
        )
