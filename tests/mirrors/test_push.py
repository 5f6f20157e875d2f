"""`pipeline wandb push` and live runs, by W&B's own client, against a stand-in of its server that dies when asked to."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from pipeline.cli.main import main
from pipeline.config import RunConfig, WandbConfig, run_settings
from pipeline.errors import RequestError
from pipeline.mirrors import push
from pipeline.run.directory import RunDir
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.synthetic_study import valley, write_study
from tests.support.wandb_offline import known
from tests.support.wandb_server import KEY, Run, Server

HASTY = """
import os, sys, time
import pipeline.mirrors.to_wandb as client
client.CONNECT = client.FINISH = float(os.environ["PATIENCE"])
if stalls := int(os.environ.get("STALLS_AT", "0")):
    from pipeline.training.recorder import Recorder
    end = Recorder.on_train_batch_end
    def stall(self, trainer, *arguments):
        end(self, trainer, *arguments)
        if trainer.global_step == stalls:
            time.sleep(600)
    Recorder.on_train_batch_end = stall
from pipeline.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        yield one


def start(server: Server, *argv: object, key: str = KEY, patience: float = 30) -> "subprocess.Popen[str]":
    own = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": key, "WANDB_MODE": "online", "no_proxy": "127.0.0.1"}
    own |= {"PATIENCE": str(patience), "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.2"}
    theirs = ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_SERVICE")  # the latter this process', of offline runs
    environment = {name: value for name, value in os.environ.items() if name not in theirs}
    return subprocess.Popen(
        [sys.executable, "-c", HASTY, *map(str, argv)], env=environment | own, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ask(server: Server, *argv: object, key: str = KEY, patience: float = 30) -> tuple[int, str, str]:
    process = start(server, *argv, key=key, patience=patience)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def require_there(run: RunDir, there: Run, state: str, tags: list[str]) -> None:
    """W&B has what is on disk, every record once."""
    config, records, result = run.config(), run.records(), run.result()
    assert (there.display_name, there.group, there.state) == (run.name, config.study, state)
    assert sorted(there.tags) == sorted(tags)
    settings = {key: one["value"] for key, one in there.config.items() if key != "_wandb"}
    assert settings == {key: value for key, value in run_settings(config).items() if key != "wandb"}
    logged = [{k: v for k, v in line.items() if k not in ("_runtime", "_timestamp")} for line in there.history]
    assert [known(line) for line in logged] == [known({**r, "_step": r["step"]}, "step") for r in records]
    ended = {"status": "failed"} if result is None else result.to_json()
    assert known({key: there.summary.get(key) for key in ended}) == known(ended)


@pytest.mark.slow
def test_a_push_that_is_cut_and_repeated_sends_each_record_once(
    tiny: RunConfig, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of runs that were trained without W&B or offline: two that completed, one that diverged, one that failed, and one
    that has not ended. The server dies in the middle of the second one's history, and later the client does."""
    fine, other, lost, failed, going = runs = [
        changed(tiny, seed=0), changed(tiny, seed=1, wandb="offline"),
        changed(tiny, seed=2, optimizer="sgd", weight_decay=0.0, lr=1e30, grad_clip=None), changed(tiny, seed=3),
        changed(tiny, seed=4),
    ]  # fmt: skip
    for config in (fine, other, lost):
        train(config, show_progress=False)
    with monkeypatch.context() as broken:
        broken.setattr(Recorder, "on_train_end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(failed, show_progress=False)
    RunDir(going.run_dir).create(going, "text")
    push = ("wandb", "push", fine.study_dir, "--tags", "late")

    server.hang_up_after = 17
    code, output, _ = ask(server, *push, patience=3)
    assert code == 1
    assert "W&B lacks 4 runs; the same command sends what is missing" in output
    assert server.sent == 17
    assert sorted(len(run.history) for run in server.runs.values()) == [5, 12]

    server.hang_up_after = 20
    process = start(server, *push)
    while not server.gone:
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.communicate()

    server.hang_up_after = None
    code, output, errors = ask(server, *push)
    assert (code, errors) == (0, ""), output
    assert f"left out: {going.run_name}: unfinished" in output
    assert output.splitlines()[-1].startswith("3 runs sent, 1 there before: http")
    directories = {f"tests-{config.run_name}": RunDir(config.run_dir) for config in runs[:4]}
    assert server.runs.keys() == directories.keys()
    for config, state, tags in zip(
        runs, ("finished", "finished", "finished", "failed"), ([], [], ["diverged"], []), strict=False
    ):
        run = RunDir(config.run_dir)
        require_there(run, server.runs[f"tests-{config.run_name}"], state, ["late", *tags])
    assert server.sent == sum(len(run.records()) for run in directories.values())  # no line came twice

    server.asked.clear()
    code, output, errors = ask(server, *push, "--json")
    assert (code, errors) == (0, "")
    said = json.loads(output)
    assert (said["sent"], len(said["there"]), said["left_out"]) == ([], 4, {going.run_name: "unfinished"})
    assert "UpsertBucket" not in server.asked

    train(failed, show_progress=False)  # tried again, it is well
    code, output, errors = ask(server, *push)
    assert (code, errors) == (0, "")
    require_there(RunDir(failed.run_dir), server.runs[f"tests-{failed.run_name}"], "finished", ["late"])


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_is_one_run(
    tiny: RunConfig, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(tiny, steps=60, wandb="online", val_interval=100, checkpoint_interval=20)
    recipe = tmp_path / "run.yaml"
    recipe.write_text(yaml.safe_dump(run_settings(config)))
    argv = ("train", "--config", recipe, "--wandb.project", "mine", "--wandb.tags", "live")
    monkeypatch.setenv("STALLS_AT", "50")
    process = start(server, *argv)
    while server.sent < 45:  # beyond the last checkpoint, from which it goes on
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.communicate()
    monkeypatch.delenv("STALLS_AT")
    code, _, errors = ask(server, *argv)
    assert (code, errors) == (0, "")
    (there,) = server.runs.values()
    assert there.project == "mine"
    assert len(RunDir(config.run_dir).starts_file.read_text().splitlines()) == 2
    steps = [line["_step"] for line in there.history]
    assert steps == list(range(1, 61))
    result = RunDir(config.run_dir).result()
    assert result is not None
    assert (there.state, there.tags, there.summary["final_train_loss"]) == (
        "finished",
        ["live"],
        result.final["final_train_loss"],
    )
    code, output, _ = ask(server, "wandb", "push", config.study_dir)
    assert code == 0
    assert "0 runs sent, 1 there before" in output


@pytest.mark.slow
def test_a_key_that_is_refused_is_said_in_a_line(tiny: RunConfig, server: Server) -> None:
    train(tiny, show_progress=False)
    code, output, errors = ask(server, "wandb", "push", tiny.study_dir, key="1" * 40)
    assert (code, output) == (2, "")
    assert errors.startswith("pipeline: error: W&B refuses: ")
    assert len(errors.splitlines()) == 1
    assert not server.runs


def test_wrong_requests(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NETRC", "/nonexistent")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = RunDir(tiny.run_dir)
    run.create(tiny, "text")
    empty = tiny.study_dir / "empty"
    empty.mkdir()
    for argv, says in [
        (["push", str(tiny.study_dir / "nowhere")], "nowhere: no such study folder"),
        (["push", str(run.path)], "is a single run; give its study folder"),
        (["push", str(empty)], "no runs; give a study's folder"),
        (["push", str(tiny.study_dir)], "nobody is logged in at W&B here: run `wandb login`, or set WANDB_API_KEY"),
        (["push", "x", "--project", "me/sweeps"], "--project must be one name"),
        (["push", "x", "--tags", "x" * 65], "--tags: a tag has 1 to 64 characters"),
        (["push"], "the following arguments are required: STUDY"),
        (["pull", "x"], "pipeline wandb pull: choose one of push, dashboard"),
    ]:
        assert main(["wandb", *argv]) == 2, argv
        errors = capfd.readouterr().err
        assert says in errors
        assert len(errors.splitlines()) == 1


class Client:
    """Of a W&B that knows nothing yet."""

    default_entity = "me"
    settings: ClassVar = {"base_url": "https://api.wandb.ai"}

    def flush(self) -> None:
        pass

    def runs(self, *_: Any, **__: Any) -> list[Any]:
        return []


def test_a_run_that_cannot_be_sent_is_said_and_the_next_ones_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path / "quick", valley(-0.5), widths=(64,), lrs=(1e-3, 2e-3))
    tried: list[str] = []

    def fails(run: push.Ended) -> None:
        tried.append(run.name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(push, "client_of_wandb", Client)
    monkeypatch.setattr(push, "_send", fails)
    pushed = push.push(study, WandbConfig(), lambda line: None)
    assert len(tried) == 1
    assert (pushed.sent, pushed.there) == ([], [])
    assert sorted(pushed.incomplete.values()) == ["no route to host", "not sent"]


def test_where_the_runs_cannot_be_asked_for_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_study(tmp_path / "quick", valley(-0.5), widths=(64,), lrs=(1e-3,))

    class Silent(Client):
        def runs(self, *_: Any, **__: Any) -> list[Any]:
            raise ConnectionError("no route to host")

    monkeypatch.setattr(push, "client_of_wandb", Silent)
    monkeypatch.setattr(push, "_send", lambda run: pytest.fail("sent"))
    with pytest.raises(RequestError, match=r"^W&B does not give the runs of me/.* \(no route to host\)$"):
        push.push(study, WandbConfig(), lambda line: None)
