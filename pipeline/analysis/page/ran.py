"""What ran: runs, dates, machines, versions, hours and FLOPs of a study, and how to repeat it; as pairs of words."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.analysis.fit.study_fit import StudyFit
from pipeline.analysis.page import words
from pipeline.analysis.study.load import Study
from pipeline.console import plural
from pipeline.errors import RequestError

PER_PARAMETER = 6
"""FLOPs of a parameter and a token, forward and backward."""


def pairs(fit: StudyFit) -> list[tuple[str, str]]:
    """Of what is known; a table of other people's runs has its source alone."""
    study = fit.study
    runs, ended = study.runs, Counter(study.runs["status"])
    states = ", ".join(f"{count} {state}" for state, count in ended.most_common())
    more = [f"{study.n_failed} failed"] * bool(study.n_failed) + [f"{study.n_unfinished} without a result"] * bool(
        study.n_unfinished
    )
    found = [("Runs", ", ".join([f"{len(runs)} used ({states})", *more]))]
    if isinstance(study, Study):
        found += _of_study(study)
    return [*found, ("Data" if isinstance(study, Study) else "Source", study.about)]


def _of_study(study: Study) -> Iterator[tuple[str, str]]:
    runs, starts = study.runs, list(_starts(study))
    folders = " ".join(_folder(study, place) for place in range(len(study.dirs)))
    yield "This page again", f"pipeline report {folders}"
    first = study.directory(str(runs["run"].iloc[0]))
    yield "A run again", f"pipeline train --config {_folder(study, 0)}/{first.name}/config.yaml"
    if starts:
        times = sorted(str(start["time"]) for start in starts)
        ends = [time[:16].replace("T", " ") for time in (times[0], times[-1])]
        yield "Started", f"{ends[0]} to {ends[1]} UTC" if ends[0] != ends[1] else f"{ends[0]} UTC"
        config = study.config
        devices = plural(config.world_size, "device")
        hosts = plural(len({start["host"] for start in starts}), "machine")
        yield "Hardware", f"{hosts}, {devices} a run, precision {config.precision}"
    counts: dict[str, int] = {}
    for start in starts:
        counts[start["run"]] = int(start.get("processes") or 1)
    hours = sum(s * counts.get(str(run), 1) for run, s in zip(runs["run"], runs["seconds"], strict=True)) / 3600
    yield "Device-hours", f"{hours:.2g} of training"
    flops = PER_PARAMETER * float((runs["parameters"].astype(float) * runs["tokens"]).sum())
    if math.isfinite(flops):
        unit = "token" if study.config.n_classes is None else "example"
        yield "FLOPs", f"about {flops:.1e} ({PER_PARAMETER} per parameter and {unit})".replace("e+", "e")
    try:
        versions = first.recorded().get("versions")
    except RequestError:  # its table row was read before; the page does not end over versions
        versions = None
    if isinstance(versions, dict):
        yield "Versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def _folder(study: Study, place: int) -> str:
    folder = study.dirs[place]
    return f"{folder.parent.name}/{folder.name}" if folder.is_absolute() else str(folder)


def _starts(study: Study) -> Iterator[dict[str, Any]]:
    """Every start of the runs used, with the run's name; what does not read as one is no evidence of when."""
    for run in study.runs["run"]:
        try:
            lines = study.directory(str(run)).starts_file.read_text().splitlines()
        except FileNotFoundError:  # a run from before there were any
            continue
        for line in lines:
            try:
                start = json.loads(line)
            except ValueError:  # torn while it was written
                continue
            if isinstance(start, dict) and {"time", "host"} <= start.keys():
                yield {**start, "run": str(run)}


def meta(fit: StudyFit) -> list[str]:
    """The line under the title: what the answer rests on."""
    study, runs = fit.study, fit.study.runs
    widths = sorted(runs["width"].unique())
    seeds = int(runs["seed"].nunique())
    unit = words.unit(fit) if len({group.unit for group in fit.groups}) == 1 else ""
    return [
        study.axis.many.format(", ".join(map(words.level, widths))),
        f"{runs['lr'].nunique()} learning rates from {words.lr(runs['lr'].min())} to {words.lr(runs['lr'].max())}",
        "one seed" if seeds == 1 else f"{seeds} seeds",
        f"by {fit.measure.name}{unit and f', {unit}'}",
    ]
