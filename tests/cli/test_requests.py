"""What people type: no flag is ignored, obvious meanings are met, and what is wrong ends in one line with exit code 2."""

import functools
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.arguments import parse
from pipeline.cli.main import main
from pipeline.cli.settings_help import GROUPS, lines
from pipeline.config import RunConfig
from pipeline.recipes import keys
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import grid


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "twice.yaml": "width: 64\nwidth: 128\n", "null.yaml": "width: null\n", "model.yaml": "model: null\n",
        "data.yaml": "data: 3\n", "tab.yaml": "\twidth: 64\n", "empty.yaml": "", "list.yaml": "- a\n",
        "both.yaml": "steps: 20\nepochs: 1\n", "range.yaml": "widths: 64:256:x2\nlrs: 2^-6:2^-4:x2\nseeds: [0:1, 7]\n",
        "text.txt": "hello world\n\n" * 300, "x.foo": "hm", "lrs.yaml": "widths: [64]\nlrs: [fast]\n",
    }.items():  # fmt: skip
        Path(name).write_text(text)
    rng = np.random.default_rng(0)
    np.savez("x.npz", x=rng.normal(size=(200, 12)).astype("float32"), y=rng.integers(0, 3, 200))


def swept(*argv: str) -> SweepConfig:
    config = parse("sweep", argv)[0]
    assert isinstance(config, SweepConfig)
    return config


def test_a_flag_of_one_value_is_a_study_of_one() -> None:
    config = swept("--param", "mup", "--width", "512", "--lr", "1e-2", "--seed", "3")
    assert (config.widths, config.lrs, config.all_params, config.all_seeds) == ((512,), (1e-2,), ("mup",), (3,))
    assert [(run.param, run.width, run.lr, run.seed) for run in grid(config)] == [("mup", 512, 1e-2, 3)]
    assert swept("--param", "mup").lrs == swept().lrs


def test_lists_as_people_write_them() -> None:
    for argv in (["64,128"], ["64", "128"], ["64, 128"], ["64;128"], ["[64,128]"], ["64:128:x2"]):
        assert swept("--widths", *argv).widths == (64, 128)
    assert swept("--lrs", "2^-6:2^-4:x2").lrs == swept("--lrs", "1.5625e-2,2^-5,6.25e-2").lrs
    assert swept("--seeds", "0:2").seeds == (0, 1, 2)
    assert swept("--grid.n_layer", "2:8:x2").grid == {"model.n_layer": (2, 4, 8)}
    config = swept("--config", "range.yaml")
    assert (config.widths, config.lrs, config.seeds) == ((64, 128, 256), (2**-6, 2**-5, 2**-4), (0, 1, 7))
    assert parse("train", ["--lr", "2^-8"])[0].lr == 2**-8


def test_a_path_is_read_and_vectors_find_their_model() -> None:
    config = parse("train", ["--data.path", "text.txt"])[0]
    assert (config.data.format, config.data.path, config.data.name) == ("text", "text.txt", "text")
    over_the_hub = parse("train", ["--config", "pythia-adamw", "--data.path", "text.txt"])[0].data
    assert (over_the_hub.repo, over_the_hub.path, over_the_hub.license) == ("", "text.txt", "")
    for argv in (["--data", "x.npz"], ["--data.path", "x.npz"]):
        config = parse("train", argv)[0]
        assert (config.model.kind, config.data.d_in, config.data.n_classes) == ("mlp", 12, 3)
    assert parse("train", ["--model.kind", "mlp"])[0].data.format == "digits"


