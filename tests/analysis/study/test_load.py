import dataclasses
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.study import cells
from pipeline.analysis.study import table as rows
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.table import CACHE, POINT
from pipeline.errors import RequestError
from tests.support.synthetic_study import BASE, INITIAL_LOSS, valley, write_run, write_study


def two_runs(folder):
    return write_study(folder, valley(-0.5), lrs=(4e-3, 1.6e-1), widths=(64,))


def test_a_row_holds_what_the_run_recorded(tmp_path):
    study = load_study([two_runs(tmp_path)])
    stable, diverged = study.runs.to_dict("records")
    assert stable["run"].startswith("sp-adamw-w64-lr4e-3-s0-")
    assert (stable["param"], stable["width"], stable["base_width"], stable["lr"]) == ("sp", 64, 64, 4e-3)
    assert stable["initial_loss"] == pytest.approx(INITIAL_LOSS)
    assert stable["final_train_loss"] == pytest.approx(5.08)
    assert stable["final_val_loss"] == pytest.approx(5.18)
    assert math.isnan(stable["diverged_at"])
    assert not stable["left_for_good"]
    assert diverged["status"] == "diverged"
    assert diverged["diverged_at"] == 31
    assert math.isnan(diverged["final_train_loss"])


def test_unfinished_and_failed_runs_are_counted_and_left_out(tmp_path):
    two_runs(tmp_path)
    going = write_run(tmp_path, dataclasses.replace(BASE, lr=1.0), 5.0)
    (going / "result.json").unlink()
    write_run(tmp_path, dataclasses.replace(BASE, lr=2.0), 4.0, status="failed")
    (tmp_path / "figures").mkdir()
    (tmp_path / ".plan").mkdir()
    study = load_study([tmp_path])
    assert list(study.runs["lr"]) == [4e-3, 1.6e-1]
    assert (study.n_unfinished, study.n_failed) == (1, 1)


def test_no_finished_runs_says_how_many_are_unfinished(tmp_path):
    (write_run(tmp_path, BASE, 5.0) / "result.json").unlink()
    with pytest.raises(RequestError, match=r"no finished runs \(1 unfinished, 0 failed\)"):
        load_study([tmp_path])


def test_wrong_folders_are_named(tmp_path):
    run = write_run(tmp_path / "runs" / "quick", BASE, 5.0)
    with pytest.raises(RequestError, match="nowhere: no such study folder"):
        load_study([tmp_path / "nowhere"])
    with pytest.raises(RequestError, match="is a single run; give its study folder"):
        load_study([run])
    with pytest.raises(RequestError, match=r"holds studies, not runs; give one of them: .*quick"):
        load_study([tmp_path / "runs"])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", "{"),
        ("result.json", "[]"),
        ("result.json", '{"status": "completed"}'),
        ("metrics.jsonl", ""),
        ("metrics.jsonl", '{"loss": 1.0}\n'),
        ("metrics.jsonl", '{"step": 1, "loss": "low"}\n'),
        ("config.yaml", "width: [\n"),
        ("config.yaml", "width: 100\n"),
    ],
)
def test_an_unreadable_run_is_named_in_one_line(tmp_path, file, content):
    run = write_run(tmp_path, BASE, 5.0)
    (run / file).write_text(content)
    with pytest.raises(RequestError) as caught:
        load_study([tmp_path])
    assert run.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_follows_the_optimizer_keeps_runs_of_one_optimizer_apart(tmp_path):
    write_study(tmp_path, valley(-0.5), widths=(64,), lrs=(4e-3,))
    write_study(tmp_path, valley(-0.5), widths=(64,), lrs=(0.5,), optimizer="sgd", weight_decay=0.0)
    study = load_study([tmp_path])
    assert sorted(study.runs["optimizer"]) == ["adamw", "sgd"]
    assert "weight_decay" not in study.recipe
    assert study.recipe["model.n_layer"] == 2
    assert not set(POINT) & study.recipe.keys()
    assert study.group == ("param", "optimizer", "loss")
    assert study.notes == ()
    write_run(tmp_path, dataclasses.replace(BASE, lr=8e-3, weight_decay=0.01), 5.0)
    study = load_study([tmp_path])
    assert study.group == ("param", "optimizer", "loss", "weight_decay")
    assert sorted(study.runs["weight_decay"]) == ["0", "0.01", "0.1"]


def test_the_same_point_twice_is_refused_naming_both(tmp_path):
    first = write_run(tmp_path / "a", BASE, 5.0)
    again = write_run(tmp_path / "b", BASE, 5.1)
    with pytest.raises(RequestError) as caught:
        load_study([tmp_path / "a", tmp_path / "b"])
    assert str(first) in str(caught.value)
    assert str(again) in str(caught.value)


