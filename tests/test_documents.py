"""The README and the pages of docs/: every command is one that the program takes, every flag and file there is, every
snippet of Python runs, and the site builds."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pipeline.audit.audit import audit
from pipeline.audit.words import headline
from pipeline.cli import coordcheck
from pipeline.cli.arguments import RequestParser, parse
from pipeline.cli.main import VERBS
from pipeline.cli.sources import parse_source
from pipeline.config import DataConfig
from pipeline.recipes import keys, shipped
from pipeline.sweep.config import SweepConfig
from tests.support.documents import FENCE, PAGES, ROOT, commands, name, spans
from tests.support.synthetic_study import valley, write_study


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands speak of."""
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("the union of states and people\n\n" * 50)
    rng = np.random.default_rng(0)
    np.savez("table.npz", x=rng.normal(size=(20, 12)).astype("float32"), y=rng.integers(0, 3, 20))
    return tmp_path


class Parsed(Exception):
    """A command line was understood."""


def understand(argv: Sequence[str]) -> None:
    """Parse it as its verb does, and do nothing. Raises `RequestError` or `SystemExit` where it would not be taken."""
    verb, *rest = argv
    if verb in ("train", "sweep") and rest[:1] != ["status"]:
        parse(verb, [word for word in rest if word not in ("--json", "--calibrate")])  # type: ignore[arg-type]
    elif verb == "coordcheck" and rest[0].startswith("-"):
        coordcheck.request(rest)
    elif verb == "data":
        parse_source(f"data {rest[0]}", rest[1:])
    else:
        with pytest.raises(Parsed):
            main_of(verb)(rest)


def main_of(verb: str) -> Any:
    from importlib import import_module

    return import_module(VERBS[verb][0]).main


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_understood(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = RequestParser.parse_args

    def stop(self: RequestParser, args: Any = None) -> None:
        parse_args(self, args)
        raise Parsed

    monkeypatch.setattr(RequestParser, "parse_args", stop)
    for command in (command for command in commands(page) if command.startswith("pipeline ")):
        _, *argv = shlex.split(command)
        argv = [word for word in argv if word != "..."]
        if argv in (["data", "prepare"], ["data", "info"]) or len(argv) == 1 or "<verb>" in argv:
            assert argv[0] in (*VERBS, "--help"), command
        elif argv[0] == "completion":
            assert main_of("completion")(argv[1:]) == 0
        elif "--help" in argv:
            with pytest.raises(SystemExit) as stopped:
                main_of(argv[0])(argv[1:])
            assert stopped.value.code == 0, command
        else:
            understand(argv)


def _flags_of_the_program() -> set[str]:
    source = "".join(
        path.read_text() for folder in ("pipeline", "analysis", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    )
    own = set(re.findall(r'"--([a-z_]+)"', source)) | set(re.findall(r"^  --([a-z_]+) ", source, re.MULTILINE))
    settings = {*keys(SweepConfig), *keys(DataConfig), *(f"data.{key}" for key in keys(DataConfig)), "config", "data"}
    return (
        own
        | settings
        | {f"grid.{key.rpartition('.')[2]}" for key in settings}
        | {f"grid.{key}" for key in settings}
        | {"help"}
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_flag_and_recipe_there_is(page: Path) -> None:
    known = _flags_of_the_program()
    code = [*spans(page), *(body for _, body in FENCE.findall(page.read_text()))]
    ours = [text for text in code if not re.match(r"(sbatch|srun|sacct|pip) ", text)]
    flags = {flag for text in ours for flag in re.findall(r"(?<![\w-])--([a-z][\w.]*)", text)}
    assert flags <= known
    recipes = {name for text in ours for name in re.findall(r"--config ([\w-]+)", text)}
    assert recipes <= set(shipped("model_configs"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_is_linked_there_is(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    ours = r"(?:pipeline|model_configs|data|slurm|analysis|benchmarks|tests|examples|docs)/[\w/.-]+\.(?:py|yaml|md|ipynb|png)"
    for file in re.findall(rf"`({ours})`", text):
        assert "NAME" in file or (ROOT / file).exists(), file


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_else_is_typed_there_is(page: Path) -> None:
    code = "\n".join([*spans(page), *(body for _, body in FENCE.findall(page.read_text()))])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^(?:\w+=\S+ )?make ([a-z-]+)", code, re.MULTILINE)) <= targets
    for module in re.findall(r"python -m ([\w.]+)", code):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for script in re.findall(r"python ([\w/]+\.py)", code):
        assert any((folder / script).exists() for folder in (ROOT, page.parent)), script


def test_the_table_of_verbs_has_them_all() -> None:
    page = (ROOT / "docs" / "verbs.md").read_text()
    assert {verb for verb in VERBS if f"| `pipeline {verb}` |" in page or f"`pipeline {verb} " in page} == set(VERBS)


def snippets(page: str) -> list[str]:
    return [body for language, body in FENCE.findall((ROOT / "docs" / page).read_text()) if language == "python"]


def _others() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield from ((name(page), body) for language, body in FENCE.findall(page.read_text()) if language == "python")


def test_no_snippet_stands_where_none_is_run() -> None:
    assert {page for page, _ in _others()} == {"docs/audit.md", "docs/library.md", "docs/parameterizations.md"}


def test_the_snippets_of_the_library_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(Path("runs/demo"), valley(-0.5), params=("sp", "mup"), seeds=(0, 1))
    room: dict[str, Any] = {"torch": torch}
    assert len(snippets("library.md")) == 2
    for snippet in snippets("library.md"):
        exec(compile(snippet, "library.md", "exec"), room)
    assert Path("transfer.pdf").stat().st_size > 10_000
    predicted, *_, loss, effective = capsys.readouterr().out.splitlines()
    assert "'param': 'sp'" in predicted
    assert 0 < float(loss) < 2
    assert float(effective) == 0, "nothing was trained in between"
    assert isinstance(room["pipeline"].figures.comparison(room["fit"]), Figure)


def test_the_snippet_of_parameterizations_runs() -> None:
    model = torch.nn.Sequential()
    for part, layer in {"first": (8, 1024), "middle": (1024, 1024), "last": (1024, 10)}.items():
        model.add_module(part, torch.nn.Linear(*layer))
    room: dict[str, Any] = {"torch": torch, "model": model}
    (snippet,) = snippets("parameterizations.md")
    exec(compile(snippet, "parameterizations.md", "exec"), room)
    assert {group["lr"] for group in room["optimizer"].param_groups} == {3e-3, 3e-3 / 4}


@pytest.mark.slow
def test_the_snippets_of_the_audit_run() -> None:
    room: dict[str, Any] = {}
    for snippet in snippets("audit.md"):
        exec(compile(snippet, "audit.md", "exec"), room)
    found = audit(room["build"], (64, 128, 256), expect="mup", seeds=1, steps=1)
    assert headline(found) == "not mup: 16 of 21 tensors depart", "as printed there"
    with pytest.raises(AssertionError, match="embedding scaled by the optimizer's LR"):
        room["test_mup"]()


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path),
    ]
    environment = {"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (built.returncode, built.stderr) == (0, "")
    page = (tmp_path / "api" / "index.html").read_text()
    for word in ("load_runs", "CoordinateCheck", "apply_parameterization", "warmup_steps", "lr_transfer"):
        assert word in page
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png|svg))"', page)
    assert not fetched, "the site fetches nothing"
