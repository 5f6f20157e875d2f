"""The dashboard in W&B: it validates in the models of wandb-workspaces, and all it shows is logged by real training."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis.page import wandb_panels
from pipeline.analysis.page.wandb_panels import dashboard
from pipeline.cli.main import main
from pipeline.config import DiagnosticsConfig, RunConfig
from pipeline.library import asked
from pipeline.run.directory import RunDir
from pipeline.sweep.grid import grid
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.studies import study
from tests.support.wandb_offline import inspected

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two families, with W&B offline and a look inside; the folder."""
    from tests.conftest import tiny as fixture

    tiny: RunConfig = fixture.__wrapped__(text_file, tmp_path_factory.mktemp("dashboard"))  # type: ignore[attr-defined]
    tiny = changed(tiny, diagnostics=DiagnosticsConfig(first=2), wandb="offline", steps=6, checkpoint_interval=6)
    runs = grid(study(tiny, lrs=(1e-3, 1e-2), params=("sp", "mup"), seeds=(0,)))
    for run in runs:
        train(run, show_progress=False)
    return runs[0].study_dir


_ADDED = ',"inlineComments":[]'  # by the models, where text is read back


def keys(part: Any) -> Iterator[str]:
    """What a specification names: ``config:lr.value``, ``summary:diverged``, ``history:loss``."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in ("xAxis", "yAxis", "zAxis") and value not in ("_step", None):
                yield value if ":" in value else f"history:{value}"
            elif name == "metrics" and isinstance(value, list):
                yield from (f"history:{key}" for key in value)
            elif name == "legendFields":
                yield from value
            elif name == "key" and isinstance(value, dict):
                yield f"{value['section']}:{value['name']}"
            elif name == "groupBy" and isinstance(value, str):
                yield f"config:{value}"
            else:
                yield from keys(value)
    elif isinstance(part, list):
        for one in part:
            yield from keys(one)


def test_it_validates_and_every_key_is_logged(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "dashboard.json"
    assert main(["wandb", "dashboard", str(trained), "--out", str(out), "--project", "mine", "--entity", "me"]) == 0
    made = json.loads(out.read_text())
    from wandb_workspaces.reports.v2 import internal as reports
    from wandb_workspaces.workspaces import internal as workspaces

    assert len(made["workspaces"]) == 2
    models = [
        *((workspaces.View, one) for one in made["workspaces"]),
        (reports.ReportViewspec, made["report"]),
    ]
    for model, one in models:
        again = model.model_validate(one).model_dump_json(by_alias=True, exclude_none=True)
        assert json.loads(again.replace(_ADDED, "")) == json.loads(json.dumps(one).replace(_ADDED, ""))
        assert not {"unknown", "UnknownPanel"} & set(json.dumps(again).split('"'))

    named = set(keys(made))
    runs = [inspected(RunDir(path.parent).path) for path in sorted(trained.glob("*/config.yaml"))]
    logged = {f"history:{key}" for run in runs for item in run.history for key in item}
    logged |= {f"summary:{key}" for run in runs for key in run.summary}
    logged |= {f"config:{key}{end}" for run in runs for key in run.run["config"]["update"] for end in ("", ".value")}
    logged |= {"run:group", "run:name", "run:createdAt"}
    assert named <= logged, named - logged
    shown = {"config:lr.value", "summary:lr_sqrt_m", "summary:lr_m", "summary:final_train_loss", "config:width.value"}
    shown |= {"summary:diverged", "history:loss", "history:val_loss", "history:effective/lm_head.weight"}
    shown |= {"history:propagating/transformer.h.1.mlp.proj.weight", "config:param", "run:group"}
    assert shown <= named

    (filters,) = {
        json.dumps(one["filters"])
        for block in made["report"]["spec"]["blocks"]
        for one in block.get("metadata", {}).get("runSets", [])
        if "μP" in one["name"]
    }
    wanted = {item["key"]["name"]: item["value"] for item in json.loads(filters)["filters"]}
    assert wanted["param"] == "mup"
    assert wanted["group"] == trained.name


def test_text_says_the_answer_and_who_trained_best(trained: Path) -> None:
    made = dashboard(asked(str(trained)).fit(), "mine", "")
    text = "\n".join(getattr(block, "text", "") for block in made.report.blocks)
    for part in ("max-stable lr", "| learning rate | exponent |", "Stable seeds of all", "effective updates"):
        assert part in text
    grids = [block for block in made.report.blocks if type(block).__name__ == "PanelGrid"]
    (best,) = {grid.runsets[0].filters for grid in grids[1:2]}
    ids = [name for name in (f"tests-{path.parent.name}" for path in trained.glob("*/config.yaml")) if name in best]
    assert len(ids) == 2  # one of each width


def test_saved_twice_it_is_one(trained: Path) -> None:
    from tests.mirrors.test_push import ask
    from tests.support.wandb_server import Server

    with Server() as server:
        for _ in range(2):
            code, output, errors = ask(server, "wandb", "dashboard", trained)
            assert (code, errors) == (0, ""), errors
            assert len(output.splitlines()) == 3
        names = sorted(view["displayName"] for view in server.views.values())
        assert names == ["tests \xb7 SP \xb7 AdamW", "tests \xb7 \u03bcP \xb7 AdamW", "tests: learning rates by width"]

        server.views.clear()  # somebody deleted them
        code, output, errors = ask(server, "wandb", "dashboard", trained)
        assert (code, errors.count("is no longer there")) == (0, 3), errors
        assert len(server.views) == 3


def test_what_cannot_be_reached_is_not_made_again() -> None:
    class Unreachable:
        @staticmethod
        def from_url(url: str) -> Any:
            raise ConnectionError(url)

    said: list[str] = []
    with pytest.raises(ConnectionError):
        wandb_panels._at(Unreachable, "https://w.b", said.append)
    assert said == []


def test_wrong_requests(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", "/nonexistent")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["wandb", "dashboard", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.json")]) == 2
    assert main(["wandb", "dashboard", str(trained)]) == 2
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "wandb_workspaces.reports.v2", raising=False)
    assert main(["wandb", "dashboard", str(trained), "--out", str(tmp_path / "x.json")]) == 2
    missing, nobody, package = capfd.readouterr().err.splitlines()
    assert "no such study folder" in missing
    assert "nobody is logged in at W&B here" in nobody
    assert "needs the package wandb-workspaces" in package
    assert "pip install 'width-scaling-pipeline[dashboard]'" in package
