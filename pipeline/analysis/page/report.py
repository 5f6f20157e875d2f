"""The report: one self-contained HTML page with the study's answer, interactive charts and tables, and the figures."""

import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import charts, inside, words
from pipeline.analysis.page.phrases import phrases
from pipeline.analysis.page.transfer import transfer
from pipeline.analysis.study.load import GROUP
from pipeline.errors import RequestError
from pipeline.version import __version__

_LEFT = "left for good"


def _escaped(value: object) -> Markup:
    """Of everything that a template puts out and that is not HTML yet. Jinja's own escaping spells quotes in another
    way."""
    return Markup(value if hasattr(value, "__html__") else escape(str(value)))


def _powers(text: str) -> Markup:
    """The text with its powers set as such."""
    return Markup(re.sub(rf"\^([{words.MINUS}\d./]*\d)", r"<sup>\1</sup>", str(_escaped(text))))


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=_escaped,
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)
TEMPLATES.filters["powers"] = _powers


def render(fit: StudyFit, looked: inside.Section | None = None) -> str:
    """The page. The same fit gives the same bytes; nothing in it is fetched from anywhere. Raises `RequestError`
    without plotly.

    `looked`: the section on what the runs recorded of their inside, if it is there already."""
    specs: dict[str, charts.Chart] = {}
    return TEMPLATES.get_template("report.html.jinja").render(
        title=f"Learning rate against {fit.study.axis.noun}: {fit.study.name}",
        subtitle=_subtitle(fit),
        notes=fit.study.notes,
        axis=fit.study.axis,
        symbol=words.symbol(fit.study.axis),
        answers=[phrases(group.estimator).answer(group) for group in fit.groups],
        exponents=_exponents(fit),
        reading=phrases(fit.estimator).reading.format(nouns=fit.study.axis.nouns),
        groups=[_group(fit, group, f"g{place}", specs) for place, group in enumerate(fit.groups)],
        inside=(looked or inside.section(fit)).parts,
        runs_header=_runs_header(fit),
        runs=list(_runs(fit)),
        n_runs=len(fit.study.runs),
        data=fit.study.about,
        recipe=fit.study.recipe.items(),
        version=__version__,
        charts=_script_json(specs),
        plotly=_plotly_js(),
    )


def _plotly_js() -> Markup:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RequestError("pipeline report needs plotly: pip install 'width-scaling-pipeline[report]'") from None
    return Markup(get_plotlyjs())


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _subtitle(fit: StudyFit) -> str:
    runs, unit = fit.study.runs, words.unit(fit)
    widths = sorted(runs["width"].unique())
    parts = [
        f"{len(runs)} runs",
        fit.study.axis.many.format(", ".join(map(words.level, widths))),
        f"{runs['lr'].nunique()} learning rates from {words.lr(runs['lr'].min())} to {words.lr(runs['lr'].max())}",
        f"{runs['seed'].nunique()} seed{'s' * (runs['seed'].nunique() > 1)}",
        f"compared by {fit.measure.name}{unit and f' ({unit})'}",
    ]
    left_out = words.left_out(fit)
    return " · ".join([*parts, left_out] if left_out else parts)


def _exponents(fit: StudyFit) -> list[tuple[object, ...]]:
    return [
        (words.group_title(group), name, words.exponent(law), words.interval(law), law.n_widths)
        for group in fit.groups
        for name, law in (("optimal", group.optimal), ("max-stable", group.max_stable))
    ]


def _group(fit: StudyFit, group: GroupFit, key: str, specs: dict[str, charts.Chart]) -> dict[str, Any]:
    """The section of a group; its charts go into `specs` under the ids of their elements."""
    shown, say = transfer(fit, group), phrases(group.estimator)
    drawn = {
        "Loss against learning rate": charts.loss_curves(shown),
        "The same, scaled by an exponent": charts.scaled_curves(shown),
        f"Optimum and stability edge against {fit.study.axis.noun}": charts.exponents(shown),
    }
    ids = [f"{key}-{place}" for place in range(len(drawn))]
    specs |= zip(ids, drawn.values(), strict=True)
    header, *rows = say.width_rows(group)
    return {
        "title": words.group_title(group),
        "charts": [{"title": title, "id": chart_id} for title, chart_id in zip(drawn, ids, strict=True)],
        "header": header,
        "rows": rows,
        "notes": say.notes(group),
    }


MOST_RUNS = 5000
"""That the page lists; runs.csv has all of them."""


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
