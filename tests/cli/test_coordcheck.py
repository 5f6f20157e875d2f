"""`pipeline coordcheck`: what it plans, refuses, trains, writes and says; its figure; its section of the report."""

import dataclasses
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.fit.study_fit import fit
from pipeline.analysis.inside import over_time
from pipeline.analysis.inside.lr_rules import ladders, recorded, requests
from pipeline.analysis.page import figures, figures_inside, inside
from pipeline.analysis.study.load import load_study
from pipeline.cli.coordcheck import request
from pipeline.cli.main import main
from pipeline.config import DiagnosticsConfig, RunConfig
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.sweep.coordinate_check import plan
from tests.support.synthetic_coordinates import (
    GPT,
    MLP,
    WIDTHS,
    gpt_weights,
    mlp_weights,
    write_coordinates,
    write_records,
)

FIG_4 = {
    ("effective", "layers.0.weight"): -1, ("effective", ""): 0, ("effective", "readout.weight"): 0.5,
    ("propagating", "layers.1.weight"): -1, ("propagating", "layers.2.weight"): 0, ("propagating", "readout.weight"): 0.43,
    ("update", "layers.0.weight"): -1, ("update", "layers.1.weight"): 0, ("update", "layers.2.weight"): 0,
    ("update", "readout.weight"): 0.5, ("output", ""): 0, ("gradient", ""): -0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def mlp_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coordinates(tmp_path_factory.mktemp("coordcheck") / "mlp", MLP, FIG_4, lr_exponent=Fraction(-1, 2))


# ---------------------------------------------------------------------------------------------------------------------
# The request


def test_learning_rates_follow_the_exponent() -> None:
    flags = ["--widths", "64,256,1024", "--params", "sp,mup", "--seeds", "0,1", "--lr", "1e-3", "--base_width", "256"]
    config, exponents, dry_run = request([*flags, "--lr_exponent", "-1/2"])
    assert (exponents, dry_run) == ((Fraction(-1, 2),), False)
    runs = plan(config, exponents)
    assert len(runs) == 3 * 2 * 2
    assert {run.width: run.lr for run in runs} == {64: pytest.approx(2e-3), 256: 1e-3, 1024: pytest.approx(5e-4)}
    assert {(run.param, run.seed) for run in runs} == {("sp", 0), ("sp", 1), ("mup", 0), ("mup", 1)}
    assert [run.width for run in runs][:4] == [1024] * 4  # most expensive first
    assert all(type(run) is RunConfig for run in runs)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--lr_exponent", "-0.5"], [Fraction(-1, 2)]),
        (["--lr_exponent=-1/2,-1"], [Fraction(-1, 2), Fraction(-1)]),
        (["--lr_exponent", "[-1/2, 0.25]"], [Fraction(-1, 2), Fraction(1, 4)]),
        (["--lr_exponent", "-1", "--lr_exponent", "0"], [Fraction(-1), Fraction(0)]),
        ([], [Fraction(0)]),
    ],
)
def test_exponents_are_numbers_fractions_and_lists(flags: list[str], expected: list[Fraction]) -> None:
    assert list(request(["--widths", "64,128", *flags, "--steps", "4"])[1]) == expected
    assert request(["--widths", "64,128", *flags, "--steps", "4"])[0].steps == 4


def test_all_exponents_share_the_base_width() -> None:
    config, exponents, _ = request(
        ["--widths", "64,128", "--base_width", "64", "--lr_exponent", "-1/2,-1", "--seeds", "0"]
    )
    runs = plan(dataclasses.replace(config, params=("sp",)), exponents)
    assert [(run.width, asked) for run, asked in runs.items()] == [
        (128, [Fraction(-1, 2)]), (128, [Fraction(-1)]), (64, [Fraction(-1, 2), Fraction(-1)])
    ]  # fmt: skip


