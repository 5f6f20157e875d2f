"""Studies: any plan with any launcher, an entry each."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.sweep import study as study_module
from pipeline.sweep.config import LAUNCHERS, PLANS, SweepConfig
from pipeline.sweep.study import Jobs, Launcher, Plan, Planned, Submit, sweep
from tests.support.studies import study


def public(protocol: type) -> set[str]:
    return {name for name in [*vars(protocol), *protocol.__annotations__] if not name.startswith("_")}


@pytest.mark.parametrize(
    ("name", "protocol"), [*((n, Plan) for n in PLANS.values()), *((n, Launcher) for n in LAUNCHERS.values())]
)
def test_an_entry_has_all_there_is_to_have(name: str, protocol: type) -> None:
    assert public(protocol) - set(dir(import_module(name))) == set()


class Recorded(ModuleType):
    """A launcher or a plan that notes what it is asked."""

    def __init__(self, name: str, said: list[str]) -> None:
        super().__init__(name)
        self.said = said

    def check(self, config: SweepConfig) -> None:
        self.said.append(f"check {self.__name__}")


class Recording(Recorded):
    WAITS = True

    def __init__(self, said: list[str], code: int = 0) -> None:
        super().__init__("launcher", said)
        self.code = code

    @contextmanager
    def opened(self, config: SweepConfig) -> Iterator[Submit]:
        yield self._submit

    def _submit(self, planned: Planned) -> int:
        self.said.append(f"submit {len(planned.runs)}")
        return self.code

    def dry_run(self, config: SweepConfig, planned: Planned) -> int:
        self.said.append(f"dry {len(planned.runs)}")
        return 0

    def jobs(self, study: Path) -> Jobs:
        return Jobs()


class Rounds(Recorded):
    """`count` rounds of two runs each, followed by one that is empty."""

    def __init__(self, said: list[str], runs: tuple[RunConfig, ...], count: int, followed: bool = True) -> None:
        super().__init__("plan", said)
        self.runs, self.left, self.followed = runs, count, followed

    def plan(self, config: SweepConfig) -> Planned:
        if not self.left:
            return Planned((), "the end", followed=True)
        self.left -= 1
        return Planned(self.runs, f"{self.left} more" if self.followed else "", {}, followed=self.followed)

    def record(self, config: SweepConfig, planned: Planned) -> None:
        self.said.append("record")


@pytest.fixture
def said() -> list[str]:
    return []


def installed(monkeypatch: pytest.MonkeyPatch, plan: ModuleType, launcher: ModuleType) -> None:
    entries = {PLANS["grid"]: plan, LAUNCHERS["local"]: launcher}
    monkeypatch.setattr(study_module, "import_module", entries.__getitem__)


def test_rounds_go_on_where_the_launcher_waits(
    tiny: RunConfig, said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, Rounds(said, (tiny, tiny), 2), Recording(said))
    assert sweep(study(tiny)) == 0
    assert said == ["check launcher", "check plan", "record", "submit 2", "record", "submit 2"]
    assert capsys.readouterr().out == "1 more\n0 more\nthe end\n"


@pytest.mark.parametrize(
    ("waits", "code", "followed"), [(False, 0, True), (True, 1, True), (True, 0, False)],
    ids=["does not wait", "a run failed", "one round alone"],
)  # fmt: skip
def test_one_round_alone(
    tiny: RunConfig, said: list[str], monkeypatch: pytest.MonkeyPatch, waits: bool, code: int, followed: bool
) -> None:
    launcher = Recording(said, code)
    launcher.WAITS = waits
    installed(monkeypatch, Rounds(said, (tiny, tiny), 3, followed), launcher)
    assert sweep(study(tiny)) == code
    assert said[2:] == ["record", "submit 2"]


def test_a_dry_run_records_and_submits_nothing(
    tiny: RunConfig, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, Rounds(said, (tiny, tiny), 3), Recording(said))
    assert sweep(study(tiny), dry_run=True) == 0
    assert said[2:] == ["dry 2"]


def test_shards_are_written_through_by_one_run_alone(
    tiny: RunConfig, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataclasses.replace(tiny.data, mode="stream", tokenizer="a/b", write_through="x", lanes=1)
    config = study(dataclasses.replace(tiny, data=data))
    for runs, followed in (((tiny, tiny), False), ((tiny,), True)):
        installed(monkeypatch, Rounds(said, runs, 3, followed), Recording(said))
        with pytest.raises(RequestError, match=r"--data\.write_through is for one run"):
            sweep(config)
    installed(monkeypatch, Rounds(said, (tiny,), 3, followed=False), Recording(said))
    assert sweep(config) == 0


def test_the_flags_offer_what_the_tables_hold() -> None:
    """In a process of its own, with one entry more, as who adds a launcher would have it."""
    code = (
        "from pipeline.sweep import config; text = open(config.__file__).read()\n"
        "text = text.replace('LAUNCHERS = {', 'LAUNCHERS = {\"cloud\": \"nowhere\", ')\n"
        "exec(compile(text, config.__file__, 'exec'), vars(config))\n"
        "from pipeline.cli.main import main\n"
        "assert main(['sweep', '--launcher', 'clowd']) == 2; main(['sweep', '--help', 'launcher'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--launcher: expected cloud or local or slurm, got 'clowd'" in done.stderr
    assert "--launcher cloud|local|slurm" in done.stdout
