"""The entries of figures: every one of the paper's is there, can be planned at both sizes and built, and is drawn as it
says; and the script that runs them."""

import ast
import dataclasses
import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis import figure
from pipeline.cli.arguments import parse
from pipeline.cli.coordcheck import request
from pipeline.errors import RequestError
from pipeline.models.build import build
from pipeline.sweep.coordinate_check import plan
from pipeline.sweep.grid import grid
from tests.support.synthetic_study import valley, write_study

ENTRIES = figure.entries()
STUDIES = sorted({study for one in ENTRIES.values() for study in one.studies})
TRAININGS = {
    (command.study, size): command.argv
    for size in figure.SIZES
    for command in (figure.training(study, size, Path("runs")) for study in STUDIES)
}


@functools.cache
def runs(argv):
    """The runs of a command, checked as the verb would check them, without training: of many learning rates and seeds
    those at the ends, since these make no other model."""
    verb, *flags = argv
    if verb == "coordcheck":
        config, exponents, _ = request(flags)
        return list(plan(dataclasses.replace(config, seeds=config.seeds[:1]), exponents))
    config = parse("sweep", flags)[0]
    assert 6 <= len(config.lrs) <= 14
    return grid(dataclasses.replace(config, lrs=(config.lrs[0], config.lrs[-1]), seeds=config.all_seeds[:1]))


def test_every_figure_and_table_of_the_paper_is_there():
    ids = [str(i) for i in range(1, 8)] + [
        f"{letter}.{i}" for letter, last in (("C", 3), ("E", 18), ("F", 40)) for i in range(1, last + 1)
    ]
    assert sorted(ENTRIES) == sorted([*ids, "Table C.1", "Table F.1"])
    assert all(one.draw for one in ENTRIES.values())


def test_nothing_is_trained_that_no_figure_shows():
    named = {study.partition("/")[2] for study in STUDIES}
    over = set(re.findall(r"\{([a-z][\w-]+)\}", str(figure.book()["studies"].values())))
    assert set(figure.book()["studies"]) <= named | over
    assert {study.partition("/")[0] for study in STUDIES} == set(figure.book()["data"])


@pytest.mark.parametrize("size", figure.SIZES)
def test_every_training_can_be_planned_and_its_narrowest_and_widest_built(size):
    one_of_each = {study.partition("/")[2]: study for study in STUDIES}
    several = [study for study in STUDIES if study.endswith("/sgd-ce")]
    for study in dict.fromkeys([*one_of_each.values(), *several]):
        planned = runs(figure.training(study, size, Path("runs")).argv)
        assert len({run.width for run in planned}) > 2, study
        assert {run.study for run in planned} == {figure.name(study, size)}
        sizes = sorted(planned, key=lambda run: (run.width, run.model.n_layer))
        for run in (sizes[0], sizes[-1]):
            with torch.device("meta"):
                model, specs = build(run)
            assert specs.keys() == dict(model.named_parameters()).keys()


def test_laptops_fetch_nothing():
    of_data = {study.partition("/")[0]: study for study in STUDIES}
    data = {
        name: runs(figure.training(study, "laptop", Path("runs")).argv)[0].data.name for name, study in of_data.items()
    }
    assert data.pop("dclm") == "sotu"
    assert data.pop("multi-index") == "multi-index-published"
    assert set(data.values()) == {"digits"}


def test_published_settings():
    def one(study, size="full"):
        return runs(figure.training(study, size, Path("runs")).argv)[0]

    clip, free = one("dclm/sgd-clip"), one("dclm/sgd-no-clip")
    assert (clip.optimizer, clip.grad_clip, clip.weight_decay, clip.global_batch) == ("sgd", 1.0, 0.0, 256)
    assert (free.optimizer, free.grad_clip, free.weight_decay) == ("sgd", 10_000.0, 0.0)
    mse = one("dclm/sgd-softmax-mse")
    assert (mse.loss, mse.micro_batch, mse.grad_clip, mse.optimizer) == ("softmax_mse_sum", 64, 1.0, "sgd")
    assert mse.loss_scale == 64 * 512
    align = one("dclm/sgd-full-align")
    assert (align.param, align.embedding_init, align.model.qk_norm_role) == ("sp_full_align", "neox_always", "vector")
    check = one("dclm/gpt-inside")
    assert (check.steps, check.stop_after, check.warmup_steps, check.lr_min_ratio) == (10_681, 2_001, 700, 0.1)
    assert not one("dclm/adamw-fixed-norms").model.train_norms
    assert not one("dclm/adamw-no-qk-norm").model.qk_norm
    for data, d_in in (("mnist", 784), ("cifar10", 3072)):
        adam = one(f"{data}/adam-mup-ce")
        assert (adam.optimizer, adam.betas, adam.eps, adam.steps) == (
            "adam", (0.9, 0.999), 1e-8, 938 if d_in == 784 else 782,
        )  # fmt: skip
        assert adam.mult.input_lr == pytest.approx(256 / d_in, rel=1e-3)
    assert one("cifar10/inside-optimal-large-input").mult.input_init == pytest.approx(3072**0.5, rel=1e-3)
    assert one("mnist/adam-mup-ce", "laptop").mult.input_lr == 256 / 64
    assert one("cifar10/sgd-variants-20").epochs == 20
    assert one("multi-index/two-layers-mse").loss == "mse_scalar"


# ---------------------------------------------------------------------------------------------------------------------
# Drawings


