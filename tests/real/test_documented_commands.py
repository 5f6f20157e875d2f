"""Every command of the README and of docs/ (and of the READMEs of analysis/, data/ and slurm/) is executed as it stands
there, in the order of the page, in a folder that has what the pages speak of. What is made cheaper, only shown, or not
run is listed by name with the reason; a name in these lists that no page has any more is a failure.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.claims import claims
from pipeline.cli.main import VERBS, main
from tests.support.documents import FENCE, PAGES, ROOT, commands
from tests.support.foreign_table import LRS, runs

SHORT = "--steps 5 --warmup_steps 1 --val_sequences 8 --workers 2"
MINUTES = "trains for minutes: fewer steps and narrower widths"
HOURS = "trains for hours: laptop's recipe over it, fewer steps and narrower widths"
LAPTOP = f"--config gpt-laptop --micro_batch 8 --widths 32,64 --lrs 1e-3,4e-3,1.6e-2 {SHORT}"

CHEAPER = {
    "pipeline train --width 1024 --param sp --lr 3e-3": ("--width 64 --steps 5 --warmup_steps 1", MINUTES),
    "pipeline sweep --widths 64,128,256 --params sp,mup --lrs 2^-10:2^-4:x2 --study mine": (
        f"--widths 32,64 --lrs 2^-8:2^-4:x4 {SHORT}", MINUTES,
    ),
    "pipeline sweep --config pythia-adamw --study fig5 --micro_batch 64": (LAPTOP, HOURS),
    "pipeline train --config pythia-adamw --width 1024 --lr 3e-3 --micro_batch 64": (
        "--config gpt-laptop --micro_batch 8 --width 64 --steps 5 --warmup_steps 1", HOURS,
    ),
    "pipeline sweep --config mlp-digits --grid.n_layer 2,4,8 --grid.mult.hidden_lr 0.5,1,2 --study depths": (
        f"--grid.n_layer 2,4 --grid.mult.hidden_lr 1,2 --widths 32 --lrs 1e-3,1e-2,1e-1 {SHORT}", MINUTES,
    ),
    "pipeline sweep --config mlp-digits --widths 64,128,256 --lrs 2^-8:2^-2:x2 --schedule wsd --lr_min_ratio 0 "
    "--grid.steps 200,800,3200 --study horizons": (
        "--widths 32 --lrs 2^-8:2^-2:x8 --grid.steps 20,40 --warmup_steps 2 --workers 2", MINUTES,
    ),
    "pipeline coordcheck --widths 64,128,256 --params sp,mup --lr 1e-3 --steps 5": ("--widths 32,64 --seeds 0 --workers 2", MINUTES),
    "pipeline coordcheck --config mlp-digits --widths 128,256,512,1024 --lr 1e-4 --lr_exponent -1/2": (
        "--widths 32,64 --seeds 0 --workers 2", MINUTES,
    ),
    "pipeline coordcheck --widths 64,128,256 --lr 1e-3": ("--widths 32,64 --seeds 0 --steps 2 --workers 2", MINUTES),
    "pipeline train --config mlp-digits": ("--width 64 --steps 5 --warmup_steps 1", MINUTES),
    "pipeline train --config mlp-digits --data table.npz": ("--width 64 --steps 5 --warmup_steps 1", MINUTES),
    "pipeline audit mymodel:build --widths 128,256,512 --expect mup": ("--widths 64,128 --steps 1 --seeds 1", MINUTES),
    "pipeline audit mymodel:build --widths 128,256,512": ("--widths 64,128 --steps 1 --seeds 1", MINUTES),
    "python analysis/figure.py train F.14": (f"-- --widths 32,64 --seeds 0 --lrs 0.1,1,10 {SHORT}", MINUTES),
    "pipeline sweep --config mlp-multi-index-published": (
        f"--widths 32,64 --seeds 0 --lrs 0.1,1,10 {SHORT}", MINUTES,
    ),
}  # fmt: skip
"""Commands with the flags that go over theirs, and why."""

_RUN = {*CHEAPER, "python analysis/linear_model.py"}
PLANNED = {
    **{one.command: "minutes, of a claim that is measured" for one in claims() if one.command not in _RUN},
    "pipeline sweep --config pythia-adamw --plan adaptive --widths 256,512,1024,2048 --target_half_width 0.05 "
    "--budget 2000h --study fig5": "a budget of hours",
    "pipeline train --width 4096 --devices 8 --strategy fsdp --micro_batch auto": "8 devices",
    "pipeline sweep --config mlp-muon --study muon": "minutes",
    "pipeline sweep --config gpt-depths --study depths": "minutes",
    "pipeline sweep --config mlp-decay --study decay": "minutes",
    "pipeline train --config mlp-fashion-mnist --width 256 --lr 0.1": "Fashion-MNIST, from network or Debian's package",
    "pipeline sweep --config mlp-fashion-mnist --widths 64,256,1024 --seeds 0,1": "the same",
    "pipeline sweep --config mlp-digits --model.n_layer 4 --base_width 48 --diagnostics.interval 1000000 --study calibration "
    "--params sp,mup --widths 32,128,512 --lrs 2^-5:2^0:x2 --seeds 0,1,2,3": "minutes",
    "pipeline sweep --config mlp-multi-index --base_width 64 --diagnostics.interval 1000000 --params sp,mup "
    "--widths 32,128,512 --lrs 2^-2:2^3:x2 --seeds 0,1,2 --study calibration-multi-index": "minutes",
    "pipeline sweep --config quick --params sp --schedule constant --steps 960 --warmup_steps 20 --global_batch 8 "
    "--seq_len 32 --model.vocab_size 512 --val_interval 60 --val_sequences 128 --log_interval 20 --study length "
    "--seeds 0,1 --widths 256 --lrs 2^-11:2^-7:x2": "minutes",
    **{
        "pipeline sweep --config quick --params sp --schedule constant --steps 480 --warmup_steps 20 --global_batch 8 "
        "--seq_len 32 --model.vocab_size 512 --val_interval 60 --val_sequences 128 --log_interval 20 "
        f"--study {study} --seeds 0,1,2 --widths 256 --lrs 2^-11:2^-7:x2": "minutes"
        for study in ("batch-8", "decay --grid.weight_decay 0,1")
    },
    "pipeline sweep --config quick --params sp_transition,mup,sp --schedule constant --steps 150 --warmup_steps 15 "
    "--global_batch 8 --seq_len 32 --model.n_layer 2 --model.vocab_size 288 --base_width 64 --val_sequences 128 "
    "--widths 32,64,128,256,512 --lrs 2^-10:2^-4:x2 --seeds 0 --study transition": "minutes",
    "python analysis/figure.py train F.14 --size full": "hours",
    "python analysis/figure.py train F.2 --size full -- --launcher slurm --profile mysite --micro_batch 64": "a cluster",
}
"""Commands that are run with ``--dry_run``, and what they would take."""

NOT_RUN = {
    "pipeline data prepare dclm --tokens 1.4B": "the network",
    "pipeline data prepare dclm": "the network",
    "pipeline data prepare mnist": "the network",
    "pipeline data verify dclm --tokens 1.4B": "the network: what it reads is fetched before",
    "pipeline train --data dclm --data.mode stream ...": "the network",
    "pipeline sweep --config pythia-adamw --study fig5 --launcher slurm --profile mysite": "a cluster",
    "pipeline wandb push runs/STUDY": "a login at W&B; tests/mirrors/test_push.py has a stand-in of its server",
    "pipeline wandb dashboard runs/STUDY": "a login at W&B; with --out FILE.json it is run",
    "python -m benchmarks.gpu --out DIR": "a GPU",
    "python -m benchmarks.regret": "measures for an hour; tests/benchmarks has its parts",
    "python -m benchmarks.estimators": "measures for an hour; tests/benchmarks has its parts",
    "python -m benchmarks.kinds": "measures for an hour; tests/benchmarks has its parts",
    **{
        f"python -m benchmarks.real train --out runs/real --phase {phase} --only noisy-sgd noisy-adam linear-sgd "
        "residual-adam digits-momentum cosine-adamw normed-mse fixed-first": "trains for hours; tests/benchmarks has its parts"
        for phase in ("fit", "target")
    },
    "python -m analysis.base_width runs/real/fit/* runs/real/target/* --out analysis/questions --name base-width": (
        "needs these runs; tests/analysis has its parts"
    ),
    "python -m analysis.calibration runs/calibration --metric val --out analysis/questions": (
        "needs these runs; tests/analysis has its parts"
    ),
    "python -m analysis.horizons runs/length --steps 60,120,240,480,960 --out analysis/questions --name training-length": (
        "needs these runs; tests/analysis has its parts"
    ),
    "python -m analysis.horizons runs/batch-8 --steps 60,120,240,480 --out analysis/questions --name batch-8": (
        "needs these runs; tests/analysis has its parts"
    ),
    "python analysis/compare.py runs/batch-2 runs/batch-8 runs/batch-32 --what loss --metric val --out DIR": (
        "needs these runs; run on others"
    ),
    "python analysis/measured.py runs/batch-8 runs/decay --metric val --out analysis/questions/weight-decay.csv": (
        "needs these runs; run on others"
    ),
    "python analysis/measured.py runs/transition --metric val --out DIR/transition.csv": "needs these runs; run on others",
    "python analysis/compare.py runs/transition --what loss --metric val --out DIR": "needs these runs; run on others",
    "python -m analysis.horizons runs/STUDY --steps 120,240 --out DIR": "a study with validations there; tests/analysis has it",
    "python -m analysis.base_width runs/STUDY --out DIR": "a study of many widths and seeds; tests/analysis has it",
    "python -m analysis.calibration runs/STUDY --metric val --out DIR": "a study with diagnostics; tests/analysis has it",
    "python -m analysis.reproduce --studies 12": "trains for an hour; tests/analysis has its parts",
    "pipeline data prepare": "a verb's name",
    "python analysis/figure.py train": "a verb's name",
}  # fmt: skip
"""Commands that are not run, and what they need."""

FAILS = {
    "pipeline audit mymodel:build --widths 128,256,512 --expect mup": "not mup: 16 of 21 tensors depart",
}  # fmt: skip
"""Commands that end with 1, as the page says, and what they say."""


def names_a_verb(command: str) -> bool:
    return command.split()[1:] in [[verb] for verb in VERBS if verb != "ls"]


def test_the_lists_are_exact() -> None:
    every = {command for page in PAGES for command in commands(page)}
    assert not {*CHEAPER, *PLANNED, *NOT_RUN, *FAILS} - every, "documented no more"
    assert len({*CHEAPER, *PLANNED, *NOT_RUN}) == len(CHEAPER) + len(PLANNED) + len(NOT_RUN), "in two lists"
    assert not [command for command in NOT_RUN if names_a_verb(command)]
    assert not {command for command in every if command.startswith("python -m ")} - NOT_RUN.keys(), (
        "modules are not run"
    )


# ---------------------------------------------------------------------------------------------------------------------
# What pages speak of


def vectors(desk: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(desk / "table.npz", x=rng.normal(size=(400, 12)).astype("float32"), y=rng.integers(0, 3, 400))


def tables(desk: Path) -> None:
    """As other people write them, along the width and along tokens too."""
    many = [
        runs(width="d_model", lr="peak_lr", loss="val/loss").assign(optimizer="adamw", param="sp", tokens=tokens)
        for tokens in (10**9, 4 * 10**9)
    ]
    pd.concat(many).to_csv(desk / "runs.csv", index=False)
    (desk / "DIR").mkdir()
    runs(width="n").assign(axis="ladder").to_csv(desk / "DIR" / "ladder.csv", index=False)


WANDB = """
import wandb
from tests.support.foreign_table import runs
for row in runs(levels=(1e9, 4e9), lrs={lrs}).to_dict("records"):
    config = {{"tokens": int(row["width"]), "lr": row["lr"]}}
    with wandb.init(mode="offline", project="sweep", config=config) as run:
        run.log({{"val": {{"loss": row["loss"]}}}})
