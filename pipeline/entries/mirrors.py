"""Mirrors of a run's records beside W&B: one entry each, by its `--mirrors` name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MirrorEntry:
    """Where else records are repeated while a run trains."""

    name: str
    """That of the optional extra, too, which brings the package."""
    label: str
    """As people write it."""
    build: str
    """``module:class`` of a `pipeline.mirrors.mirrors.Mirror`, made with the run's `RunConfig`."""
    package: str
    """What it imports, and no other room does."""


MIRRORS: dict[str, MirrorEntry] = {
    entry.name: entry
    for entry in (
        MirrorEntry("tensorboard", "TensorBoard", "pipeline.mirrors.to_tensorboard:TensorBoardMirror", "tensorboard"),
        MirrorEntry("trackio", "trackio", "pipeline.mirrors.to_trackio:TrackioMirror", "trackio"),
    )
}
