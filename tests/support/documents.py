"""The README and the pages of docs/, and what they say to type."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "analysis" / "questions").glob("*.md")),
    *(ROOT / d / "README.md" for d in ("analysis", "analysis/results", "data", "slurm")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TYPED = re.compile(r"(\.venv/bin/)?(pipeline \S|python (-m )?[a-z][\w./]+( |$))")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def spans(page: Path) -> list[str]:
    """Inline code."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))]


def commands(page: Path) -> list[str]:
    """What is typed after a prompt, in fences and in lines of text, each once and in the order of the page."""
    found: list[str] = []
    for part in re.finditer(f"{FENCE.pattern}|`([^`]+)`", page.read_text(), FENCE.flags):
        _, fence, span = part.groups()
        found += re.sub(r"\\\n", " ", fence).splitlines() if span is None else [" ".join(span.split())]
    typed = (re.split(r"\s+#\s", line)[0].strip() for line in found)
    return list(dict.fromkeys(line.removeprefix(".venv/bin/") for line in typed if _TYPED.match(line)))
