"""Flags over recipes: merging, strictness, and one line for what is wrong."""

from pathlib import Path

import pytest
import yaml

from pipeline.cli.arguments import Flags, RequestParser, parse
from pipeline.cli.sources import parse_source
from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.recipes import shipped
from pipeline.sweep.config import SweepConfig


def test_later_files_win_and_flags_win_over_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("width: 64\nlr: 1e-2\nmodel: {n_layer: 3, kv_heads: 1}\ndata: sotu\n")
    (tmp_path / "b.yaml").write_text("lr: 2e-2\nmodel: {kv_heads: all}\n")
    c, dry_run = parse(
        "train", [f"--config={tmp_path}/a.yaml", "--config", f"{tmp_path}/b.yaml", "--seed", "5", "--dry_run"]
    )
    assert (c.width, c.lr, c.seed, c.model.n_layer, c.model.kv_heads, dry_run) == (64, 2e-2, 5, 3, "all", True)
    assert c.steps == RunConfig().steps  # a recipe of one's own starts from the defaults, not from quick


def test_train_leaves_the_grid_alone_and_sweep_reads_it() -> None:
    assert parse("sweep", ["--widths", "32,64", "--lrs=1e-3,3e-3", "--params", "mup"])[0].widths == (32, 64)
    assert not hasattr(parse("train", [])[0], "widths")


def test_data_by_name_by_text_and_by_yaml(tmp_path: Path, text_file: Path) -> None:
    assert parse("train", ["--data", "sotu"])[0].data.format == "sotu"
    text = parse("train", ["--data", str(text_file)])[0].data
    assert (text.name, text.format, text.path, text.license) == ("corpus", "text", str(text_file), "")
    (tmp_path / "mine.yaml").write_text(f"name: mine\nformat: text\npath: {text_file}\nlicense: mine\n")
    mine = parse("train", [f"--data={tmp_path}/mine.yaml", "--data.validation_fraction", "0.3"])[0].data
    assert (mine.name, mine.license, mine.validation_fraction) == ("mine", "mine", 0.3)


