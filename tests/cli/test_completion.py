"""What a shell completes."""

import subprocess
from pathlib import Path

import pytest

from pipeline.cli.main import VERBS, main


def completed(script: Path, *words: str) -> list[str]:
    code = 'source "$1"; shift; COMP_WORDS=(pipeline "$@"); COMP_CWORD=$#; _pipeline; printf "%s\\n" "${COMPREPLY[@]}"'
    return subprocess.run(
        ["bash", "-c", code, "-", str(script), *words], capture_output=True, text=True, check=True, cwd=script.parent
    ).stdout.split()


def test_bash_completes_verbs_flags_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (script := tmp_path / "script").write_text(capsys.readouterr().out)
    assert completed(script, "") == list(VERBS)
    assert completed(script, "swe") == ["sweep"]
    assert completed(script, "train", "--opt") == ["--optimizer"]
    assert completed(script, "train", "--optimizer", "ad") == ["adamw", "adam"]
    assert completed(script, "sweep", "--params", "mu") == ["mup", "musoli"]
    assert completed(script, "audit", "--expect", "mu") == ["mup", "musoli"]
    assert completed(script, "sweep", "st") == ["status"]
    assert "--estimator" in completed(script, "fit", "--")
    assert completed(script, "fit", "scr") == ["script"]
    assert "quick" in completed(script, "train", "--config", "")
    assert main(["completion", "zsh"]) == 0
    zsh = capsys.readouterr().out
    assert zsh.startswith("autoload -U +X compinit bashcompinit")
    assert zsh.endswith(script.read_text())
