"""The sbatch commands of a study. Values reach the job scripts as arguments, never as text that a shell reads."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.recipes import shipped_folder
from pipeline.sweep.launch.slurm.profile import Profile
from pipeline.sweep.launch.slurm.submissions import Submission
from pipeline.sweep.launch.slurm.time_limit import TimeLimit

REPORT_MINUTES = 60


def slurm_folder(study: Path) -> Path:
    """Where a study keeps what belongs to SLURM: configs/, manifests/, logs/, submissions.jsonl."""
    return study / "slurm"


def job_name(study: Path, number: int, what: str) -> str:
    """Unique over studies and submissions, and known before sbatch is called."""
    return f"{study.name}-{hashlib.sha256(str(study).encode()).hexdigest()[:6]}-{number + 1}-{what}"


def script_path(name: str) -> Path:
    return shipped_folder("slurm") / name


def array_argv(
    study: Path, name: str, manifest: Path, runs: tuple[RunConfig, ...], profile: Profile, limit: TimeLimit
) -> tuple[str, ...]:
    run = runs[0]
    throttle = f"%{profile.throttle}" if profile.throttle else ""
    options = {
        "array": f"0-{len(runs) - 1}{throttle}",
        "time": str(limit),
        "signal": f"B:USR1@{profile.signal_seconds}",
        "nodes": str(run.num_nodes),
        "ntasks-per-node": str(run.devices),
        "cpus-per-task": str(profile.cpus_per_device),
        "mem": _memory(profile, run.devices),
        "gres": profile.gres and f"{profile.gres}:{run.devices}",
        "constraint": profile.constraint,
        **_account(profile),
    }
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None} | dict(profile.options)
    command = [*_preparation("train_array.sbatch", profile), "--", str(manifest)]
    return (*_sbatch(study, name, "%A_%a.log"), *_flags(given), *command)


def report_job(study: Path, profile: Profile, after: list[str], number: int, again: Path | None) -> Submission:
    """The job that follows `after`; `again`: the settings of an adaptive sweep, of which it starts the next round."""
    options = {
        "dependency": f"afterany:{':'.join(after)}",
        "time": str(TimeLimit(min(REPORT_MINUTES, profile.max_minutes), "")),
        "ntasks": "1",
        **_account(profile),
    }
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None} | dict(profile.report)
    name = job_name(study, number, "report")
    command = [*_preparation("report.sbatch", profile), "--", str(study), *([str(again)] if again else [])]
    return Submission(name, "report", (), None, (*_sbatch(study, name, "report-%j.log"), *_flags(given), *command))


def _sbatch(study: Path, name: str, log: str) -> list[str]:
    logs = str(slurm_folder(study) / "logs").replace("%", "%%")
    # the environment and the folder of who submits: caches, tokens, relative paths
    here = ["--export=ALL", f"--chdir={Path.cwd()}"]
    return ["sbatch", "--parsable", f"--job-name={name}", f"--output={logs}/{log}", *here]


def _account(profile: Profile) -> dict[str, str | None]:
    return {key: getattr(profile, key) for key in ("partition", "account", "qos")}


def _flags(options: Mapping[str, Any]) -> list[str]:
    return [f"--{key}" if value is None else f"--{key}={value}" for key, value in options.items()]


def _memory(profile: Profile, devices: int) -> str | None:
    """Of a node, as sbatch counts it."""
    if profile.memory_per_device is None:
        return profile.memory_per_node
    return f"{int(profile.memory_per_device[:-1]) * devices}{profile.memory_per_device[-1]}"


def _preparation(script: str, profile: Profile) -> list[str]:
    """A job script with the arguments that `slurm/environment.sh` reads."""
    words = [str(script_path(script)), str(script_path("environment.sh")), "--python", profile.python]
    if script == "train_array.sbatch":
        words += ["--max_requeues", str(profile.max_requeues)]
    words += [word for module in profile.modules for word in ("--module", module)]
    words += ["--setup", profile.setup] if profile.setup else []
    return words + [word for item in profile.environment.items() for word in ("--env", f"{item[0]}={item[1]}")]