def test_data_flags_go_over_the_data_recipe_wherever_they_stand(tmp_path: Path) -> None:
    for argv in (["--data", "dclm", "--data.mode", "stream"], ["--data.mode=stream", "--data=dclm"]):
        data = parse("train", [*argv, "--data.file_seed", "2"])[0].data
        assert (data.repo, data.mode, data.file_seed) == ("mlfoundations/dclm-baseline-1.0", "stream", 2)
    (tmp_path / "recipe.yaml").write_text("data: dclm\nmodel: {n_layer: 2}\n")
    assert parse("train", ["--config", f"{tmp_path}/recipe.yaml"])[0].data.tokens == 1_400_000_000
    assert parse("train", ["--data", "sotu"])[0].data.tokens is None


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (
            ["--data.path", "x.txt"],
            "--data x.txt: no such file, and no data recipe of that name",
        ),
        (["--data.kind", "text"], "--data.kind is for --data.format text, and not for sotu"),
        (["--data.revision", "v1"], "--data.revision is for --data.repo"),
        (["--data.lanes", "4"], "--data.lanes is for --data.mode stream"),
        (["--data", "dclm", "--data.mode", "stream", "--data.tokens", "2M"], "--data.tokens is for prepared text"),
        (
            ["--config", "mlp-digits", "--data.tokenizer", "x.json"],
            "--data.tokenizer is for text that is not prepared yet",
        ),
        (["--data", "my.yaml"], "the recipe's key data.files is for --data.repo, and not for mine (format sotu)"),
        (
            ["--config", "mine.yaml"],
            "the recipe's key data.path is for --data.format text or shards and files of vectors, and not for sotu",
        ),
    ],
)
def test_what_the_data_has_no_use_for_is_refused(
    argv: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("name: mine\nformat: sotu\nlanes: 2\nfiles: '*.txt'\n")
    Path("mine.yaml").write_text("data: {path: x.txt}\n")
    with pytest.raises(RequestError) as error:
        parse("train", argv)
    assert complaint in str(error.value)


def test_a_studys_workers_are_not_its_datas() -> None:
    assert parse("sweep", ["--config", "mlp-digits", "--workers", "2"])[0].workers == 2


def test_paths_are_expanded_wherever_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    for folder in ("home", "disk"):
        Path(folder).mkdir()
        Path(folder, "corpus.txt").write_text("one\n\ntwo")
        Path(folder, "data.yaml").write_text("name: mine\nformat: text\npath: $DISK/*.txt\ntokenizer: ~/t.json\n")
        Path(folder, "run.yaml").write_text("out: ${DISK}/runs\ndata: ~/corpus.txt\n")
    home, disk = str(tmp_path / "home"), str(tmp_path / "disk")
    assert parse("train", ["--data", "~/corpus.txt"])[0].data.path == f"{home}/corpus.txt"
    data = parse("train", ["--data", "$DISK/data.yaml", "--out", "~"])[0]
    assert (data.data.path, data.data.tokenizer, data.out) == (f"{disk}/*.txt", f"{home}/t.json", home)
    config = parse("train", ["--config", "~/run.yaml"])[0]
    assert (config.out, config.data.path) == (f"{disk}/runs", f"{home}/corpus.txt")
    source = parse_source("data prepare", ["~/data.yaml", "--tokenizer", "$DISK/t.json", "--path", "~/c.txt"])[0]
    assert (source.tokenizer, source.path) == (f"{disk}/t.json", f"{home}/c.txt")
    parser = RequestParser(prog="x")
    parser.add_argument("--out", type=Path)
    assert parser.parse_args(["--out", "~/a"]).out == tmp_path / "home" / "a"
    for argv in (["--out", "$NONE/a"], ["--out", "~nobody-at-all"]):
        for refuse in (lambda argv: parse("train", argv), parser.parse_args):
            with pytest.raises(RequestError, match=r"--out:? .*(no variable \$NONE is set|no such user)"):
                refuse(argv)


def test_a_glob_is_named_after_what_is_readable_of_it(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "shard_01.jsonl.zst").touch()
    for pattern, name in (
        ("books/*.jsonl.zst", "books"),
        ("books/shard_*.zst", "shard"),
        ("books/shard_01.jsonl.zst", "shard_01"),
    ):
        assert parse("train", ["--data", str(tmp_path / pattern)])[0].data.name == name


def test_a_source_for_the_data_verbs() -> None:
    config, vocab_size = parse_source("data prepare", ["dclm", "--tokens", "3M", "--workers=2"])
    assert (config.name, config.tokens, config.workers, vocab_size) == ("dclm", 3_000_000, 2, None)
    assert parse_source("data prepare", ["sotu", "--vocab_size", "512"])[1] == 512


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], f"pipeline data info: name a source ({', '.join(shipped('data'))}), a file or a folder"),
        (["dclm", "--tokns", "3"], "--tokns: unknown key tokns, did you mean tokens?"),
        (["dclm", "--workers", "few"], "--workers: expected an integer, got 'few'"),
        (["sotu", "--vocab_size", "many"], "--vocab_size: expected an integer or null, got 'many'"),
        (["dclm", "--workers", "-1"], "--data.workers must be 0 to 10000, got -1"),
        (["dclm", "--vocab_size", "300"], "--vocab_size is for --tokenizer bpe: this source has a tokenizer"),
        (["dclm", "more"], "unrecognized arguments: more"),
    ],
)
def test_a_wrong_source_is_one_line(argv: list[str], line: str) -> None:
    with pytest.raises(RequestError) as error:
        parse_source("data info", argv)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--widht", "64"], "--widht: unknown key widht, did you mean width?"),
        (["--wid", "64"], "--wid: unknown key wid, did you mean width?"),
        (["--kv_heads", "4"], "--kv_heads: unknown key kv_heads, did you mean model.kv_heads?"),
        (["--widths", "64"], "--widths: unknown key widths, did you mean width?"),
        (["--width"], "--width: expected one argument"),
        (["--width", "wide"], "--width: expected an integer, got 'wide'"),
        (["--optimizer", "adan"], "--optimizer: expected adamw or adam or sgd or muon or muon_sgd, got 'adan'"),
        (["--model.kv_heads", "few"], "--model.kv_heads: expected an integer or all, got 'few'"),
        (["--config", "nope.yaml"], "--config nope.yaml: no such file, and no recipe of that name "
                                    f"({', '.join(shipped('model_configs'))})"),
        (["--config"], "--config needs a value"),
        (["--data", "nope"], "--data nope: no such file, and no data recipe of that name "
                             f"({', '.join(shipped('data'))})"),
        (["64"], "unrecognized arguments: 64"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(argv: list[str], line: str) -> None:
    with pytest.raises(RequestError) as error:
        parse("train", argv)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("widht: 64", "unknown key widht, did you mean width?"),
        ("model: {kv: 4}", "unknown key model.kv, did you mean model.kv_heads?"),
        ("width: [", "parsing"),
        ("- 3", "is a mapping of keys to values"),
        ("model: 3", "model"),
    ],
)
def test_a_wrong_recipe_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as error:
        parse("train", ["--config", str(path)])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_flags_win_over_recipes_wherever_they_stand_and_the_last_flag_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 1e-2\nbetas: [0.5, 0.6]\n")
    c, _ = parse("train", ["--lr", "0.5", "--betas", "0.8,0.9", "--config", f"{tmp_path}/a.yaml", "--lr=0.25"])
    assert (c.lr, c.betas) == (0.25, (0.8, 0.9))


def test_values_may_begin_with_a_minus_sign() -> None:
    flags = Flags(SweepConfig, ["--lr", "-1e-3", "--slope", "-1/2,-1", "--slope=3", "--dry_run"], own=["slope"])
    assert (flags.settings, flags.own, flags.dry_run) == ({"lr": "-1e-3"}, {"slope": ["-1/2,-1", "3"]}, True)
    with pytest.raises(RequestError, match=r"^--lr must be a positive number, got -0\.001$"):
        parse("train", ["--lr", "-1e-3"])


def test_settings_over_recipes_lie_below_flags() -> None:
    flags = Flags(SweepConfig, ["--steps", "7", "--print_config"])
    with pytest.raises(SystemExit):
        flags.config()
    config = Flags(SweepConfig, ["--steps", "7"]).config(over={"steps": 3, "warmup_steps": 2, "diagnostics.first": 1})
    assert (config.steps, config.warmup_steps, config.diagnostics.first) == (7, 2, 1)


@pytest.mark.parametrize("how", ["skip_default", "skip_null", "skip_null,skip_default", ""])
def test_a_printed_config_says_no_more_than_is_asked(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("train", [f"--print_config={how}", "--width", "128", "--model.n_layer", "3"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["width"], printed["model"]["n_layer"]) == (128, 3)
    assert ("eps" in printed) == ("skip_default" not in how)
    assert ("weight_decay" in printed) == (not how)
    with pytest.raises(RequestError, match=r"^--print_config: expected skip_default or skip_null, got 'all'$"):
        parse("train", ["--print_config=all"])