def test_several_folders_are_one_study(tmp_path):
    write_study(tmp_path / "a", valley(-0.5), widths=(64,))
    write_study(tmp_path / "b", valley(-0.5), widths=(128,))
    study = load_study([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    assert len(study.runs) == 14
    assert study.name == "a + b"


@pytest.mark.parametrize(("warmup_steps", "expected"), [(6, True), (BASE.steps - 3, False)])
def test_leaving_for_good_is_read_off_the_losses_logged_after_warmup(tmp_path, warmup_steps, expected):
    losses = [7.0] * 10 + [9.0] * (BASE.steps - 10)
    write_run(tmp_path, dataclasses.replace(BASE, warmup_steps=warmup_steps), 9.0, losses=losses)
    write_run(tmp_path, dataclasses.replace(BASE, warmup_steps=warmup_steps, lr=1e-4), 5.0)
    assert load_study([tmp_path]).runs["left_for_good"].tolist() == [False, expected]


def table(folder):
    return load_study([folder]).runs


def test_several_processes_read_what_one_does_and_name_what_is_wrong(tmp_path, monkeypatch):
    write_study(tmp_path, valley(-0.5), widths=(64, 128))
    first = table(tmp_path)
    (tmp_path / CACHE).unlink()
    monkeypatch.setattr(rows, "_SHARE", 2)
    pd.testing.assert_frame_equal(load_study([tmp_path], processes=2).runs, first)
    run = tmp_path / first["run"].iloc[-1]
    (run / "result.json").write_text("{")
    (tmp_path / CACHE).unlink()
    with pytest.raises(RequestError, match=f"{run.name}/result.json is damaged"):
        load_study([tmp_path], processes=2)


def test_the_cache_changes_nothing_and_notices_what_changed(tmp_path, monkeypatch):
    two_runs(tmp_path)
    first = table(tmp_path)
    assert (tmp_path / CACHE).is_file()
    with monkeypatch.context() as patched:  # nothing is read again
        patched.setattr(rows, "_row", None)
        pd.testing.assert_frame_equal(table(tmp_path), first)
    stable = tmp_path / first["run"][0]
    result = json.loads((stable / "result.json").read_text())
    (stable / "result.json").write_text(json.dumps(result | {"final_train_loss": 1.25}))
    assert table(tmp_path)["final_train_loss"][0] == 1.25
    write_run(tmp_path, dataclasses.replace(BASE, lr=1e-3, width=64), 5.0)
    assert len(table(tmp_path)) == 3
    shutil.rmtree(stable)
    assert len(table(tmp_path)) == 2
    with monkeypatch.context() as patched:
        patched.setattr(rows, "_row", None)
        assert len(table(tmp_path)) == 2


@pytest.mark.parametrize("content", [b"", b"PAR1 not a table PAR1"])
def test_a_damaged_cache_is_read_past(tmp_path, content):
    two_runs(tmp_path)
    first = table(tmp_path)
    (tmp_path / CACHE).write_bytes(content)
    pd.testing.assert_frame_equal(table(tmp_path), first)


def test_a_folder_that_may_only_be_read_has_no_cache(tmp_path, monkeypatch):
    two_runs(tmp_path)

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(rows, "write_sealed", refuse)
    assert len(table(tmp_path)) == 2
    assert not (tmp_path / CACHE).exists()


def test_a_cache_that_holds_something_else_is_read_past(tmp_path, monkeypatch):
    two_runs(tmp_path)
    table(tmp_path)
    monkeypatch.setattr(rows, "READ", rows.READ + 1)
    monkeypatch.setattr(rows, "_row", lambda run: {"run": run.name, "status": "failed"})
    with pytest.raises(RequestError, match="0 unfinished, 2 failed"):
        load_study([tmp_path])


def grown(monkeypatch, value=False):
    """As if `RunConfig` had gained a setting, with runs that have another value of it than its default."""
    settings, defaults = rows.counted_settings, cells.default_settings
    monkeypatch.setattr(rows, "counted_settings", lambda c: settings(c) | ({"nesterov": value} if value else {}))
    monkeypatch.setattr(cells, "default_settings", lambda: defaults() | {"nesterov": False})


def test_a_study_is_read_after_the_settings_have_grown(tmp_path, monkeypatch):
    two_runs(tmp_path)
    first = table(tmp_path)
    grown(monkeypatch)
    with monkeypatch.context() as patched:  # nor is anything read again
        patched.setattr(rows, "_row", None)
        pd.testing.assert_frame_equal(table(tmp_path), first)
    (tmp_path / first["run"][0] / "result.json").touch()
    pd.testing.assert_frame_equal(table(tmp_path), first)
    grown(monkeypatch, value=True)
    write_run(tmp_path, dataclasses.replace(BASE, lr=1e-3, width=64), 5.0)
    assert table(tmp_path)["nesterov"].tolist() == ["false", "false", "true"]


def on_data(folder, lr, path, fingerprint):
    data = dataclasses.replace(BASE.data, format="text", path=path, name=path.strip("./").partition(".")[0])
    run = write_run(folder, dataclasses.replace(BASE, lr=lr, data=data), 5.0)
    content = (run / "config.yaml").read_text().replace("package: 0.1.0", f"data_fingerprint: {fingerprint}")
    (run / "config.yaml").write_text(content)


def test_the_same_data_may_be_spelled_in_several_ways(tmp_path):
    on_data(tmp_path, 1e-3, "corpus.txt", "aa")
    on_data(tmp_path, 2e-3, "./corpus.txt", "aa")
    assert len(table(tmp_path)) == 2
    on_data(tmp_path, 4e-3, "other.txt", "bb")
    study = load_study([tmp_path])
    assert study.runs["data.name"].tolist() == ["corpus", "corpus", "other"]
    assert study.notes == ("Groups differ in data.path too, beside what they are called by.",)


def test_a_run_without_its_settings_is_said_to_be_left_out(tmp_path):
    two_runs(tmp_path)
    lost = write_run(tmp_path, dataclasses.replace(BASE, lr=1e-3), 5.0)
    (lost / "config.yaml").unlink()
    study = load_study([tmp_path])
    assert len(study.runs) == 2
    assert study.left_out == (f"{lost.name}: its config.yaml is missing",)
    assert study.notes == (f"Left out: {lost.name}: its config.yaml is missing.",)


def test_bits_that_flip_in_the_cache_change_nothing(tmp_path):
    two_runs(tmp_path)
    first, whole = table(tmp_path), (tmp_path / CACHE).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 8 * len(whole), 100).tolist():
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        (tmp_path / CACHE).write_bytes(content)
        pd.testing.assert_frame_equal(table(tmp_path), first)
