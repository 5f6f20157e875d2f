"""Colours of the page: a hue per group and a strength per width, readable on the light and on the dark ground."""

from collections.abc import Sequence

GROUNDS = {"light": "#fdfdfb", "dark": "#14171b"}
HUES = ("#d9660f", "#1f78bd", "#1a8f63", "#b0559a", "#9a7b0a", "#6a62c4", "#5c6b73")
"""Told apart by most kinds of colour vision, and by the group's mark anyway."""
MARKS = "●◆■▲▼★"

TEXT, LEAST, MOST = 4.6, 3.2, 11.0
"""Contrasts on the ground: of text and of single marks; of the narrowest and of the widest width's marks."""

_Rgb = tuple[float, float, float]


def _rgb(colour: str) -> _Rgb:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _luminance(rgb: _Rgb) -> float:
    """Relative, of sRGB (WCAG 2)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Of two colours ``#rrggbb``, 1 to 21 (WCAG 2)."""
    low, high = sorted((_luminance(_rgb(one)), _luminance(_rgb(other))))
    return (high + 0.05) / (low + 0.05)


def shade(hue: str, wanted: float, ground: str) -> str:
    """The hue made lighter or darker until its contrast on the ground is at least `wanted`, and little more."""
    dark = _luminance(_rgb(ground)) < 0.2
    low, high = 0.0, 1.0  # from the ground's end through the hue to the other one
    for _ in range(24):
        middle = (low + high) / 2
        close = contrast(_between(hue, middle, dark), ground) >= wanted
        low, high = (low, middle) if close else (middle, high)
    return _between(hue, high, dark)


def _between(hue: str, place: float, dark: bool) -> str:
    ends = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) if dark else ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    near, far, at = (ends[0], _rgb(hue), 2 * place) if place < 0.5 else (_rgb(hue), ends[1], 2 * place - 1)
    mixed = (round(255 * (a + (b - a) * at)) for a, b in zip(near, far, strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def strengths(n: int) -> list[float]:
    """Contrasts of `n` widths, narrowest first."""
    return [LEAST * (MOST / LEAST) ** (i / (n - 1)) if n > 1 else TEXT for i in range(n)]


def css(n_groups: int, n_widths: int) -> dict[str, str]:
    """By theme: rules that give ``.g0`` the group's colour as ``--c``, and ``.g0.w2`` that of its third width."""
    themes = {}
    for theme, ground in GROUNDS.items():
        rules = []
        for place in range(n_groups):
            hue = HUES[place % len(HUES)]
            rules.append(f".g{place}{{--c:{shade(hue, TEXT, ground)}}}")
            rules += [
                f".g{place}.w{i}{{--c:{shade(hue, wanted, ground)}}}" for i, wanted in enumerate(strengths(n_widths))
            ]
        themes[theme] = "".join(rules)
    return themes


def mark(place: int) -> str:
    """The sign of a group, beside its colour."""
    return MARKS[place % len(MARKS)]


def named(places: Sequence[int]) -> str:
    """Class names of a group, or of a width of it."""
    return f"g{places[0]}" if len(places) == 1 else f"g{places[0]} w{places[1]}"
