"""The rooms of the house and the arrows between them (design, "The house"): an allow-list, without a circle.

A room is a folder of the package, or a file that stands alone. Every import counts, wherever it stands: at the top,
inside a function, for type checkers only, relative, or by `importlib`.
"""

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.parameterization.rules import TABLE

PACKAGE = Path(__file__).parents[1] / "pipeline"

# room -> the rooms that it may import, from the ground up; a line here draws an arrow, and must not close a circle
ALLOWED: dict[str, set[str]] = {
    "version": set(),
    "console": set(),
    "errors": set(),
    "parameterization": set(),
    "processes": set(),
    "imports": set(),
    "products": set(),
    "strict_yaml": set(),
    "entries": {"errors", "parameterization"},
    "files": {"errors"},
    "ranges": {"errors"},
    "vectors": {"errors", "files"},
    "cache": {"errors", "files"},
    "sealed": {"files"},
    "losses": {"products"},
    "theory": {"console", "entries", "parameterization"},
    "identity": {"cache", "entries", "files", "vectors"},
    "config": {"entries", "errors", "identity", "parameterization", "vectors"},
    "data": {"config", "entries", "errors", "files", "sealed"},
    "recipes": {"config", "errors", "files", "ranges", "strict_yaml", "vectors"},
    "scaling": {"config", "entries", "parameterization"},
    "analysis": {"errors", "recipes"},
    "training/parallel": {"config", "errors"},
    "data/hub": {"cache", "config", "data", "entries", "errors", "files", "sealed"},
    "models": {"config", "errors", "parameterization", "products", "scaling"},
    "run": {"config", "errors", "files", "recipes", "sealed", "strict_yaml", "version"},
    "mirrors": {"config", "entries", "errors", "run", "strict_yaml"},
    "analysis/study": {"config", "entries", "errors", "processes", "recipes", "run", "sealed"},
    "analysis/study/tables": {"analysis/study", "config", "console", "errors", "mirrors"},
    "data/preparing": {
        "cache",
        "config",
        "console",
        "data",
        "data/hub",
        "entries",
        "errors",
        "files",
        "processes",
        "sealed",
        "vectors",
    },
    "diagnostics": {"losses", "models", "products"},
    "muon": {"entries"},
    "optim": {"config", "entries", "models", "parameterization", "scaling"},
    "training/checkpoint": {"files", "run", "sealed", "training/parallel"},
    "analysis/fit": {
        "analysis/study",
        "config",
        "entries",
        "errors",
        "files",
        "parameterization",
        "run",
        "theory",
        "version",
    },
    "data/streaming": {"config", "console", "data", "data/preparing", "errors", "files", "processes"},
    "export": {
        "version",
        "cache",
        "config",
        "data",
        "entries",
        "errors",
        "files",
        "run",
        "training/checkpoint",
    },
    "analysis/inside": {
        "analysis/fit",
        "analysis/study",
        "config",
        "entries",
        "errors",
        "files",
        "parameterization",
        "run",
        "theory",
    },
    "data/open": {"config", "data", "data/preparing", "data/streaming", "entries", "errors"},
    "sweep/adaptive": {"analysis/fit", "analysis/study"},
    "analysis/page": {
        "version",
        "analysis",
        "analysis/fit",
        "analysis/inside",
        "analysis/study",
        "config",
        "console",
        "entries",
        "errors",
        "files",
        "mirrors",
    },
    "sweep": {
        "analysis/fit",
        "analysis/study",
        "config",
        "console",
        "errors",
        "files",
        "recipes",
        "run",
        "strict_yaml",
        "sweep/adaptive",
    },
    "training": {
        "config",
        "console",
        "data",
        "data/open",
        "diagnostics",
        "entries",
        "errors",
        "losses",
        "mirrors",
        "models",
        "optim",
        "parameterization",
        "processes",
        "products",
        "run",
        "scaling",
        "strict_yaml",
        "training/checkpoint",
        "training/parallel",
    },
    "audit": {"analysis/inside", "analysis/page", "console", "diagnostics", "errors", "parameterization"},
    "testing": {"audit"},
    "library": {"analysis/fit", "analysis/study", "analysis/study/tables", "errors"},
    "figures": {"analysis/fit", "analysis/page"},
    "__init__": {"config", "diagnostics", "errors", "figures", "library", "optim", "training", "version"},
    "sweep/launch": {
        "config",
        "console",
        "data/open",
        "errors",
        "files",
        "imports",
        "mirrors",
        "processes",
        "run",
        "strict_yaml",
        "sweep",
        "training",
    },
    "cli": {
        "version",
        "audit",
        "analysis/fit",
        "analysis/inside",
        "analysis/page",
        "analysis/study",
        "analysis/study/tables",
        "cache",
        "config",
        "console",
        "data",
        "data/preparing",
        "entries",
        "errors",
        "export",
        "files",
        "imports",
        "library",
        "mirrors",
        "parameterization",
        "processes",
        "ranges",
        "recipes",
        "run",
        "sweep",
        "sweep/launch",
        "theory",
        "training",
    },
    "sweep/launch/slurm": {"config", "console", "errors", "files", "mirrors", "recipes", "run", "strict_yaml", "sweep"},
    "__main__": {"cli"},
}

TORCH = {"torch", "lightning", "litgpt", "deepspeed", "torchvision"}
NO_TORCH = {
    "errors", "console", "processes", "files", "sealed", "cache", "identity", "parameterization", "entries", "theory", "config", "vectors",
    "imports", "ranges", "recipes", "scaling", "run", "analysis", "library", "figures",
}  # fmt: skip
NO_LIGHTNING = {"models", "losses", "muon", "optim", "data", "diagnostics", "audit", "testing"}

