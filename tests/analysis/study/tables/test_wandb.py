"""W&B's offline folders, as the pinned package writes them, and projects, through a client that is not W&B's."""

import math
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pipeline.analysis.study.tables import wandb_files, wandb_project
from pipeline.analysis.study.tables.table import load_tables
from pipeline.errors import RequestError
from tests.support.foreign_table import LRS, ask, runs

SWEEP = """
import math, sys, wandb
from tests.support.foreign_table import runs
for row in runs(levels=(64, 128), lrs={lrs}).to_dict("records"):
    config = {{"model": {{"d_model": int(row["width"])}}, "lr": row["lr"], "seed": 0, "layers": [1, 2], "note": "x" * 40000}}
    with wandb.init(mode="offline", project="sweep", config=config, dir=sys.argv[1]) as run:
        for step in range(3):
            run.log({{"val": {{"loss": row["loss"] + 2 - step}}, "lr": row["lr"] * (3 - step)}})
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A folder with `wandb/` of six runs; two of them diverged."""
    folder = tmp_path_factory.mktemp("offline")
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    code = SWEEP.format(lrs=list(LRS[1:4]))
    subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=True, capture_output=True)
    return folder


def test_an_offline_folder_is_a_table(sweep):
    want = runs(levels=(64, 128), lrs=LRS[1:4]).sort_values(["width", "lr"])
    for folder in (sweep, sweep / "wandb"):
        table = load_tables([str(folder)], ask())
        assert table.folder.name.endswith("-fit")
        assert table.runs["width"].tolist() == want["width"].tolist()
        assert table.runs["lr"].tolist() == want["lr"].tolist()  # as set, not as it was logged last
        assert table.runs["final_loss"].tolist() == pytest.approx(want["loss"].tolist(), nan_ok=True)
        assert (table.runs["status"] == "diverged").sum() == want["loss"].isna().sum() > 0
        assert "width is model.d_model, loss is val.loss" in " ".join(table.notes)
        assert "Warning" not in " ".join(table.notes)


def test_runs_one_by_one_are_the_same(sweep):
    folders = [str(folder) for folder in sorted((sweep / "wandb").glob("offline-run-*"))]
    assert len(folders) == 6
    table = load_tables(folders, ask())
    assert len(table.runs) == 6
    assert table.folder == sweep / "wandb-fit"


def test_a_run_that_was_killed_is_unfinished_and_a_damaged_one_refused(sweep, tmp_path):
    shutil.copytree(sweep / "wandb", tmp_path / "wandb")
    file = wandb_files.runs_under(tmp_path)[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])  # its last record, which says how it ended
    assert load_tables([str(tmp_path)], ask()).n_unfinished == 1
    file.write_bytes(whole[:100] + b"x" + whole[101:])
    with pytest.raises(RequestError, match=r"run-.*\.wandb cannot be read as a run of W&B: its checksum is wrong"):
        load_tables([str(tmp_path)], ask())
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(RequestError, match="does not begin like one"):
        load_tables([str(tmp_path)], ask())


class Client:
    """As much of W&B's as is used."""

    def __init__(self, runs):
        self.found, self.asked = runs, None

    def runs(self, path, **options):
        self.asked = (path, options["filters"])
        return iter(self.found)


def project(monkeypatch, frame):
    found = [
        SimpleNamespace(
            name=f"run-{place}",
            state="finished",
            config={"d_model": row["width"], "learning_rate": row["lr"], "_wandb": {}},
            summary={"eval/loss": "NaN" if math.isnan(row["loss"]) else row["loss"], "lr": 0.0, "_step": 3},
        )
        for place, row in enumerate(frame.to_dict("records"))
    ]
    client = Client(found)
    monkeypatch.setattr(wandb_project, "connect", lambda: client)
    return client


def test_a_project_with_filters(monkeypatch):
    client = project(monkeypatch, runs())
    table = load_tables(["wandb:me/sweep?state=finished&tag=x"], ask())
    assert client.asked == ("me/sweep", {"$and": [{"state": "finished"}, {"tags": "x"}]})
    assert len(table.runs) == 36
    assert (table.runs["status"] == "diverged").sum() == runs()["loss"].isna().sum()
    assert str(table.folder) == "wandb-sweep-fit"
    assert "lr is learning_rate" in " ".join(table.notes)  # the one that was set


def test_runs_of_a_project_that_did_not_end_or_never_logged(monkeypatch):
    client = project(monkeypatch, runs())
    client.found[0].state = "running"
    client.found[1].state = "crashed"
    client.found[2].summary = {}
    table = load_tables(["wandb:me/sweep"], ask())
    assert (table.n_unfinished, table.n_failed, len(table.runs)) == (1, 1, 33)
    assert "1 row of wandb:me/sweep without a loss" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("wandb:sweep", "expected wandb:entity/project"),
        ("wandb:me/sweep?stat=x", "no filter 'stat': did you mean state?"),
        ("wandb:me/empty", "holds no runs"),
    ],
)
def test_projects_that_are_wrong(monkeypatch, source, says):
    monkeypatch.setattr(wandb_project, "connect", lambda: Client([]))
    with pytest.raises(RequestError) as caught:
        load_tables([source], ask())
    assert says in str(caught.value).replace("\n", " ")


def test_what_the_client_complains_of_is_one_line(monkeypatch):
    def complain():
        raise ConnectionError("no such project\nand much more")

    monkeypatch.setattr(wandb_project, "connect", complain)
    with pytest.raises(
        RequestError, match=r"^wandb:me/sweep: W&B does not give its runs \(ConnectionError: no such project\)$"
    ):
        load_tables(["wandb:me/sweep"], ask())


def test_without_a_network_it_says_so_within_seconds():
    code = "from pipeline.cli.main import main; raise SystemExit(main(['fit', 'wandb:me/sweep']))"
    environment = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "x" * 40}
    environment |= {"WANDB_MODE": "online", "no_proxy": "127.0.0.1"}
    start = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "W&B at http://127.0.0.1:9 cannot be reached" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert time.monotonic() - start < 60  # of which most is Python's start on a busy machine
