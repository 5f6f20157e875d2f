"""Tables, counts, durations and progress as they are printed."""

import io
import sys

import pytest

from pipeline.console import Lanes, Progress, duration, plural, table, wrapped


def test_columns_are_as_wide_as_their_cells() -> None:
    assert table([("a", "long cell", ""), ("long", "b", "c")]) == ["  a     long cell", "  long  b          c"]
    assert table([("1", "22"), ("333", "4")], lead="", right=True, least=3) == ["  1   22", "333    4"]


def test_prose_is_wrapped_and_indented_like_its_first_line() -> None:
    first, second = wrapped("word " * 30, "  - ")
    assert first.startswith("  - word")
    assert second.startswith("    word")
    assert len(first) <= 118


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (60 * 89, "89 min"), (60 * 90, "1.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert [plural(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_with_lines_above_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(4, "run", done=1)
    progress.say("hello")
    progress.at(2, "soon")
    progress.at(2, "sooner")
    progress.at(3, total=6)
    progress.close()
    assert "2/4" in terminal.getvalue()
    assert "sooner" in terminal.getvalue()
    assert "3/6" in terminal.getvalue()
    assert capsys.readouterr().out == "hello\n"


def test_lanes_are_bars_of_what_goes_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    lanes = Lanes(2)
    lanes.show([("one", 3, 12, "loss 5.000"), ("two", 0, 12, ""), ("three", 1, 12, "")])
    lanes.show([("two", 6, 12, "loss 4.000")])
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "one  25%|" in shown
    assert "3/12, loss 5.000" in shown
    assert "three" not in shown, "there is no room"
    *_, first, second = shown.replace("\n", "").split("\r")
    assert "two  50%|" in first
    assert "6/12, loss 4.000" in first
    assert not second.replace("\x1b[A", "").strip(), "nothing is left of what has ended"
    lanes.close()
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    Lanes(2).show([("one", 3, 12, "")])
    assert capsys.readouterr().err == ""


def test_progress_elsewhere_is_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(4, "run")
    progress.at(1, "soon")
    progress.say("1 of 4")
    progress.close()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("1 of 4\n", "")
