"""What is no study, by every verb that takes one."""

from pathlib import Path

import pytest

from pipeline.cli.main import main
from tests.support.synthetic_study import valley, write_study

VERBS = (
    "fit {}",
    "predict {} --width 64",
    "report {}",
    "sweep status {}",
    "coordcheck {}",
    "wandb push {}",
    "wandb dashboard {}",
)


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_studies_and_a_run_are_one_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path / "runs" / "study", valley(-0.5), widths=(64,), lrs=(1e-3,))
    (run,) = (path.parent for path in study.glob("*/config.yaml"))
    for folder, said in {
        tmp_path / "runs": f"{tmp_path / 'runs'} holds studies, not runs; give one of them: {study}",
        run: f"{run} is a single run; give its study folder, {study}",
        tmp_path / "none": f"{tmp_path / 'none'}: no such study folder",
    }.items():
        assert main(verb.format(folder).split()) == 2
        assert capsys.readouterr().err == f"pipeline: error: {said}\n"


def test_a_run_is_no_folder_of_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "study", valley(-0.5), widths=(64,), lrs=(1e-3,))
    (run,) = (path.parent for path in study.glob("*/config.yaml"))
    assert main(["ls", str(run)]) == 2
    assert "is a single run; give its study folder" in capsys.readouterr().err
