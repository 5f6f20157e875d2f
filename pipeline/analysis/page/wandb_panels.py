"""The dashboard of a study in W&B: a workspace per family of curves and one report, by `wandb-workspaces`.

W&B draws what its runs logged and computes nothing, so panels show curves, and what a fit says of them stands beside
them as text.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pipeline.analysis.fit.study_fit import GroupFit, StudyFit
from pipeline.analysis.inside.check import Ladder
from pipeline.analysis.inside.lr_rules import ladders, recorded
from pipeline.analysis.page import words, words_inside
from pipeline.analysis.page.inside import said, telling
from pipeline.analysis.page.phrases import phrases
from pipeline.analysis.page.stability_map import stability_map
from pipeline.analysis.page.tables import to_json
from pipeline.analysis.study.load import Study
from pipeline.analysis.study.table import GROUP
from pipeline.config import run_settings
from pipeline.errors import RequestError, in_a_line
from pipeline.mirrors.to_wandb import Place

_COORDINATES = ("effective", "propagating")
_CURVES = {"loss": True, "val_loss": True, "grad_norm": True, "logit_rms": False}
"""What is drawn against the step; whether on a log axis."""


@dataclass(frozen=True)
class Dashboard:
    """As objects of `wandb-workspaces`."""

    workspaces: Sequence[Any]
    report: Any

    def content(self) -> str:
        """What W&B would be sent, as JSON."""
        parts = {"workspaces": [_dump(one) for one in self.workspaces], "report": _dump(self.report)}
        return to_json(parts)


def _dump(one: Any) -> Any:
    return json.loads(one._to_model().model_dump_json(by_alias=True, exclude_none=True))


def modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Those of `wandb-workspaces`: reports, workspaces, filters. Raises `RequestError` where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own of pydantic
        try:
            import wandb_workspaces.reports.v2 as reports
            import wandb_workspaces.workspaces as workspaces
            from wandb_workspaces import expr
        except ImportError as error:
            raise RequestError(
                f"pipeline wandb dashboard needs the package wandb-workspaces ({error}): pip install "
                "'width-scaling-pipeline[dashboard]'"
            ) from None
    return reports, workspaces, expr


@dataclass(frozen=True)
class Section:
    """A heading, what is said below it (Markdown), and panels."""

    title: str
    text: str
    panels: Sequence[Any]
    best_alone: bool = False
    """Of the panels' runs, those at every width's best learning rate."""


def dashboard(fit: StudyFit, project: str, entity: str) -> Dashboard:
    """Of a study of ours. Raises `RequestError` for a table, whose runs are not in W&B under known names."""
    wr, ws, expr = modules()
    study = fit.study
    if not isinstance(study, Study):
        raise RequestError(f"{study.name} is a table of runs: a dashboard is of a study folder")
    found = ladders(study, recorded(study))
    blocks: list[Any] = [wr.TableOfContents()]
    workspaces = []
    for group in fit.groups:
        name = f"{study.name} · {words.group_title(group)}"
        own = [f for f in found if all(getattr(f, key) == group.key[key] for key in GROUP)]
        filters, best = _filters(expr, study, group), _best(study, group)
        blocks.append(wr.H1(words.group_title(group)))
        parts = _sections(wr, study, group, own)
        for part in parts:
            blocks += [wr.H2(part.title), *([wr.MarkdownBlock(part.text)] if part.text else [])]
            if part.panels:
                only = expr.And(expr.Metric("ID").isin(best)) if part.best_alone else filters
                title = "best learning rate of every width" if part.best_alone else words.group_title(group)
                runs = wr.Runset(name=title, filters=only)  # of the report's project
                blocks.append(wr.PanelGrid(runsets=[runs], panels=list(part.panels)))
        workspaces.append(
            ws.Workspace(
                entity=entity,
                project=project,
                name=name,
                sections=[
                    ws.Section(
                        name=part.title,
                        panels=[*([wr.MarkdownPanel(markdown=part.text)] if part.text else []), *part.panels],
                        is_open=True,
                    )
                    for part in _sections(wr, study, group, own)  # a panel belongs to one page
                ],
                settings=ws.WorkspaceSettings(max_runs=100),
                runset_settings=ws.RunsetSettings(filters=filters),
            )
        )
    about = f"{len(study.runs)} runs, by {fit.measure.name}"
    report = wr.Report(
        project=project, entity=entity, title=f"{study.name}: learning rates by width"[:128], description=about,
        blocks=blocks, width="fluid",
    )  # fmt: skip
    return Dashboard(workspaces, report)


def _filters(expr: ModuleType, study: Study, group: GroupFit) -> Any:
    """The runs of the family: the study's, with what tells it from others, as the runs' settings have it."""
    config = group.config or study.config
    settings = run_settings(config)
    flat = {f"{key}.{name}": inner for key, value in settings.items() if isinstance(value, dict)
            for name, inner in value.items()}  # fmt: skip
    keys = [key for key in group.key if key in {**settings, **flat}]
    of_group = (expr.Config(key) == {**settings, **flat}[key] for key in keys)
    return expr.And(expr.Metric("Group") == Place.of(config).group, *of_group)


def _best(study: Study, group: GroupFit) -> list[str]:
    """The ids in W&B of the runs at every width's best learning rate tried."""
    rows = study.runs
    for key, value in group.key.items():
        rows = rows[rows[key] == value]
    best = {w.width: w.optimum.lr for w in group.widths}
    names = [name for name, width, lr in zip(rows["run"], rows["width"], rows["lr"], strict=True) if best[width] == lr]
    return [Place.of(study.directory(name).config(), name).id for name in names]