def test_a_few_steps_at_a_constant_rate_are_looked_at_unless_told_otherwise() -> None:
    config, _, _ = request(["--widths", "64,128"])
    assert (config.steps, config.warmup_steps, config.lr_min_ratio, config.study) == (10, 0, 1.0, "coordcheck")
    assert (config.seeds, config.keep_checkpoint, config.val_interval) == ((0, 1, 2), False, 10)
    assert (config.diagnostics.first, config.diagnostics.interval) == (10, 0)
    config, _, _ = request(
        ["--widths", "64,128", "--steps", "400", "--warmup_steps", "5", "--seed", "7", "--study", "x"]
    )
    assert (config.steps, config.warmup_steps, config.study, config.seeds) == (400, 5, "x", (7,))
    assert (config.diagnostics.first, config.diagnostics.interval) == (10, 20)
    config, _, _ = request(["--widths", "64,128", "--diagnostics.interval", "3", "--diagnostics.spectra", "true"])
    assert (config.diagnostics.first, config.diagnostics.interval, config.diagnostics.spectra) == (0, 3, True)
    config, _, _ = request(["--widths", "64,128", "--diagnostics.spectra", "true", "--steps", "4"])
    assert (config.diagnostics.first, config.diagnostics.interval, config.diagnostics.spectra) == (4, 0, True)
    config, _, _ = request(["--config", "mlp-digits", "--widths", "64,128"])
    assert (config.steps, config.seeds, config.diagnostics.probe) == (10, (0, 1), 64)
    config, _, _ = request(["--config", "mlp-digits", "--diagnostics.probe", "16"])
    assert (config.widths, config.diagnostics.probe) == ((128, 256, 512, 1024), 16)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--widths 64", "--widths needs at least two widths to compare, such as --widths 64,128,256,512"),
        ("--widths 64,64", "--widths needs at least two widths"),
        ("--widths 64,64,128", "--widths names a value twice: 64, 64, 128"),
        ("--widths 64,128 --params sp,mupp", "--param: unknown parameterization 'mupp': did you mean 'mup'?"),
        ("--widths 64,128 --lr_exponent steep", "--lr_exponent: expected a number or a fraction such as -1/2, got 'steep'"),
        ("--widths 64,128 --lr_exponent 1/0", "--lr_exponent: expected a number or a fraction such as -1/2, got '1/0'"),
        ("--widths 64,128 --lr_exponent", "--lr_exponent: expected a number or a fraction such as -1/2, got ''"),
        ("--widths 64,128 --lr_exponent -1,-1", "--lr_exponent names a value twice: -1, -1"),
        ("--widths 64,128 --lr_exponet -1", "--lr_exponet: unknown key lr_exponet, did you mean lr_exponent?"),
        ("--widths 64,128 --lrs 1e-3", "--lrs is for pipeline sweep: give one --lr, and --lr_exponent for how it goes"),
        ("--widths 64,128 --launcher slurm", "--launcher is for pipeline sweep: a coordinate check runs here"),
        ("--widths 64,128 --plan adaptive", "--plan is for pipeline sweep: a coordinate check makes all its runs"),
        ("--widhts 64,128", "--widhts: unknown key widhts, did you mean widths?"),
        ("--widths 64,100", "--width 100 is not divisible by the head size 32: use 96 or 128"),
        ("no/such/study", "no/such/study: no such study folder"),
        ("no/such/study --lr x", "pipeline coordcheck: argument --lr: invalid float value: 'x'"),
        ("no/such/study --steps 3", "--steps: unknown key steps"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(flags: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coordcheck", *flags.split()]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_dry_run_shows_the_plan_and_trains_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = [
        "--widths",
        "64,128",
        "--params",
        "sp",
        "--lr",
        "1e-3",
        "--lr_exponent",
        "-1/2,-1",
        "--seeds",
        "0",
        "--dry_run",
    ]
    assert main(["coordcheck", *flags, "--out", str(tmp_path / "runs"), "--base_width", "64"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"study {tmp_path / 'runs' / 'coordcheck'}: 3 runs, 0 finished already"
    assert [line.split("  ")[2] for line in out[1:]] == [
        "lr 0.0007071 (n^-1/2)",
        "lr 0.0005 (n^-1)",
        "lr 0.001 (n^-1/2 and n^-1)",
    ]
    assert all(line.endswith("to run") for line in out[1:])
    assert not (tmp_path / "runs").exists()


def test_help_lists_its_flags_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["coordcheck", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for flag in (
        "--widths",
        "--params",
        "--seeds",
        "--lr_exponent",
        "--steps",
        "--workers",
        "--diagnostics.spectra",
        "--optimizer",
    ):
        assert flag in out


# ---------------------------------------------------------------------------------------------------------------------
# Training


@pytest.mark.slow
def test_from_flags_to_table(tiny: RunConfig, capfd: pytest.CaptureFixture[str]) -> None:
    """Real runs of perceptrons; a second start repeats none; new exponents join the same study."""
    out = Path(tiny.out)
    command = [
        "coordcheck", "--config", "mlp-digits", "--model.n_layer", "3", "--widths", "64,128", "--params", "sp", "--seeds", "0,1",
        "--lr", "1e-3", "--lr_exponent", "-1/2", "--steps", "2", "--workers", "1", "--out", str(out), "--wandb", "disabled",
    ]  # fmt: skip
    assert main(command) == 0
    study = out / "coordcheck"
    said = capfd.readouterr().out
    assert "study " in said
    assert "4 runs, 0 finished already" in said
    assert "SP / SGD / lr 1e-3 x (n/256)^-1/2" in said
    assert "readout" in said
    assert str(study / "coordcheck.csv") in said
    rows = pd.read_csv(study / "coordcheck.csv")
    chosen = rows[(rows["weight"] == "readout.weight") & (rows["quantity"] == "effective") & (rows["step"] == 2)]
    assert chosen["predicted"].tolist() == [0.5]
    assert chosen["n_widths"].tolist() == [2]
    runs = [path.parent for path in study.glob("*/result.json")]
    assert len(runs) == 4
    assert not any(list((run / "checkpoints").glob("step*")) for run in runs)
    assert main([*command[:-6], "--lr_exponent", "-1", *command[-6:]]) == 0
    again = capfd.readouterr().out
    assert "8 runs, 4 finished already" in again
    assert "lr 1e-3 x (n/256)^-1\n" in again
    assert requests(study) == [(1e-3, Fraction(-1, 2)), (1e-3, Fraction(-1))]
    assert main(["coordcheck", str(study)]) == 0
    assert "SP / SGD / lr 1e-3 x (n/256)^-1/2" in capfd.readouterr().out


def test_runs_that_looked_at_nothing_are_not_mistaken_for_finished_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--widths", "64,128", "--params", "sp", "--seeds", "0", "--out", str(tmp_path), "--study", "s"]
    config, exponents, _ = request(flags)
    for run in plan(config, exponents):
        write_records(tmp_path / "s", run, [{"step": 1, "loss": 1.0}])
        assert RunDir(run.run_dir).result() is not None
    assert main(["coordcheck", *flags]) == 2
    assert "was finished without a coordinate check: give another --study" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# A study that exists


def test_a_study_is_analysed_without_training(mlp_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coordcheck", str(mlp_study)]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "SP / SGD / lr 1e-3 x (n/256)^-1/2"
    assert lines[1] == "widths 64, 128, 256 and 512, 3 seeds, 12 runs; after step 3"
    assert lines[2].split() == [
        "effective",
        "updates",
        "predicted",
        "propagating",
        "updates",
        "predicted",
        "activations",
        "predicted",
    ]
    table = {line.split("  ")[1].strip(): line.split() for line in lines[3:7]}
    assert list(table) == ["input", "first hidden", "hidden", "readout"]
    assert table["readout"][1:5] == pytest.approx(table["readout"][1:5])
    assert float(table["readout"][1]) == pytest.approx(0.5, abs=0.05)
    assert table["readout"][4] == "1/2"
    assert "Regime: controlled divergence (theory: controlled divergence)" in said
    assert said.isascii()
    for name in ("coordcheck.csv", "coordcheck_groups.csv", "figures/coordcheck-sp-sgd-lr1e-3-n-1_2.png"):
        assert (mlp_study / name).stat().st_size > 0
        assert str(mlp_study / name) in said


def test_spectra_have_a_table_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save", lambda *_: [])  # drawn elsewhere
    spectra = {("operator_norm_update", "layers.0.weight"): -1.0, ("alignment_effective", ""): 0.0}
    folder = write_coordinates(tmp_path / "s", MLP, FIG_4 | spectra, lr_exponent=Fraction(-1, 2), noise=0.001)
    lines = inside.look([folder]).splitlines()
    [head] = [place for place, line in enumerate(lines) if "norm of the update  predicted  alignment of update" in line]
    assert lines[head + 1].split() == ["input", "-1.00", "+-", "0.00", "-1", "0.00", "+-", "0.00", "0", "-"]


def test_parameterizations_come_in_the_order_of_their_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save", lambda *_: [])
    for param in ("mup", "sp"):
        write_coordinates(tmp_path / "s", dataclasses.replace(MLP, param=param), FIG_4, seeds=(0,))
    said = inside.look([tmp_path / "s"])
    assert said.index("SP / SGD") < said.index("muP / SGD")


def test_a_learning_rate_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "save", lambda *_: [])  # drawn elsewhere
    for place in range(7):
        lr = 1e-3 * 2**place
        write_coordinates(
            tmp_path / "s", dataclasses.replace(MLP, lr=lr), FIG_4, seeds=(0,), ask=False, widths=(64, 128),
            diverged=lambda config: config.lr > 0.02 and config.width == 128,
        )  # fmt: skip
    assert main(["coordcheck", str(tmp_path / "s")]) == 0
    said = capsys.readouterr().out
    assert said.count("SP / SGD / lr") == 1
    assert "SP / SGD / lr 1.6e-2 at every width" in said
    assert "6 more with --lr" in said
    assert main(["coordcheck", str(tmp_path / "s"), "--lr", "2e-3"]) == 0
    assert "lr 2e-3 at every width" in capsys.readouterr().out
    assert main(["coordcheck", str(tmp_path / "s"), "--lr", "3"]) == 2
    assert (
        "no coordinates at lr 3: choose one of 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2"
        in capsys.readouterr().err
    )


def test_a_study_without_coordinates_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for width in (64, 128):
        write_records(tmp_path / "s", dataclasses.replace(MLP, width=width), [{"step": 1, "loss": 1.0}])
    assert main(["coordcheck", str(tmp_path / "s")]) == 2
    assert (
        "no coordinates at two widths: train with --diagnostics.first 10, or run pipeline coordcheck"
        in capsys.readouterr().err
    )


# ---------------------------------------------------------------------------------------------------------------------
# The figure


def test_the_figure_shows_what_was_measured(mlp_study: Path) -> None:
    study = load_study([mlp_study])
    [ladder] = ladders(study, recorded(study))
    axes = np.array(figures_inside.coordinate_figure(ladder).axes).reshape(4, 3)
    assert [row[0].get_ylabel() for row in axes] == ["input", "first hidden", "hidden", "readout"]
    readout = axes[3, 0]
    lines = [line for line in readout.lines if line.get_marker() == "o" and line.get_linestyle() == "-"]
    assert len(lines) == 3  # one per step, the darker, the later
    for step, line in enumerate(lines, start=1):
        assert line.get_xdata().tolist() == list(WIDTHS)
        expected = [step * (n / 256) ** 0.5 for n in WIDTHS]
        assert line.get_ydata().tolist() == pytest.approx(expected, rel=0.1)
    brightness = [sum(int(line.get_color()[i : i + 2], 16) for i in (1, 3, 5)) for line in lines]
    assert brightness == sorted(brightness, reverse=True)
    [dashed] = [line for line in readout.lines if line.get_color() == figures_inside.PREDICTED_COLOUR]
    low, high = dashed.get_ydata()
    assert math.log(high / low) / math.log(512 / 64) == pytest.approx(0.5)
    assert any("n^{0.5" in text.get_text() for text in readout.texts)
    assert [text.get_text() for text in axes[0, 1].texts] == ["zero"]


@pytest.mark.parametrize(
    ("steps", "shown"),
    [((1, 2, 3), [1, 2, 3]), ((5,), [5]), (tuple(range(1, 11)), [1, 2, 3, 6, 10]), ((1, 10, 100, 700, 701, 702), [1, 10, 100, 702])],
)  # fmt: skip
def test_few_steps_are_drawn_the_first_and_the_last_among_them(steps: tuple[int, ...], shown: list[int]) -> None:
    assert over_time.shown_steps(steps) == shown


def test_the_same_study_draws_the_same_bytes(mlp_study: Path) -> None:
    study = load_study([mlp_study])
    [ladder] = ladders(study, recorded(study))
    first, again = (inside.drawing(figures_inside.coordinate_figure(ladder), "f") for _ in range(2))
    assert first == again


def test_a_gpts_figure_has_a_row_per_kind_of_matrix(tmp_path: Path) -> None:
    exponents: dict[tuple[str, str], float] = {(q, ""): 0.0 for q in ("effective", "propagating", "output")}
    folder = write_coordinates(tmp_path / "s", GPT, exponents, lr_exponent=Fraction(-1), seeds=(0,), widths=(64, 128))
    assert len(gpt_weights(GPT)) == 2 * 20 + 4
    study = load_study([folder])
    [ladder] = ladders(study, recorded(study))
    rows = np.array(figures_inside.coordinate_figure(ladder).axes).reshape(-1, 3)
    assert [row[0].get_ylabel() for row in rows] == list(GPT.kind.groups)


# ---------------------------------------------------------------------------------------------------------------------
# The report


@pytest.mark.slow
def test_the_report_has_a_section_on_what_was_recorded(mlp_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(mlp_study)]) == 0
    assert "coordcheck-sp-sgd-lr1e-3-n-1_2.svg" in capsys.readouterr().out
    page = (mlp_study / "report.html").read_text()
    assert "<h2>Inside</h2>" in page
    assert page.index("<h2>Inside</h2>") < page.index("<h2>What ran</h2>")
    assert '<svg class="drawing"' in page
    assert "The readout explodes as n<sup>0.5" in page
    assert "Regime: controlled divergence" in page
    assert "(n/256)<sup>\u22121/2</sup></h3>" in page
    svg = page[page.index('<svg class="drawing"') :].split("</svg>")[0]
    assert 'href="http' not in svg
    assert "<image" not in svg


def test_a_study_that_recorded_nothing_has_no_such_section(tmp_path: Path) -> None:
    from tests.support.synthetic_study import valley, write_study

    found = fit([write_study(tmp_path / "s", valley(-0.5))])
    assert inside.section(found) == inside.Section()


def test_a_sweep_is_looked_at_where_its_optimum_is(tmp_path: Path) -> None:
    """Sharpness and calibration by width at the best learning rates, the coordinates at the largest stable one."""
    from tests.support.synthetic_study import BASE, valley

    loss = valley(-0.5)
    folder = tmp_path / "s"
    for width in (64, 128, 256):
        for lr in (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2):
            config = dataclasses.replace(
                BASE, width=width, lr=lr, steps=4, warmup_steps=0, diagnostics=DiagnosticsConfig(first=4)
            )
            final = loss(config)
            ended = final if math.isfinite(final) else 9.0
            records = [
                {
                    "step": step, "loss": 8.0 - (8.0 - ended) * step / 4, "logit_rms": lr * width, "val_calibration_error": lr,
                    "val_max_probability": 0.5, "sharpness/1": step / lr, "effective/lm_head.weight": lr * width * step,
                    "update/lm_head.weight": lr * width * step, "update/transformer.h.0.mlp.fc.weight": lr * width * step,
                    "output/transformer.h.0.mlp.fc.weight": 1.0,
                }
                for step in range(1, 5)
            ]  # fmt: skip
            write_records(folder, config, records, diverged=not math.isfinite(final))
    made = inside.section(fit([folder]))
    titles = " ".join(part.title for part in made.parts)
    assert "the best learning rate tried of every width" in titles
    assert "the largest stable learning rate tried of every width" in titles
    assert {"sharpness", "calibration"} < set(made.figures)
    sharpness = made.figures["sharpness"].axes[0]
    by_width = {line.get_label(): line.get_ydata()[-1] for line in sharpness.lines}
    assert by_width == {
        "width 64": pytest.approx(4 / 8e-3),
        "width 128": pytest.approx(4 / 4e-3, rel=0.6),
        "width 256": pytest.approx(4 / 4e-3),
    }
    best, largest = made.figures["calibration"].axes[0].lines
    assert best.get_ydata().tolist() == pytest.approx([8e-3, 4e-3, 4e-3])
    assert largest.get_ydata().tolist() == pytest.approx([1.6e-2, 1.6e-2, 8e-3])


def test_a_study_of_sharpness_alone_has_a_section_but_no_coordinates(tmp_path: Path) -> None:
    for width in (64, 128):
        records = [{"step": step, "loss": 3.0, "sharpness/1": 10.0 / step} for step in (1, 2)]
        write_records(tmp_path / "s", dataclasses.replace(MLP, width=width), records)
    made = inside.section(fit([tmp_path / "s"]))
    assert list(made.figures) == ["sharpness"]
    with pytest.raises(RequestError, match="no coordinates"):
        inside.look([tmp_path / "s"])


@pytest.mark.slow
def test_the_script_draws_the_same_figure(mlp_study: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "analysis" / "coordinate_check.py"

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(script), *flags], capture_output=True, text=True)

    done = run(str(mlp_study), "--lr", "1e-3", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = [f"coordcheck-sp-sgd-lr1e-3-n-1_2.{suffix}" for suffix in figures.FORMATS]
    assert done.stdout.split()[-len(names) :] == [str(tmp_path / name) for name in names]
    wrong = run(str(mlp_study), "--lr", "5", "--out", str(tmp_path))
    assert (wrong.returncode, wrong.stderr) == (2, "mlp: no coordinates at lr 5\n")


def test_a_rate_at_which_runs_broke_off_is_left_out(tmp_path, capsys):
    flat = {(quantity, ""): 0.0 for quantity in ("effective", "propagating", "output")}
    folder = write_coordinates(tmp_path / "study", MLP, flat, widths=(64, 128), ask=False)
    broken = dataclasses.replace(MLP, lr=1e30)

    def lost(config, step):
        return {f"{q}/{w}": None for q, _ in flat for w in mlp_weights(config)} if step > 1 else {}

    both = flat | {("gradient", ""): 0.0}
    write_coordinates(folder, broken, both, widths=(64, 128), diverged=lambda _: True, ask=False, extra=lost)
    assert main(["coordcheck", str(folder)]) == 0
    assert "Left out, since runs diverged before the last step: lr 1e30." in capsys.readouterr().out
