"""Forged or damaged run files, and requests nobody would make: equal results, or one line that names the culprit."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.recipes import keys
from pipeline.run.directory import RunDir
from pipeline.sweep.config import SweepConfig
from tests.support.synthetic_study import valley, write_study

SECONDS = 20.0


def said(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; never a hang, a traceback, or more than one line on stderr."""
    began = time.monotonic()
    code = main.main(list(argv))
    out, err = capfd.readouterr()
    assert time.monotonic() - began < SECONDS, argv
    assert code in (0, 1, 2), argv
    lines = err.splitlines()
    assert len(lines) == (code != 0), (argv, err)
    assert err.rstrip("\n").isprintable(), (argv, err)
    assert "TRACEBACK" not in err, (argv, err)
    return code, out, err


# ---------------------------------------------------------------------------------------------------------------------
# Run files


def flip(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(8 * len(content))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def forge(rng: random.Random, content: bytes) -> bytes:
    """A number, a word or a key of the file becomes something else."""
    values = ["true", '"0.5"', "-5", "NaN", "null", "1" + "0" * 400, "[]", "{}", '"bogus"', "1e999", "0", "''", "\x00"]
    words = content.decode().replace(",", " ,").replace("\n", " \n").split(" ")
    places = [i for i, word in enumerate(words) if word.strip('",') and not word.endswith(":") and word != "\n,"]
    words[rng.choice(places)] = rng.choice(values)
    return " ".join(words).encode()


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def turned(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


def twice(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    return b"".join([*lines[: place + 1], lines[place], *lines[place + 1 :]])


def stuffed(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice([b"\xff\xfe", b"[" * 5000, b"\n\n", b"*a", b"{", b"\r"]) + content[place:]


DAMAGE = (flip, flip, forge, forge, forge, cut, turned, twice, stuffed)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sealed, as the trainer leaves it."""
    folder = write_study(tmp_path_factory.mktemp("fuzz") / "study", valley(-0.5), widths=(64, 128))
    for path in folder.iterdir():
        run = RunDir(path)
        result = run.result()
        assert result is not None
        run.write_result(result)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_damaged_runs_are_named_or_change_nothing(
    study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], seed: int
) -> None:
    rng = random.Random(seed)

    def fitted() -> tuple[int, str, pd.DataFrame | None]:
        code, out, err = said(capfd, "fit", str(tmp_path / "study"), "--estimator", "paper", "--out", str(tmp_path))
        return code, out + err, None if code else pd.read_csv(tmp_path / "runs.csv")

    shutil.copytree(study, tmp_path / "study")
    _, _, right = fitted()
    names = sorted(path.name for path in study.iterdir() if path.is_dir())
    for _ in range(100):
        run = rng.choice(names)
        file = tmp_path / "study" / run / rng.choice(["result.json", "config.yaml", "metrics.jsonl", "seal.json"])
        whole = file.read_bytes()
        if rng.random() < 0.1:
            file.unlink()
        else:
            file.write_bytes(rng.choice(DAMAGE)(rng, whole))
        if rng.random() < 0.5:
            (tmp_path / "study" / "runs.json").unlink(missing_ok=True)
        code, words, found = fitted()
        if run not in words:
            assert code == 0, words
            assert found is not None
            assert right is not None
            pd.testing.assert_frame_equal(found, right)
        file.write_bytes(whole)


# ---------------------------------------------------------------------------------------------------------------------
# Requests

VALUES = [
    "", " ", "-1", "0", "1", "010", "1:30", "1e3", "1e400", "nan", "inf", "-inf", "null", "true", "[]", "{}", "[1,", "a: b",
    "64,128", "64,,128", ",", "sp", "mup", "sp,sp", "adamw", "~", "..", ".", "/", "a/b", "x" * 300, "\x00", "\n", "\x1b[31m",
    "é", "ß", "9e18", "1" + "0" * 30, "*", "&a", "!!python/object:os.system", "quick", "mlp-digits", "digits", "sotu",
    "0.5", "-0.5", "cosine", "float64", "[" * 2000,
]  # fmt: skip


def request(rng: random.Random, here: Path) -> list[str]:
    verb = rng.choice(["train", "sweep", "train", "sweep", "fit", "predict", "report", "theory", "status", "nonsense"])
    flags = [f"--{key}" for key in keys(SweepConfig if verb == "sweep" else RunConfig)]
    argv = ["sweep", "status"] if verb == "status" else [verb]
    if verb in ("train", "sweep"):
        argv += ["--dry_run", "--out", str(here / "runs")]
        flags = [flag for flag in flags if flag != "--out"]
    else:
        argv.append(rng.choice([str(here / "study"), str(here), str(here / "none"), *VALUES[:12]]))
        flags = [
            "--width",
            "--widths",
            "--level",
            "--metric",
            "--value",
            "--estimator",
            "--columns",
            "--axis",
            "--group",
        ]
    for _ in range(rng.randrange(4)):
        flag = rng.choice([*flags, "--config", "--nonsense"])
        argv += [flag] if rng.random() < 0.1 else [flag, rng.choice(VALUES)]
    return argv


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_requests_are_met_or_refused_in_one_line(
    study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(study, tmp_path / "study")
    rng = random.Random(seed)
    for _ in range(250):
        argv = request(rng, tmp_path)
        said(capfd, *argv)
    left = {path.name for path in tmp_path.iterdir()} - {"study", "runs", "study-fit"}
    assert not left


def test_a_forged_file_is_another_one() -> None:
    content = json.dumps({"status": "completed", "loss": 1.5}).encode()
    rng = random.Random(0)
    made: set[Any] = {forge(rng, content) for _ in range(20)}
    assert len(made) > 5
