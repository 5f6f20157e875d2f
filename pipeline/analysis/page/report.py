"""The report: one self-contained HTML page with the study's answer, interactive charts and tables, and the figures."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pipeline
from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.page import charts, inside, words
from pipeline.analysis.page.phrases import phrases
from pipeline.analysis.page.transfer import transfer
from pipeline.errors import RequestError

_TEMPLATE = Path(__file__).with_name("report.html.template")

_READING = (
    "An exponent is the slope of log learning rate on log width: "
    f"{words.MINUS}0.50 means that the learning rate shrinks like n<sup>{words.MINUS}1/2</sup>, 0 that it transfers unchanged. "
    "Learning rates are the base group's, before any width factor of the parameterization."
)


def render(fit: StudyFit, looked: inside.Section | None = None) -> str:
    """The page. The same fit gives the same bytes; nothing in it is fetched from anywhere. Raises `RequestError` without
    plotly.

    `looked`: the section on what the runs recorded of their inside, if it is there already."""
    study = fit.study
    specs: dict[str, charts.Chart] = {}
    sections = [_group_section(fit, group, f"g{place}", specs) for place, group in enumerate(fit.groups)]
    text = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return text.substitute(
        title=escape(f"Learning rate against width: {study.name}"),
        subtitle=_subtitle(fit),
        answer=_answer(fit),
        exponents=_exponents(fit),
        groups="\n".join(sections),
        inside=(looked or inside.section(fit)).html,
        runs=_runs(fit),
        recipe=_recipe(fit),
        footer=f"Made by width-scaling-pipeline {escape(pipeline.__version__)} (pipeline report).",
        charts=_script_json(specs),
        plotly=_plotly_js(),
    )


def _plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RequestError("pipeline report needs plotly: pip install 'width-scaling-pipeline[report]'") from None
    source: str = get_plotlyjs()
    return source


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _subtitle(fit: StudyFit) -> str:
    runs = fit.study.runs
    widths = sorted(runs["width"].unique())
    parts = [
        f"{len(runs)} runs",
        f"widths {', '.join(map(str, widths))}",
        f"{runs['lr'].nunique()} learning rates from {words.lr(runs['lr'].min())} to {words.lr(runs['lr'].max())}",
        f"{runs['seed'].nunique()} seed{'s' * (runs['seed'].nunique() > 1)}",
        f"compared by {fit.measure.name} ({words.unit(fit)})",
    ]
    left_out = words.left_out(fit)
    return escape(" · ".join([*parts, left_out] if left_out else parts))


def _answer(fit: StudyFit) -> str:
    paragraphs = [
        escape(phrases(group.estimator).answer(group)).replace(" ± ", "&nbsp;±&nbsp;") for group in fit.groups
    ]
    return f'<div class="answer">{"".join(f"<p>{text}</p>" for text in paragraphs)}</div>'


def _exponents(fit: StudyFit) -> str:
    rows = [
        (words.group_title(group), name, words.exponent(e), words.interval(e), e.n_widths)
        for group in fit.groups
        for name, e in (("optimal", group.optimal), ("max-stable", group.max_stable))
    ]
    table = _table(("", "learning rate", "exponent", "95 % interval", "widths used"), rows)
    return f'{table}<p class="soft">{_READING} {phrases(fit.estimator).reading}</p>'


def _group_section(fit: StudyFit, group: GroupFit, key: str, specs: dict[str, charts.Chart]) -> str:
    """The section of a group; its charts go into `specs` under the ids of their elements."""
    shown = transfer(fit, group)
    drawn = {
        "Loss against learning rate": charts.loss_curves(shown),
        "The same, scaled by an exponent": charts.scaled_curves(shown),
        "Optimum and stability edge against width": charts.exponents(shown),
    }
    cells = []
    for place, (title, spec) in enumerate(drawn.items()):
        specs[f"{key}-{place}"] = spec
        cells.append(f'<div><h3>{title}</h3><div class="chart" id="{key}-{place}"></div></div>')
    header, *rows = phrases(group.estimator).width_rows(group)
    table = _table(header, rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in phrases(group.estimator).notes(group))
    cells.append(f'<div class="wide"><h3>Per width</h3>{table}<ul class="notes">{notes}</ul></div>')
    return f'<h2>{escape(words.group_title(group))}</h2><div class="charts">{"".join(cells)}</div>'


def _runs(fit: StudyFit) -> str:
    rows = [
        (
            words.label(run["param"]),
            words.label(run["optimizer"]),
            run["width"],
            words.lr(run["lr"]),
            run["seed"],
            "left for good" if run["status"] == "completed" and run["left_for_good"] else run["status"],
            words.number(run["initial_loss"], 3),
            words.number(run["final_train_loss"], 3),
            words.number(run["final_val_loss"], 3),
            f"{run['seconds']:.0f}",
        )
        for run in fit.study.runs.to_dict("records")
    ]
    header = (
        "",
        "optimizer",
        "width",
        "lr",
        "seed",
        "status",
        "initial loss",
        "training loss",
        "validation loss",
        "seconds",
    )
    return f"<details><summary>All {len(rows)} runs</summary>{_table(header, rows)}</details>"


def _recipe(fit: StudyFit) -> str:
    data = fit.study.config.data
    source = " ".join(
        f"{name}: {value}" for name, value in (("Licence", data.license), ("Citation", data.citation)) if value
    )
    said = f'<p class="soft">Data: {escape(data.name)}. {escape(source)}</p>'
    table = _table(("setting", "value"), fit.study.recipe.items())
    return f"{said}<details><summary>Settings that all runs share</summary>{table}</details>"


def _table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