LONGEST = 300  # lines of a file that gives no reason for being longer: a line of its head that begins with "Long:"


@functools.cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def modules(package: Path) -> dict[str, Path]:
    """Every module's dotted name and file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[tuple[int, str]]:
    """Lines and modules that a file imports; of ``from package import module`` the module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                base = f"{above}.{base}".rstrip(".")
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def room(name: str, path: Path, package: Path) -> str:
    """``analysis/fit``, ``config``: the folder, or the file where that stands alone or is a room of its own."""
    file = path.relative_to(package).with_suffix("")
    if str(file) in ALLOWED or file.parent == Path():
        return str(file)
    return str(file.parent)


def breaches(package: Path) -> list[str]:
    """Every arrow that is not allowed, every circle, and every way to torch or Lightning from what must not know it."""
    known = modules(package)
    rooms = {name: room(name, path, package) for name, path in known.items()}
    arrows: dict[str, set[str]] = {name: set() for name in known}
    outside: dict[str, set[str]] = {name: set() for name in known}
    found = []
    for name, path in known.items():
        for line, target in imports(name, path, known):
            here, there = rooms[name], rooms.get(target)
            if there is None:
                outside[name].add(target.partition(".")[0])
                continue
            arrows[name].add(target)
            if there != here and there not in ALLOWED.get(here, set()):
                found.append(f"{path.relative_to(package)}:{line}: {here} may not import {there}")
    found += [f"circle: {' -> '.join(circle)}" for circle in circles(arrows)]
    for name in known:
        of = rooms[name].partition("/")[0]
        banned = TORCH if of in NO_TORCH else {"lightning"} if of in NO_LIGHTNING else set()
        if banned:
            reached = closure(name, arrows)
            found += [f"{name} reaches {bad} through {via}" for via in reached for bad in outside[via] & banned]
    return sorted(set(found))


def closure(name: str, arrows: Mapping[str, set[str]]) -> set[str]:
    reached, todo = {name}, [name]
    while todo:
        for target in arrows[todo.pop()] - reached:
            reached.add(target)
            todo.append(target)
    return reached


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of things that reach each other."""
    reach = {name: closure(name, arrows) for name in arrows}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in arrows if len(reach[name]) > 1
    }
    return [list(group) for group in sorted(groups) if len(group) > 1]


def test_arrows_point_one_way() -> None:
    assert not breaches(PACKAGE)


def test_the_allow_list_has_no_circle_and_no_line_too_many() -> None:
    arrows = {name: set(targets) for name, targets in ALLOWED.items()}
    for targets in ALLOWED.values():
        for target in targets:
            arrows.setdefault(target, set())
    assert not circles(arrows)
    known = modules(PACKAGE)
    rooms = {name: room(name, path, PACKAGE) for name, path in known.items()}
    drawn = {
        (rooms[name], rooms[target])
        for name, path in known.items()
        for _, target in imports(name, path, known)
        if target in rooms and rooms[name] != rooms[target]
    }
    assert {(here, there) for here, targets in ALLOWED.items() for there in targets} == drawn
    assert set(rooms.values()) == set(ALLOWED)


BREACHES = {
    "a room below imports one above": ("training/module.py", "from pipeline import sweep"),
    "inside a function": ("config/run.py", "def late() -> None:\n    from pipeline.analysis.study import load"),
    "relative": ("models/init.py", "from ..training import trainer"),
    "by name": ("run/directory.py", "import importlib\nimportlib.import_module('pipeline.cli.main')"),
    "torch where there is none": ("theory/predict.py", "import torch.nn"),
    "torch by a detour": ("files.py", "import torch"),
    "for type checkers": (
        "data/order.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pipeline.training.module import TrainingModule",
    ),
    "a circle within a room": ("models/roles.py", "from pipeline.models.build import build"),
    "Lightning under the training": ("losses.py", "import lightning.pytorch"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BREACHES)
def test_planted_breaches_are_found(kind: str, tmp_path: Path) -> None:
    file, line = BREACHES[kind]
    shutil.copytree(PACKAGE, tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    victim = tmp_path / "pipeline" / file
    victim.write_text(f"{victim.read_text()}\n{line}\n")
    assert breaches(tmp_path / "pipeline"), kind


def test_what_knows_no_torch_loads_none() -> None:
    names = [name for name, path in modules(PACKAGE).items() if room(name, path, PACKAGE).partition("/")[0] in NO_TORCH]
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


def test_long_files_say_why() -> None:
    for path in modules(PACKAGE).values():
        text = path.read_text()
        if len(text.splitlines()) > LONGEST:
            assert "\nLong: " in (ast.get_docstring(parsed(text)) or ""), f"{path} has more than {LONGEST} lines"


def test_every_file_begins_with_its_noun() -> None:
    for path in modules(PACKAGE).values():
        text = path.read_text()
        assert not text.strip() or ast.get_docstring(parsed(text)), f"{path} does not say what it is"


def test_only_the_table_knows_parameterizations_by_name() -> None:
    for path in modules(PACKAGE).values():
        if path.name == "rules.py":
            continue
        for node in ast.walk(parsed(path.read_text())):
            if isinstance(node, ast.Compare):
                literals = {c.value for c in [node.left, *node.comparators] if isinstance(c, ast.Constant)}
                assert not literals & set(TABLE), f"{path}:{node.lineno} compares with a parameterization's name"
