"""``wandb:entity/project?state=finished&tag=x`` -> a `Raw` table, a row per run, by W&B's own client."""

import difflib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd

from pipeline.analysis.study.tables.raw import Raw, flat, run_row
from pipeline.errors import RequestError
from pipeline.mirrors.service import connect

PREFIX = "wandb:"

FILTERS = {
    "state": "state", "tag": "tags", "group": "group", "name": "display_name", "job_type": "jobType", "sweep": "sweep"
}  # fmt: skip
"""What may stand behind the question mark, and W&B's name for it; and ``config.KEY``."""


def is_project(source: str) -> bool:
    return source.startswith(PREFIX)


def read(source: str) -> Raw:
    """A row per run, as `wandb_files.read` has it. Raises `RequestError` for a project that is misspelled, missing or
    out of reach."""
    path, filters = parse(source)
    try:
        runs = list(connect().runs(path, filters=filters, lazy=False, per_page=500))
    except RequestError as error:
        raise RequestError(f"{error}; a W&B folder or an exported CSV works offline") from None
    except Exception as error:  # the client raises errors of its own and of the packages that it is built on
        first = (str(error).splitlines() or [""])[0]
        raise RequestError(f"{source}: W&B does not give its runs ({type(error).__name__}: {first})") from None
    rows, settings = [], set()
    for run in runs:
        config, summary = dict(run.config), _plain(run.summary)
        rows.append(run_row(config, summary, str(run.state)))
        settings |= {key for key in flat(config) if not key.startswith("_")}
    folder = Path(f"wandb-{path.rpartition('/')[2]}-fit")
    names = tuple(str(run.name) for run in runs)
    return Raw(source, folder, pd.DataFrame(rows), "run", frozenset(settings), names)


def parse(source: str) -> tuple[str, dict[str, Any]]:
    """Path and filters (MongoDB's, as W&B takes them) of a project's name. Raises `RequestError`."""
    path, _, query = source.removeprefix(PREFIX).partition("?")
    if path.count("/") != 1 or not all(path.split("/")):
        raise RequestError(f"{source}: expected wandb:entity/project, and filters such as ?state=finished&tag=x behind")
    filters: list[dict[str, Any]] = []
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in FILTERS and not key.startswith("config."):
            near = difflib.get_close_matches(key, FILTERS, n=1)
            known = f"did you mean {near[0]}?" if near else f"choose from {', '.join(FILTERS)} and config.KEY"
            raise RequestError(f"{source}: no filter {key!r}: {known}")
        filters.append({FILTERS.get(key, key): value})
    return path, {"$and": filters} if filters else {}


def _plain(summary: Any) -> dict[str, Any]:
    """A run's summary as plain values; the client wraps it."""
    found = getattr(summary, "_json_dict", None)
    return dict(summary) if found is None else dict(found)
