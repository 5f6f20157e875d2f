"""A study's folder, told from whatever else a user may name."""

from pathlib import Path

from pipeline.errors import RequestError


def require_study(folder: Path) -> None:
    """Raises `RequestError` for a folder that is not there, is a run, or holds studies."""
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such study folder")
    if (folder / "config.yaml").is_file():
        raise RequestError(f"{folder} is a single run; give its study folder, {folder.parent}")
    if any(folder.glob("*/config.yaml")):
        return
    if studies := sorted({path.parents[1] for path in folder.glob("*/*/config.yaml")}):
        raise RequestError(f"{folder} holds studies, not runs; give one of them: {', '.join(map(str, studies))}")
