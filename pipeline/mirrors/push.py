"""Finished runs -> W&B, from what is on disk: whatever W&B lacks of them, once, however often it is asked for.

It does not matter how they were trained, with W&B online, offline or without it: a run's id follows from study and
run, and what the service already has is not sent again.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, WandbConfig
from pipeline.errors import RequestError, in_a_line
from pipeline.mirrors.service import client_of_wandb
from pipeline.mirrors.to_wandb import Place, WandbMirror
from pipeline.run.directory import RunDir
from pipeline.run.result import FAILED, Record, RunResult
from pipeline.run.study import require_study


@dataclass(frozen=True)
class Ended:
    """A run that has ended, as it is on disk."""

    name: str
    config: RunConfig
    records: Sequence[Record]
    result: RunResult | None
    """None: it failed."""

    @property
    def place(self) -> Place:
        return Place.of(self.config, self.name)

    def is_like(self, there: Any) -> bool:
        """Whether W&B has all of it."""
        found, keys = there.summary_metrics, there.history_keys or {}
        steps = max(found.get("_step") or 0, keys.get("lastStep") or 0)  # the summary's is lost where nothing was added
        last = self.records[-1].step if self.records else 0
        state, status = ("finished", self.result.status) if self.result else ("failed", FAILED)
        return (there.state, found.get("status"), steps) == (state, status, last)


@dataclass
class Pushed:
    """What a push did, by the runs' names."""

    sent: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    """All of which W&B had before."""
    incomplete: dict[str, str] = field(default_factory=dict)
    """What W&B still lacks, and why."""
    left_out: dict[str, str] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)
    """Of the projects."""


def push(study: Path, over: WandbConfig, say: Callable[[str], None]) -> Pushed:
    """Send the runs of a study; `say` is told of each. Project, entity and tags of `over` go before those that the runs
    were trained with.

    Raises `RequestError` for a folder that holds no runs, where nobody is logged in, and where W&B does not answer.
    """
    from wandb.util import api_to_app_url

    pushed = Pushed()
    runs = list(_ended(study, over, pushed.left_out))
    if not runs and not pushed.left_out:
        raise RequestError(f"{study}: no runs; give a study's folder, such as runs/STUDY")
    client = client_of_wandb()
    known = _known(client, runs)
    for run in runs:
        if (there := known.get(run.place.id)) is not None and run.is_like(there):
            pushed.there.append(run.name)
            continue
        say(f"sending {run.name}: {len(run.records)} records")
        try:
            _send(run)
        except Exception as error:  # the client's own, its service's and the network's errors have nothing in common
            pushed.incomplete[run.name] = in_a_line(error)
            break  # the next one would wait as long
        pushed.sent.append(run.name)
    _confirm(client, runs, pushed)
    for run in runs:
        if run.name not in (*pushed.sent, *pushed.there):
            pushed.incomplete.setdefault(run.name, "not sent")
    pushed.urls = [f"{api_to_app_url(client.settings['base_url'])}/{path}" for path in _paths(client, runs)]
    return pushed


def _confirm(client: Any, runs: Sequence[Ended], pushed: Pushed) -> None:
    """Whether W&B has what was sent: its client gives up in silence."""
    sent = [run for run in runs if run.name in pushed.sent]
    try:
        after, why = _known(client, sent) if sent else {}, "W&B has not taken all of it"
    except RequestError as error:
        after, why = {}, str(error)
    for run in sent:
        if not ((there := after.get(run.place.id)) and run.is_like(there)):
            pushed.sent.remove(run.name)
            pushed.incomplete[run.name] = why


def _ended(study: Path, over: WandbConfig, left_out: dict[str, str]) -> Iterator[Ended]:
    """The runs of the folder that have ended; of others says why they are left out. Raises `RequestError`."""
    require_study(study)
    given = {key: value for key, value in dataclasses.asdict(over).items() if key != "mode" and value}
    for path in sorted(path.parent for path in study.glob("[!.]*/config.yaml")):
        run = RunDir(path)
        try:
            config, result, records = run.config(), run.result(), run.records()
            if result is not None:
                run.require_sealed(config, records)
        except RequestError as error:
            left_out[path.name] = str(error)
            continue
        if result is None and run.failure() is None:
            left_out[path.name] = "unfinished"
            continue
        config = dataclasses.replace(config, wandb=dataclasses.replace(config.wandb, **given))
        yield Ended(path.name, config, records, result)


def _known(client: Any, runs: Sequence[Ended]) -> dict[str, Any]:
    """What W&B has of the runs, by their ids. Raises `RequestError`."""
    found: dict[str, Any] = {}
    client.flush()  # else it remembers what was there before
    for path in _paths(client, runs):
        groups = sorted({run.place.group for run in runs})
        try:
            there = client.runs(path, filters={"group": {"$in": groups}}, lazy=False, per_page=200)
            found |= {run.id: run for run in there}
        except ValueError as error:  # there is no such project yet
            if "could not find project" not in str(error).lower():
                raise RequestError(f"W&B does not give the runs of {path} ({in_a_line(error)})") from None
        except Exception as error:  # the client raises errors of its own and of the packages that it is built on
            raise RequestError(f"W&B does not give the runs of {path} ({in_a_line(error)})") from None
    return found


def _paths(client: Any, runs: Sequence[Ended]) -> list[str]:
    """The projects of the runs."""
    return sorted({f"{run.place.entity or client.default_entity}/{run.place.project}" for run in runs})


_QUIET: Mapping[str, Any] = {"x_disable_stats": True, "x_disable_meta": True, "disable_git": True, "save_code": False}
"""What would be said of the machine that sends is nothing about the run."""


def _send(run: Ended) -> None:
    with tempfile.TemporaryDirectory(prefix="pipeline-push-") as folder:
        mirror = WandbMirror(run.config, "online", run.name, Path(folder), **_QUIET)
        mirror.open(run.records)
        if run.result is not None:
            mirror.finish(run.result)
        else:
            mirror.fail()