@pytest.mark.parametrize("size", figure.SIZES)
def test_drawings_are_of_scripts_with_studies_and_folders_of_their_own(size):
    known = {command for command, of in TRAININGS if of == size}
    for one in ENTRIES.values():
        drawn = figure.drawings(one, size, Path("runs"), Path("out"))
        outs = [argv[argv.index("--out") + 1] for argv in drawn if "--out" in argv]
        assert len(set(outs)) == len(outs) == sum(argv[0] != "pipeline" for argv in drawn)
        for script, *argv in drawn:
            assert script == "pipeline" or (figure.HERE / f"{script}.py").is_file()
            studies = [word for word in argv if word.startswith(f"runs/{size}/")]
            assert len(set(studies)) == len(studies)
            assert {Path(word).name for word in studies} <= known, one.id
            assert not any("{" in word for word in argv)


def test_published_exponents_are_asked_for_where_there_are_some():
    drawn = figure.drawings(ENTRIES["F.14"], "laptop", Path("runs"), Path("out"))[0]
    assert drawn[-4:] == ["--published", "Figure F.14", "--out", "out/a"]
    assert "--published" not in figure.drawings(ENTRIES["7"], "laptop", Path("runs"), Path("out"))[0]
    assert "Figure 4" in figure.drawings(ENTRIES["4"], "laptop", Path("runs"), Path("out"))[0]


def test_the_readme_has_the_table():
    text = (figure.HERE / "README.md").read_text()
    assert figure.readme(text) == text, "python analysis/figure.py readme"
    assert len(re.findall(r"^\| (?:Figure|Table) [A-F\d.]+ \|", text, re.M)) == 70


def test_every_script_is_in_the_readme_and_takes_arguments():
    text = (figure.HERE / "README.md").read_text()
    for path in figure.HERE.glob("*.py"):
        assert f"`{path.name}`" in text
        mains = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "main"]
        assert [one.args.args[0].arg for one in mains] == ["argv"]


# ---------------------------------------------------------------------------------------------------------------------
# The script


@pytest.mark.parametrize(
    ("text", "found"),
    [("5", "5"), ("Fig 5", "5"), ("fig. F.14", "F.14"), ("f14", "F.14"), ("Figure C.1", "C.1"), ("table c1", "Table C.1"),
     ("Table F.1", "Table F.1")],
)  # fmt: skip
def test_figures_by_name(text, found):
    assert figure.find(text).id == found


@pytest.mark.parametrize(("text", "near"), [("F.41", "F.4"), ("Table F.2", "Table F.1"), ("8", None)])
def test_unknown_figures_are_one_line(text, near, capsys):
    assert figure.main(["draw", text]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"no figure {text!r}")
    assert printed.err.count("\n") == 1
    assert near is None or f"did you mean {near}" in printed.err


def test_train_runs_one_command_after_another_and_ends_with_the_first_failure(monkeypatch, capsys):
    ran = []

    def run(argv):
        ran.append(argv)
        return 3 if len(ran) == 2 else 0

    monkeypatch.setattr(figure.cli, "main", run)
    assert figure.main(["train", "F.14", "--", "--workers", "1"]) == 3
    assert len(ran) == 2
    assert ran[0][:3] == ["sweep", "--config", "mlp-multi-index-published"]
    assert ran[1][-6:] == ["--study", "multi-index-two-layers-mse", "--out", "runs/paper/laptop", "--workers", "1"]
    assert figure.main(["train", "C.2"]) == figure.main(["train", "F.9"]) == 0
    assert "Figure C.2: nothing to train\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train"], "name a figure, such as F.14"),
        (["draw", "F.2", "--", "--workers", "1"], "which draw does not need"),
        (["draw", "Table F.1", "--runs", "none"], "none/laptop/digits-sgd-ce is not there: python analysis/figure.py train 'T"),
        (["paint", "F.2"], "invalid choice"),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_line(argv, said, capsys):
    assert figure.main(argv) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_a_figure_is_drawn_with_its_exponents(tmp_path, capsys):
    write_study(tmp_path / "laptop" / "sotu-adamw", valley(-0.5))
    assert figure.main(["draw", "F.2", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"optimal +-0\.5\d? .* -0\.50 +seems to approximately transfer; GPT, SP, CE loss, qk-norm: Haas", out
    )
    assert re.search(r"max_stable .* -\n", out)
    for letter in "ab":
        assert (tmp_path / "laptop" / "figures" / "F.2" / letter / "lr_transfer.png").is_file()


def test_the_script_runs_from_any_folder_and_lists(tmp_path):
    said = subprocess.run(
        [sys.executable, figure.HERE / "figure.py", "list"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(said.stdout.splitlines()) == 70
    assert not said.stderr


def test_what_the_file_says_wrong_is_found(tmp_path, monkeypatch):
    """A study that no entry has, and a word that no data set gives."""
    shutil.copy(figure.HERE / "figures.yaml", tmp_path)
    with pytest.raises(KeyError):
        figure.training("mnist/nothing", "full", Path("runs"))
    with pytest.raises(KeyError):
        figure.training("tiny_imagenet/adam-mup-ce", "full", Path("runs"))
    with pytest.raises(RequestError):
        figure.find("")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """As under ``| head -1``: the list is longer than a pipe's first read."""
    script = figure.HERE / "figure.py"
    left = subprocess.run(
        ["bash", "-c", 'exec 3>&2; "$0" "$1" list 2>&3 | true; echo ${PIPESTATUS[0]}', sys.executable, str(script)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (left.stdout, left.stderr) == ("0\n", "")
