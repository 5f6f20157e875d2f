"""What is in the offline file of a run, by W&B's own tool, held against what the run directory says."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import run_settings
from pipeline.run.directory import RunDir


@dataclass(frozen=True)
class Offline:
    """One offline run."""

    file: Path
    records: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def run(self) -> dict[str, Any]:
        """As it was said last, the config as first."""
        first, *later = self.of("run")
        return {**first, **(later[-1] if later else {}), "config": first["config"]}

    @property
    def history(self) -> list[dict[str, Any]]:
        return [record["item"] for record in self.of("history")]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for record in self.of("summary"):
            found |= record.get("update", {})
        return found

    @property
    def exit_code(self) -> int | None:
        """None: it never ended."""
        codes = [record.get("exit_code", 0) for record in self.of("exit")]
        return codes[-1] if codes else None


def inspected(folder: Path) -> Offline:
    """The only offline run under a run's folder."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent))
    assert wandb is not None
    said = subprocess.run([wandb, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True)
    return Offline(file, [json.loads(line) for line in said.stdout.splitlines()])


def require_mirrored(run: RunDir, code: int = 0, tags: tuple[str, ...] = ()) -> Offline:
    """The offline file says what the run directory says, and nothing else."""
    found, config, records = inspected(run.path), run.config(), run.records()
    place = (found.run["run_id"], found.run["display_name"], found.run["run_group"])
    assert place == (f"{config.study}-{run.name}", run.name, config.study)
    assert found.file.stat().st_size > 1000
    assert found.exit_code == code
    assert sorted(found.run.get("tags", [])) == sorted(tags)
    settings = {key: value for key, value in found.run["config"]["update"].items() if key != "_wandb"}
    assert settings == {key: value for key, value in run_settings(config).items() if key != "wandb"}
    logged = [{key: value for key, value in item.items() if key not in _ITS_OWN} for item in found.history]
    assert [known(item) for item in logged] == [known({**r, "_step": r["step"]}, "step") for r in records]
    result = run.result()
    ended = {"status": "failed"} if result is None else result.to_json()
    assert known({key: found.summary[key] for key in ended}) == known(ended)
    assert found.summary["lr_m"] == config.lr * config.width / config.base_width
    last = known(records[-1], "step", *ended) if records else {}
    assert known({key: found.summary[key] for key in last}) == last
    return found


_ITS_OWN = ("_runtime", "_timestamp")


def known(values: dict[str, Any], *without: str) -> dict[str, Any]:
    """The same with null for what is not finite, as W&B's tool and a run directory spell it each in its own way."""
    return {
        key: None if value == "NaN" or (isinstance(value, float) and not math.isfinite(value)) else value
        for key, value in values.items()
        if key not in without
    }
