"""Names of runs: settled ones stay, new settings at their defaults are silent, files count by their content."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from pipeline import identity
from pipeline.cli.arguments import parse
from pipeline.config import DataConfig, DiagnosticsConfig, ModelConfig, RunConfig, config_hash, older_hash, run_settings
from pipeline.data.preparing.prepare import prepare
from tests.conftest import changed

SETTLED_NAMES = {
    "quick": "sp-adamw-w256-lr3e-3-s0-ca07c1ee",
    "digits": "sp-sgd-w256-lr3e-3-s0-07dccdd1",
    "multi": "sp-sgd-w256-lr3e-3-s0-4994e1fc",
    "pythia": "sp-adamw-w256-lr3e-3-s0-a07f64c6",
    "mult": "sp-adamw-w128-lr3e-3-s0-84a639c6",
    "default": "sp-adamw-w256-lr3e-3-s0-59db84f6",
}


def flat(config: RunConfig) -> dict[str, object]:
    settings: dict[str, object] = {}
    for key, value in run_settings(config).items():
        settings |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return settings


def test_every_setting_is_settled_or_known_to_change_nothing_or_new() -> None:
    """What was hashed at first counts always; a setting added since must not be in either list."""
    known = set(flat(RunConfig()))
    assert known >= identity.SETTLED
    assert known >= identity.ELSEWHERE
    assert not identity.SETTLED & identity.ELSEWHERE


def test_a_new_setting_counts_only_where_it_differs_from_its_default() -> None:
    settings = flat(RunConfig())
    for known in (identity.config_hash, identity.older_hash):
        before = known(settings, settings)
        grown = settings | {"nesterov": False, "model.shortcut": None}
        assert known(grown, grown) == before
        assert known(grown | {"nesterov": True}, grown) != before
        assert known(grown | {"model.shortcut": 1}, grown) != known(grown | {"nesterov": True}, grown)


def test_diagnostics_never_count() -> None:
    plain = RunConfig()
    assert config_hash(dataclasses.replace(plain, diagnostics=DiagnosticsConfig(interval=3))) == config_hash(plain)


@pytest.mark.parametrize(
    ("change", "data"),
    [
        ({}, {"lanes": 4}),
        ({}, {"era": 64}),
        ({}, {"file_seed": 3}),
        ({}, {"text_field": "body"}),
        ({"optimizer": "sgd", "weight_decay": 0.0, "betas": (0.8, 0.9)}, {}),
        ({"optimizer": "sgd", "weight_decay": 0.0, "eps": 1e-3}, {}),
        ({"weight_decay": 0.0, "weight_decay_scaling": "constant"}, {}),
        ({"base_depth": 3}, {}),
    ],
)
def test_what_changes_nothing_does_not_count(change: dict[str, object], data: dict[str, object]) -> None:
    kept = {key: value for key, value in change.items() if key in ("optimizer", "weight_decay")}
    base = RunConfig(**kept)
    config = dataclasses.replace(base, **change, data=dataclasses.replace(base.data, **data))
    assert config_hash(config) == config_hash(base)
    assert older_hash(config) != older_hash(base) or not (set(change) - set(kept) or data)


def test_the_same_where_they_matter() -> None:
    stream = {"mode": "stream", "tokenizer": "EleutherAI/pythia-14m"}
    base = RunConfig(data=DataConfig(**stream))
    assert config_hash(dataclasses.replace(base, data=DataConfig(**stream, lanes=4))) != config_hash(base)
    assert config_hash(RunConfig(betas=(0.8, 0.9))) != config_hash(RunConfig())
    deep = RunConfig(depth_scaling="sqrt")
    assert config_hash(dataclasses.replace(deep, base_depth=3)) != config_hash(deep)


def spelled(value: str) -> RunConfig:
    config, _ = parse("train", ["--data", value])
    return config


def test_a_path_is_known_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    Path("corpus.txt").write_text("one\n\ntwo")
    Path("link.txt").symlink_to("corpus.txt")
    Path("books/corpus.txt").write_text("one\n\ntwo")
    Path("other.txt").write_text("one\n\nthree")
    Path("other.jsonl").write_text("one\n\ntwo")
    names = {
        spelled(value).run_name
        for value in ("corpus.txt", "./corpus.txt", str(tmp_path / "corpus.txt"), "link.txt", "books/*.txt", "corpus.*")
    }
    assert len(names) == 1
    assert spelled("other.txt").run_name not in names
    assert spelled("other.jsonl").run_name not in names  # read in another way
    Path("corpus.txt").write_text("one\n\nfour")
    os.utime("corpus.txt", ns=(1, 1))
    assert spelled("corpus.txt").run_name not in names


def test_how_files_are_read_counts_where_it_is_not_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "a.jsonl", "a.JSONL", "a.json.gz", "a.log"):
        Path(name).write_text('{"text": "one"}\n')

    def named(name: str, **data: str) -> str:
        return RunConfig(data=DataConfig(name="x", format="text", path=name, **data)).run_name

    assert named("a.txt") == named("a.txt", kind="text")
    assert named("a.jsonl") == named("a.jsonl", kind="jsonl") != named("a.jsonl", kind="text")
    assert named("a.log", kind="text") != named("a.log", kind="jsonl")
    # read as plain text before: what was trained so keeps its name, what is read in the right way has another
    for name in ("a.JSONL", "a.json.gz"):
        assert named(name) == named(name, kind="jsonl") != named(name, kind="text")
    assert named("a.txt", bad_lines="skip") != named("a.txt")
    assert named("a.txt", max_document="5M") == named("a.txt")
    repo = DataConfig(name="x", format="text", repo="a/b", files="*.jsonl")
    names = {
        files: [
            RunConfig(data=dataclasses.replace(repo, files=files, kind=kind)).run_name for kind in ("auto", "jsonl")
        ]
        for files in ("*.jsonl", "*.json.gz")
    }
    assert len(set(names["*.json.gz"])) == 1


def test_folders_are_known_by_what_they_hold(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HERE", str(tmp_path))
    Path("books").mkdir()
    Path("books/a.txt").write_text("one\n\ntwo")
    Path("books/b.txt").write_text("three")
    Path("shelf").symlink_to("books")
    Path("mine.yaml").write_text("name: mine\nformat: text\npath: shelf/*.txt\n")
    globs = ["books/*.txt", "./books/*.txt", "shelf/*.txt", f"{tmp_path}/books/?.txt", "$HERE/**/*.txt", "mine.yaml"]
    assert len({spelled(value).run_name for value in globs[:-2]}) == 1
    assert spelled("mine.yaml").run_name == spelled(globs[0]).run_name
    Path("books/b.txt").write_text("drei!")
    assert len({spelled(value).run_name for value in globs[:-2]}) == 1
    folder = prepare(DataConfig(name="x", format="text", path=str(text_file)), 300)
    shutil.copytree(folder, "copy")
    Path("link").symlink_to("copy")
    one, *others = (spelled(value).run_name for value in ("copy", "./copy/", "link", str(folder), "$HERE/link/"))
    assert set(others) == {one}
    shutil.rmtree("copy")
    shutil.copytree(prepare(DataConfig(name="x", format="text", path="books/*.txt"), 300), "copy")
    assert spelled("link").run_name != one


def test_prepared_shards_are_known_by_their_tokens(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare(DataConfig(name="x", format="text", path=str(text_file)), 300)
    (tmp_path / "shards").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert spelled("shards").run_name == spelled("./shards/").run_name == spelled(str(folder)).run_name
    assert spelled("shards").run_name != spelled(str(text_file)).run_name


def test_a_source_that_is_not_here_is_known_by_its_path() -> None:
    a, b = (RunConfig(data=DataConfig(name="a", format="text", path=path)) for path in ("gone/a.txt", "gone/b.txt"))
    assert config_hash(a) != config_hash(b)
    assert config_hash(a) == older_hash(a)


def test_a_tokenizer_file_is_known_by_what_it_holds(tiny: RunConfig, text_file: Path, tmp_path: Path) -> None:
    trained = prepare(tiny.data, 300) / "tokenizer.json"
    copy = tmp_path / "copy.json"
    copy.write_bytes(trained.read_bytes())
    one, two = (
        dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, tokenizer=str(path))) for path in (trained, copy)
    )
    assert one.run_name == two.run_name != tiny.run_name


def test_a_run_of_an_older_name_keeps_it(tiny: RunConfig) -> None:
    newer, older = tiny.run_name, f"sp-adamw-w32-lr1e-2-s0-{older_hash(tiny)}"
    assert newer != older
    (Path(tiny.out) / tiny.study / older).mkdir(parents=True)
    assert tiny.run_name == older
    assert changed(tiny, seed=1).run_name != changed(tiny, seed=0).run_name


def test_names_are_settled() -> None:
    """Of shipped recipes and of settings of every section, as they were when names were settled."""
    made = {
        "quick": parse("train", ["--config", "quick"])[0],
        "digits": parse("train", ["--config", "mlp-digits"])[0],
        "multi": parse("train", ["--config", "mlp-multi-index"])[0],
        "pythia": parse("train", ["--config", "pythia-adamw"])[0],
        "mult": parse(
            "train", ["--config", "quick", "--mult.output_lr", "2", "--betas", "[0.8,0.9]", "--width", "128"]
        )[0],
        "default": RunConfig(model=ModelConfig(n_layer=3)),
    }
    assert {key: config.run_name for key, config in made.items()} == SETTLED_NAMES


def test_rules_that_came_later_count_where_they_are_used() -> None:
    def name(**change: object) -> str:
        return changed(RunConfig(), **change).run_name

    assert name(schedule="constant", lr_min_ratio=0.5) == name(schedule="constant") != name()
    assert name(schedule="wsd", decay_fraction=0.2) != name(schedule="wsd") != name()
    muon = {"optimizer": "muon"}
    assert len({name(**muon), name(**muon, muon_scale="original"), name(**muon, muon_momentum=0.9)}) == 3
    assert name(**muon, momentum=0.0) == name(**muon)
    assert name(batch_scaling="sqrt", base_batch=128) != name(batch_scaling="sqrt", base_batch=256) != name()
    assert name(depth_scaling="completep") != name(depth_scaling="sqrt") != name()
    assert name(eps_scaling="width") != name()