def _sections(wr: ModuleType, study: Study, group: GroupFit, found: Sequence[Ladder]) -> list[Section]:
    final, say = "final_train_loss", phrases(group.estimator)
    laws = [("optimal", group.optimal), ("max-stable", group.max_stable)]
    exponents = [("learning rate", "exponent", "95 % interval", "theory")]
    for (name, law), quantity in zip(laws, ("optimal", "max_stable"), strict=True):
        claim = group.predicted.get(quantity)  # type: ignore[call-overload]
        exponents.append((name, words.exponent(law), words.interval(law), "" if claim is None else str(claim.exponent)))
    widths, rates = stability_map(group)
    cells = ((rate, *(f"**{cell.text}**" if cell.best else cell.text for cell in row)) for rate, row in rates)
    stable = [("lr", *widths), *cells]
    scales = (
        ("", wr.Config("lr"), "as it is"),
        (f" {words.TIMES} (n / n_base)^1/2", "lr_sqrt_m", "optima align where it goes like n^-1/2"),
        (f" {words.TIMES} n / n_base", "lr_m", "optima align where it goes like 1/n"),
    )
    transfer = [
        wr.ScatterPlot(
            title=f"{final} against learning rate{scale}: {aligned}", x=x, y=final, z=wr.Config("width"), log_x=True,
            log_z=True,
        )
        for scale, x, aligned in scales
    ]  # fmt: skip
    numbers = [_table(say.width_rows(group)), "", _table(exponents), "", *(f"- {note}" for note in say.notes(group))]
    logged = _logged(study, group)
    by_step = [wr.LinePlot(title=key, x="Step", y=[key], log_y=log, max_runs_to_show=100, legend_fields=_LEGEND)
               for key, log in _CURVES.items() if key in logged]  # fmt: skip
    map_of_runs = wr.ScatterPlot(
        title="stable (0) and diverged (1) runs", x=wr.Config("lr"), y=wr.Config("width"), z="diverged", log_x=True,
        log_y=True, gradient=[wr.GradientPoint(color=color, offset=at) for color, at in _STABLE_TO_DIVERGED],
    )  # fmt: skip
    return [
        Section("LR transfer", say.answer(group), transfer),
        Section("Exponents and edges", "\n".join(numbers), []),
        Section("Loss curves", "", by_step, best_alone=True),
        Section("Stability map", f"Stable seeds of all, the best rate in bold.\n\n{_table(stable)}", [map_of_runs]),
        _inside(wr, study, group, found, logged),
    ]


_STABLE_TO_DIVERGED = (("#2a7f3b", 0), ("#c0392b", 100))
_LEGEND = ["config:width.value", "config:lr.value", "config:seed.value"]


def _inside(wr: ModuleType, study: Study, group: GroupFit, found: Sequence[Ladder], logged: Sequence[str]) -> Section:
    """The refined coordinate check: curves of updates of one block and the ends, and measured exponents."""
    title = "Refined coordinate check"
    keys = _coordinates(study, group, logged)
    if not keys:
        return Section(title, "Not recorded: train with `--diagnostics.first 10 --diagnostics.interval 100`.", [])
    text = []
    for ladder in telling([f for f in found if f.compares]):
        rows = [tuple(cell or " " for cell in row) for row in words_inside.table_rows(ladder)]
        text += [f"**{words_inside.title(ladder)}**", "", _table(rows), "", *(f"- {one}" for one in said(ladder)), ""]
    panels = [wr.LinePlot(title=key, x="Step", y=[key], log_x=True, log_y=True, legend_fields=_LEGEND) for key in keys]
    return Section(title, "\n".join(text), panels, best_alone=True)


def _coordinates(study: Study, group: GroupFit, logged: Sequence[str]) -> list[str]:
    """Of the weights of the last block, and of those outside of blocks: matrices, whose updates are compared."""
    weights = _first(study, group).weights()
    matrices = {name: entry for name, entry in weights.items() if entry["role"] in ("input", "hidden", "output")}
    last: dict[Any, str] = {}
    for name, entry in matrices.items():
        last[entry["group"]] = name  # of blocks the last one's
    return [
        f"{quantity}/{name}" for quantity in _COORDINATES for name in last.values() if f"{quantity}/{name}" in logged
    ]


def _first(study: Study, group: GroupFit) -> Any:
    rows = study.runs
    for key, value in group.key.items():
        rows = rows[rows[key] == value]
    completed = rows[rows["status"] == "completed"]
    return study.directory(str((completed if len(completed) else rows)["run"].iloc[0]))


def _logged(study: Study, group: GroupFit) -> list[str]:
    """What a run of the family recorded and was ever other than 0, as what reaches an embedding from before never
    is."""
    return list({key: None for record in _first(study, group).records() for key, value in record.items() if value})


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


# ---------------------------------------------------------------------------------------------------------------------
# In W&B


def save(made: Dashboard, before: Mapping[str, str], say: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Send workspaces and report; names and URLs of each that is there. Those at the URLs of `before` are written anew;
    `say` is told where one of them has gone."""
    wr, ws, _ = modules()
    for one in (*made.workspaces, made.report):
        is_report = one is made.report
        name = one.title if is_report else one.name
        known = _at(wr.Report if is_report else ws.Workspace, before[name], say) if name in before else None
        if known is not None:
            for key in ("description", "blocks") if is_report else ("sections", "settings", "runset_settings"):
                setattr(known, key, getattr(one, key))
            one = known
        one.save()
        yield name, one.url


def _at(kind: Any, url: str, say: Callable[[str], None]) -> Any:
    """None where it was deleted: anything else that goes wrong must not make a second one."""
    try:
        return kind.from_url(url)
    except (ValueError, TypeError) as error:  # of a workspace; of a report, whose client looks into an empty answer
        say(f"{url} is no longer there ({in_a_line(error)}): it is made anew")
        return None