WRONG = {
    "sweep --width 512 --widths 64,128": "--width and --widths exclude each other: give one of them",
    "sweep --lrs 4:1:x2": "--lrs: 4:1:x2: a range goes from a positive number up to a larger one",
    "sweep --lrs 1e-3..1e-1": "--lrs: expected numbers such as 64,128,256 or 64:1024:x2, got '1e-3..1e-1'",
    "sweep --widths 64:100:4": "--widths: expected numbers such as",
    "sweep --seeds 0-4": "--seeds: expected numbers such as",
    "sweep --widths 64 128 wide": "--widths: expected numbers such as",
    "sweep --config lrs.yaml": "lrs.yaml: lrs: expected numbers such as",
    "sweep --grid.n_layer 0.5:1": "--grid.n_layer: 0.5:1: say how it goes",
    "sweep --grid.width 64,128": "--grid.width: say --widths",
    "sweep --params sp,mpu": "--param: unknown parameterization 'mpu': did you mean 'mup'?",
    "sweep --plan bayes": "--plan: expected grid or adaptive, got 'bayes'",
    "sweep --target_half_width 0.1": "--target_half_width is for --plan adaptive",
    "sweep --at_width 512": "--at_width is for --plan adaptive",
    "sweep --budget 10h": "--budget is for --plan adaptive",
    "sweep --profile x": "--profile describes a cluster: give --launcher slurm with it",
    "sweep --calibrate": "--calibrate goes with --dry_run",
    "sweep staus runs/x": "pipeline sweep staus: expected flags, such as --widths 64,128, or: sweep status STUDY",
    "sweep --workers 0.5": "--workers: expected an integer, got '0.5'",
    "train --config twice.yaml": "twice.yaml cannot be read as YAML: 'width' is given twice (line 2)",
    "train --config null.yaml": "null.yaml: width: expected an integer, got null",
    "train --config model.yaml": "model.yaml: model is a section of settings: expected a mapping, got null",
    "train --config data.yaml": "data.yaml: data is a section of settings: expected a mapping, got '3'",
    "train --config tab.yaml": "tab.yaml cannot be read as YAML",
    "train --config empty.yaml": "empty.yaml: a recipe is a mapping of keys to values",
    "train --config list.yaml": "list.yaml: a recipe is a mapping of keys to values",
    "train --config both.yaml": "steps and both.yaml: epochs exclude each other",
    "train --config quik": "no recipe of that name: did you mean quick?",
    "train --data x.foo": "x.foo: of which kind is a file that ends in .foo?",
    "train --data.path x.foo": "x.foo: of which kind is a file that ends in .foo?",
    "train --data.path none.txt": "none.txt: no such file",
    "train --config quick --data x.npz": "is for --model.kind mlp, not gpt: such as --config mlp-digits",
    "train --config mlp-digits --data text.txt": "is for --model.kind gpt, not mlp: such as --config quick",
    "train --data $NOT_SET_AT_ALL/x.txt": "no variable $NOT_SET_AT_ALL is set",
    "train --data ~/not-there-at-all.txt": "not-there-at-all.txt: no such file",
    "train --lr fast": "--lr: expected a number, got 'fast'",
    "train --lr 3e-3,1e-2": "--lr: expected a number, got '3e-3,1e-2'",
    "train --lr 9^9999": "--lr: expected a number, got '9^9999'",
    "train --width 64.0": "--width: expected an integer, got '64.0'",
    "train --width null": "--width: expected an integer, got 'null'",
    "train width=64": "unrecognized arguments: width=64: say --width 64",
    "train --gpus 8": "did you mean devices?",
    "train --json --dry_run": "--json prints a result, and --dry_run makes none",
    "train --help nothing-says-so": "pipeline train --help nothing-says-so: no setting says so",
    "coordcheck --lrs 1e-3 --widths 64,128": "--lrs is for pipeline sweep",
    "coordcheck --width 64 --widths 64,128": "--width and --widths exclude each other",
    "train --model.name Llama-4": "--model.name: litgpt knows no architecture 'Llama-4': did you mean Llama-3-8B?",
    "train --model.name qwen3-0.6b": "did you mean Qwen3-0.6B?",
    "train --model.name GPT-5": "such as pythia-160m, Llama-3.2-1B or Qwen3-0.6B",
    "train --dry_run=true": "--dry_run: takes no value, got 'true'",
    "train --json=1": "--json=1: --json takes no value",
    "train --betas 0.9": "--betas: expected 2 numbers with a comma, got '0.9'",
    "train --mirrors tensorbord": "--mirrors: expected tensorboard or trackio, got 'tensorbord'",
    "train --devices 3": "--global_batch 8 is not a multiple of the 3 processes that train: use 6 or 9",
    "train --micro_batch 3 --devices 2": "--micro_batch 3 does not divide the 4 sequences of a process",
    "train --param SP": "unknown parameterization 'SP': did you mean 'sp'?",
    "train --data sotoo": "--data sotoo: no such file, and no data recipe of that name: did you mean sotu?",
    "train --config .": "--config .: a folder, not a YAML file, and no recipe of that name",
    "data prepare sotu --tokens lots": "error: --tokens: expected a number such as 1.4B or 300M, got 'lots'",
    "data prepare sotu --vocab_size 10": "error: --vocab_size 10 is too small for a byte-level BPE",
    "data prepare none": "error: none: no such file, and no data recipe of that name",
    "data prepare x.foo": "x.foo: of which kind is a file that ends in .foo?",
    "fit text.txt --json=1": "argument --json: takes no value, got '1'",
    "audit model:build --wdths 64,128": "--wdths: unknown key wdths, did you mean widths?",
    "theory --param foo": "unknown parameterization 'foo'",
    "fit text.txt": "text.txt: tables of runs are files that end in .csv",
    "completion fish": "completion is for bash or zsh, got 'fish'",
    "ls none": "none: no such folder",
}  # fmt: skip