"""


def wandb(desk: Path) -> None:
    """A folder of offline runs."""
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": str(ROOT)}
    code = WANDB.format(lrs=list(LRS[1:4]))
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=desk, check=True, capture_output=True)


def module(desk: Path) -> None:
    """The model of the page about the audit."""
    snippets = FENCE.findall((ROOT / "docs" / "audit.md").read_text())
    (model,) = [body for _, body in snippets if body.startswith("# mymodel.py")]
    (desk / "mymodel.py").write_text(model)


def studies(desk: Path) -> None:
    """The cheapest study of GPTs that recorded its inside, and two of classifiers."""
    inside = "--diagnostics.first 2 --diagnostics.spectra true"
    for flags in (
        f"--study STUDY --widths 32,64 --lrs 1e-3,4e-3,1.6e-2 --params sp {inside}",
        "--study A --config mlp-digits --widths 32,64 --lrs 1e-2,1e-1,1 --params sp --seeds 0",
        "--study B --config mlp-digits --widths 32,64 --lrs 1e-2,1e-1,1 --params mup --seeds 0",
    ):
        assert main(["sweep", *f"{flags} {SHORT}".split(), "--out", str(desk / "runs")]) == 0


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for make in (vectors, tables, wandb, module, studies):
        make(tmp_path)
    shutil.copytree(ROOT / "analysis", tmp_path / "analysis")
    shutil.copy(ROOT / "slurm" / "profiles" / "example.yaml", tmp_path / "mysite")
    return tmp_path


# ---------------------------------------------------------------------------------------------------------------------
# Run


def spelled(command: str, desk: Path) -> Iterator[str]:
    """The command with values where it has words for them, what is optional too; of alternatives one after another."""
    run = next((desk / "runs" / "STUDY").glob("sp-*-w64-*"))
    text = re.sub(r"[][]", "", command).replace("STUDY/RUN", f"STUDY/{run.name}").replace("--lr LR", "--lr 4e-3")
    alternatives = re.search(r"\w+(\\\|\w+)+", text)
    for one in alternatives[0].split("\\|") if alternatives else [""]:
        yield text.replace(alternatives[0], one) if alternatives else text


def planned(command: str) -> str:
    before, dashes, after = command.partition(" -- ")
    return f"{before} --dry_run{dashes}{after}"


def typed(command: str) -> int:
    """The exit code."""
    program, *argv = shlex.split(command)
    if program == "pipeline":
        return main(argv)
    script, *argv = argv
    found: int = runpy.run_path(script, run_name="documented")["main"](argv)
    return found


@pytest.mark.slow
def test_every_command_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an earlier page had too is not run twice."""
    for command in dict.fromkeys(command for page in PAGES for command in commands(page)):
        if names_a_verb(command) or command in NOT_RUN:
            continue
        asked = planned(command) if command in PLANNED else f"{command} {CHEAPER.get(command, ('',))[0]}".strip()
        for one in spelled(asked, desk):
            capsys.readouterr()
            try:
                code = typed(one)
            except SystemExit as stop:  # of help
                code = int(stop.code or 0)
            out, err = capsys.readouterr()
            wanted = FAILS.get(command)
            assert code == (1 if wanted else 0), f"{one}\n{out[-2000:]}\n{err[-2000:]}"
            assert out.strip(), one
            assert wanted is None or wanted in out
            assert not re.search(r"Traceback|Warning|error:", err), f"{one}\n{err}"
