"""The adaptive plan: rounds of runs, each chosen from what the finished ones say, every decision on record.

A sweep that was stopped
first finishes its last round, so that the plan of the next depends on results alone.
"""

import dataclasses
import hashlib
import math
from typing import Any

import pandas as pd

from pipeline.analysis.fit.study_fit import runs_of
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.measure import TRAINING_LOSS
from pipeline.analysis.study.runs import Runs
from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.sweep.adaptive.next_round import next_round
from pipeline.sweep.adaptive.state import Aim, Proposal
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import cost
from pipeline.sweep.plan_file import Budget, append, budget, damaged, recorded
from pipeline.sweep.study import Planned

PER_WIDTH = 6
AUDIT = 0.05  # share of runs that are never aborted, to see that the aborted ones would not have come back
LEAST_PATIENCE, PATIENCE = 20, 0.05  # records above the first loss before a run is aborted; share of all its records


def check(config: SweepConfig) -> None:
    """Raises `RequestError` for what an adaptive sweep cannot do."""
    if config.grid:
        axis = next(iter(config.grid))
        raise RequestError(
            f"--plan adaptive plans over widths and params alone: sweep every value of --grid.{axis} as a --study of "
            "its own"
        )
    if len(set(config.widths)) < 2:
        raise RequestError("--plan adaptive needs two widths at least: an exponent is a slope over --widths")
    if not 0.001 <= config.target_half_width <= 2:
        raise RequestError(f"--target_half_width must be 0.001..2, got {config.target_half_width:g}")
    if (config.target_regret > 0) != (config.at_width > 0):
        raise RequestError("--target_regret and --at_width go together: what a learning rate may cost, and where")
    if config.target_regret < 0 or config.at_width < 0:
        raise RequestError("--target_regret and --at_width must be positive")
    budget(config.budget)
    for param in config.all_params:
        for width in config.widths:
            _run(config, param, Proposal(width, config.all_seeds[0], _start(config), ""))


def plan(config: SweepConfig) -> Planned:
    """The next round. What the last one left unfinished comes first. Writes nothing. Raises `RequestError`."""
    study = config.study_dir
    rounds = [entry for entry in recorded(study) if entry["runs"]]
    if rounds:
        last = tuple(_run_of(config, entry) for entry in rounds[-1]["runs"])
        if any(RunDir(run.run_dir).result() is None for run in last):
            return Planned(last, f"round {len(rounds)}, continued: {rounds[-1]['finding']}", followed=True)
    table = _table(config)
    proposals: list[tuple[str, Proposal]] = []
    findings: list[str] = []
    reached: dict[str, Any] = {}
    for param in config.all_params:
        found = next_round(_runs(table, config, param), _aim(config, param))
        proposals += [(param, proposal) for proposal in found.proposals]
        if found.reached:
            reached[param] = {what: value if math.isfinite(value) else None for what, value in found.reached.items()}
        findings.append(f"{param}: {found.finding}" if len(config.all_params) > 1 else found.finding)
    finding = "; ".join([*findings, *_too_small(config, rounds, proposals)])
    asked = config.target_regret or config.target_half_width
    known = {"reached": reached, "asked": asked, "budget": config.budget}
    left = _left(config, rounds, table)
    if proposals and (left.runs < 1 or left.hours <= 0):
        finding, proposals = f"the budget of {config.budget} is spent; {finding}", []
    proposals = proposals[: int(min(left.runs, len(proposals)))]
    if not proposals:
        end = {"round": len(rounds), "finding": finding, **known, "runs": []}
        return Planned((), finding, end, followed=True)
    chosen = [{"param": param, **dataclasses.asdict(proposal)} for param, proposal in proposals]
    entry = {"round": len(rounds) + 1, "finding": finding, **known, "runs": chosen}
    runs = tuple(_run(config, *pair) for pair in proposals)
    preview = [f"  {param} width {p.width} lr {2**p.x:.3g} seed {p.seed}: {p.why}" for param, p in proposals]
    return Planned(runs, f"round {len(rounds) + 1}: {finding}", entry, followed=True, preview=preview)


