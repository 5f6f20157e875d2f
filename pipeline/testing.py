"""For the tests of your own models: does a build have the parameterization that it is meant to have?"""

from collections.abc import Sequence

from pipeline.audit import words
from pipeline.audit.audit import SEEDS, STEPS, Audit, audit
from pipeline.audit.builds import Build


def assert_parameterization(
    build: Build, name: str, widths: Sequence[int] = (64, 128, 256), *, seeds: int = SEEDS, steps: int = STEPS
) -> Audit:
    """Raises `AssertionError`, with every departure in words, unless ``build(width)`` amounts to the parameterization
    `name` (``"mup"``), and gives the audit.

    `build` gives model and optimizer, then loss and batch where it wants its own: what ``pipeline audit`` takes. Raises
    `RequestError` for what cannot be audited.
    """
    found = audit(build, widths, expect=name, seeds=seeds, steps=steps)
    if not found.ok:
        raise AssertionError("\n".join([words.headline(found), *(f"- {one}" for one in words.departures(found))]))
    return found
