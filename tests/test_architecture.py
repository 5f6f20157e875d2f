"""The directions of imports (design, "The house"), and names that only the table may know."""

import ast
from pathlib import Path

import pytest

from pipeline.parameterization.rules import TABLE

PACKAGE = Path(__file__).parents[1] / "pipeline"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at top level or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


TORCH = {"torch", "lightning", "litgpt"}
LIGHTNING = {"lightning"}
# room -> what it must not import: outside packages, and rooms of this one
FORBIDDEN = {
    "config": TORCH | {"models", "optim", "losses", "data", "training", "sweep", "analysis", "cli", "recipes"},
    "validation": TORCH | {"models", "optim", "losses", "data", "training", "sweep", "analysis", "cli", "recipes"},
    "theory_cli": TORCH | {"models", "optim", "losses", "data", "training", "sweep", "analysis", "cli", "recipes"},
    "scaling": TORCH | {"models", "optim", "losses", "data", "training", "sweep", "analysis", "cli", "recipes"},
    "recipes": TORCH | {"models", "optim", "losses", "data", "training", "sweep", "analysis", "cli"},
    "files": TORCH | {"config", "models", "data", "training", "sweep", "analysis", "cli"},
    "processes": TORCH | {"config", "models", "data", "training", "sweep", "analysis", "cli"},
    "parameterization": TORCH | {"config", "models", "optim", "losses", "data", "training", "sweep", "analysis", "cli"},
    "analysis": TORCH | {"models", "optim", "losses", "data", "training", "sweep", "cli"},
    "models": LIGHTNING | {"training", "sweep", "analysis", "data", "losses", "optim", "cli"},
    "losses": LIGHTNING | {"training", "sweep", "analysis", "data", "models", "cli"},
    "optim": LIGHTNING | {"training", "sweep", "analysis", "data", "losses", "cli"},
    "diagnostics": LIGHTNING | {"config", "optim", "data", "training", "sweep", "analysis", "cli"},
    "data": LIGHTNING | {"training", "sweep", "analysis", "models", "cli"},
    "training": {"sweep", "analysis", "cli"},
    "sweep": {"cli", "models", "losses", "optim"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    for name in imports(path):
        parts = name.split(".")
        target = parts[1] if parts[0] == "pipeline" and len(parts) > 1 else parts[0]
        assert target not in FORBIDDEN.get(room(path), set()), f"{path.name} imports {name}"


def test_every_room_has_its_rule() -> None:
    assert {room(path) for path in MODULES} - set(FORBIDDEN) == {"__init__", "__main__", "cli"}


def test_only_the_table_knows_parameterizations_by_name() -> None:
    for path in MODULES:
        if path.name == "rules.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                literals = {c.value for c in [node.left, *node.comparators] if isinstance(c, ast.Constant)}
                assert not literals & set(TABLE), f"{path}:{node.lineno} compares with a parameterization's name"