def record(config: SweepConfig, planned: Planned) -> None:
    """Add the round to plan.jsonl, before anything of it starts, or the end."""
    if planned.entry is not None:
        append(config.study_dir, planned.entry)


def _table(config: SweepConfig) -> pd.DataFrame:
    """The finished runs of the study with these settings, those of earlier grids included; none yet: no columns."""
    if not any(config.study_dir.glob("*/result.json")):
        return pd.DataFrame()
    try:
        study = load_study([config.study_dir])
    except RequestError as error:
        if "no finished runs" in str(error):
            return pd.DataFrame()
        raise
    return study.runs_like(config)


def _too_small(config: SweepConfig, rounds: list[dict[str, Any]], proposals: list[tuple[str, Proposal]]) -> list[str]:
    """Said before the first run: the scan, then about `PER_WIDTH` runs to open every other width."""
    least = len(proposals) + PER_WIDTH * (len(set(config.widths)) - 1) * len(config.all_params)
    if rounds or budget(config.budget).runs >= least:
        return []
    return [f"a budget of {config.budget} is too small to reach all widths, which takes about {least} runs"]


def _left(config: SweepConfig, rounds: list[dict[str, Any]], table: pd.DataFrame) -> Budget:
    """Runs are those of the rounds, and those in the study's folder where it has more: rounds can be lost."""
    given = budget(config.budget)
    there = sum(not path.parent.name.startswith(".") for path in config.study_dir.glob("*/config.yaml"))
    made = max(there, sum(len(entry["runs"]) for entry in rounds))
    hours = float(table["seconds"].sum()) * config.world_size / 3600 if len(table) else 0.0
    return Budget(given.runs - made, given.hours - hours)


def _start(config: SweepConfig) -> float:
    """First guess of the narrowest width's optimum, octaves: the middle of the learning rates, where there are any."""
    lrs = config.lrs or (config.lr,)
    return (math.log2(min(lrs)) + math.log2(max(lrs))) / 2


def _aim(config: SweepConfig, param: str) -> Aim:
    first = config.all_seeds[0]
    costs = {n: cost(_run(config, param, Proposal(n, first, 0.0, ""))) for n in config.widths}
    return Aim(
        widths=tuple(sorted(config.widths)),
        start=_start(config),
        half_width=config.target_half_width,
        cost=costs.__getitem__,
        first_seed=first,
        regret=config.target_regret,
        at_width=config.at_width,
    )


def _runs(table: pd.DataFrame, config: SweepConfig, param: str) -> Runs:
    if not len(table):
        return Runs.of([], [], [], [])
    mine = table[(table["param"] == param) & (table["optimizer"] == config.optimizer) & (table["loss"] == config.loss)]
    return runs_of(mine[mine["width"].isin(config.widths)], TRAINING_LOSS)


def _run_of(config: SweepConfig, entry: dict[str, Any]) -> RunConfig:
    try:
        return _run(config, entry["param"], Proposal(**{k: entry[k] for k in ("width", "seed", "x", "why")}))
    except (KeyError, TypeError):
        raise damaged(config.study_dir) from None


def _run(config: SweepConfig, param: str, proposal: Proposal) -> RunConfig:
    """The run of a proposal, its learning rate to three digits."""
    lr = float(f"{2**proposal.x:.3g}")
    run = config.run(param=param, width=proposal.width, lr=lr, seed=proposal.seed)
    records = run.last_step // run.log_interval
    patience = max(LEAST_PATIENCE, round(PATIENCE * records))
    audited = int(hashlib.sha256(run.run_name.encode()).hexdigest(), 16) % 1000 < 1000 * AUDIT
    return run if audited else dataclasses.replace(run, abort_after=patience)