@pytest.mark.parametrize("request_", WRONG)
def test_a_wrong_request_is_one_line(request_: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(request_.split()) == 2
    error = capsys.readouterr().err
    assert WRONG[request_] in error
    assert (error.startswith("pipeline: error: "), error.count("\n")) == (True, 1)
    assert not Path("runs").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Help


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_help_is_a_screen_and_all_of_it_says_everything(verb: str) -> None:
    short = list(lines(verb))  # type: ignore[arg-type]
    assert len(short) <= 48
    assert max(map(len, short)) <= 120
    every = list(lines(verb, "all"))  # type: ignore[arg-type]
    said = {line.split()[0][2:]: below for line, below in itertools.pairwise(every) if line.startswith("  --")}
    wanted = {"grid.KEY" if key == "grid" else key for key in keys(SweepConfig if verb == "sweep" else RunConfig)}
    assert wanted | {"config", "data", "dry_run"} <= said.keys()
    assert all(below.startswith("      ") and len(below.split()) > 1 for below in said.values()), (
        "each has a description"
    )
    assert [line for line in every if line.startswith("  --lr ")] == ["  --lr NUMBER"]
    about = "\n".join(lines(verb, "checkpoint"))  # type: ignore[arg-type]
    assert "--keep_last" in about
    assert "--width " not in about


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_defaults_of_the_help_are_those_of_who_names_no_recipe(verb: str) -> None:
    config = parse(verb, [])[0]  # type: ignore[arg-type]
    said = re.findall(r"^  --(\S+) .*\n(?:      .*\n)*?      .*\[(.*)\]$", "\n".join(lines(verb, "all")), re.MULTILINE)  # type: ignore[arg-type]
    assert len(said) > 60
    for name, default in said:
        value = functools.reduce(getattr, name.split("."), config)
        words = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words = words.lower() if isinstance(value, bool) else words
        assert default in (words, "null"), name  # null: it follows from others
    assert dict(said)["steps"] == "200"


def test_every_setting_of_the_help_exists() -> None:
    assert {name for names in GROUPS.values() for name in names} <= {*keys(SweepConfig), "data", "wandb"}


def test_help_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["help", "train"])
    assert stop.value.code == 0
    assert "usage: pipeline train" in capsys.readouterr().out
    assert main(["help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 24
