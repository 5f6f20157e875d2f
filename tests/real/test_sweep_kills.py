"""A sweep that is killed again and again, the whole of it or one of its workers, and always continued."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis.study.load import load_study
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from tests.support.worker_processes import workers_of

KILLS = int(os.environ.get("PIPELINE_KILLS", "25"))  # 100 were tried, in 18 minutes on two busy cores
STUDY = [
    "--config", "mlp-digits", "--widths", "32,64", "--lrs", "0.01,0.03,0.1", "--seeds", "0,1", "--params", "sp",
    "--base_width", "32", "--steps", "1500", "--warmup_steps", "10", "--val_interval", "500",
    "--checkpoint_interval", "50", "--wandb", "disabled",
]  # fmt: skip


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", "sweep", *STUDY, "--study", "kills", "--out", str(out)]
    with (out.parent / f"{out.name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def curves(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        path.parent.name: [
            {k: v for k, v in r.items() if k != "tokens_per_second"} for r in RunDir(path.parent).records()
        ]
        for path in sorted((out / "kills").glob("*/config.yaml"))
    }


def written(out: Path) -> int:
    """Records so far, finished or torn."""
    return sum(path.read_bytes().count(b"{") for path in (out / "kills").glob("*/metrics.jsonl"))


@pytest.mark.slow
def test_kills_change_nothing(tmp_path: Path) -> None:
    """No run is lost or done twice, no torn record is read as data, and every curve is the undisturbed one."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "runs"
    assert start(undisturbed).wait(timeout=300) == 0
    expected = curves(undisturbed)
    assert len(expected) == 12
    rng, kills, deadline = random.Random(0), 0, time.monotonic() + 1500
    sweep = start(out)
    while kills < KILLS:
        assert time.monotonic() < deadline
        base, more = written(out), rng.randrange(1, 100)
        while sweep.poll() is None and (now := written(out)) < base + more and time.monotonic() < deadline:
            base = min(base, now)  # what is resumed is first cut back
            time.sleep(rng.random() / 20)
        if sweep.poll() is not None:  # out of patience with a run whose workers kept dying
            assert sweep.returncode == 1, f"the study was finished after only {kills} kills"
            sweep = start(out)
            continue
        victims = workers_of(sweep.pid)
        whole = not victims or rng.random() < 0.3
        with contextlib.suppress(ProcessLookupError):
            os.kill(sweep.pid if whole else rng.choice(victims), signal.SIGKILL)
            kills += 1
        if whole:
            assert sweep.wait(timeout=60) == -signal.SIGKILL
            sweep = start(out)
        curves(out)  # whoever reads while others write or die sees whole records
        if kills % 10 == 0:
            with contextlib.suppress(RequestError):  # nothing is finished yet
                load_study([out / "kills"])
    while sweep.wait(timeout=600) != 0:
        sweep = start(out)
    assert curves(out) == expected
    results = [RunDir(out / "kills" / name).result() for name in expected]
    assert [result and result.status for result in results] == ["completed"] * 12
