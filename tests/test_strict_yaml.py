"""YAML as people mean it, held against PyYAML's own reading where the two agree."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.strict_yaml import dump_yaml, load_entries, load_yaml, parse_recipe


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("0", 0),
        ("-12", -12),
        ("1_000", 1000),
        ("0x1f", 31),
        ("1e-3", 0.001),
        ("2E5", 2e5),
        ("-.5", -0.5),
        (".inf", float("inf")),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("null", None),
        ("", None),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = parse_recipe(text)
    assert (found, type(found)) == (value, type(value))


def test_what_was_dumped_is_read_as_it_was(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "a": ["010", "1:30", "1e-3", "2024-01-01", "yes", "null", ""],
        "b": {"c": 1e-12, "d": 3, "e": None},
    }
    content["texts"] = [
        "it's: #1",
        "caf\u00e9 \U0001f600",
        "a\tb\x07\nc ",
        "word " * 60,
        "- x",
        "{y}",
        "\u2028",
        "~",
        "=",
    ]
    (tmp_path / "x.yaml").write_text(dump_yaml(content))
    assert load_yaml(tmp_path / "x.yaml") == content == yaml.safe_load(dump_yaml(content))
    assert list(yaml.safe_load(dump_yaml(content))) == ["a", "b", "texts"]


def test_a_key_counts_once_and_merged_ones_may_be_overridden() -> None:
    with pytest.raises(yaml.YAMLError, match=r"'seed' is given twice \(line 3\)"):
        parse_recipe("seed: 1\nlr: 2\nseed: 3\n")
    with pytest.raises(yaml.YAMLError, match="'b' is given twice"):
        parse_recipe("a: {b: 1, b: 2}")
    merged = parse_recipe("base: &base {lr: 1, seed: 2}\nrun:\n  <<: *base\n  seed: 3\n")
    assert merged["run"] == {"lr": 1, "seed": 3}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{x}: &{x} [{','.join(['*' + y] * 9)}]\n" for x, y in zip("bcdefghi", "abcdefgh", strict=True)),
        "[" * 100_000,
        "- " * 100_000 + "1",
        "{a: " * 1000,
        "a: &a [*a]",
        "&a {b: *a}",
    ],
    ids=["aliases", "brackets", "dashes", "braces", "a list in itself", "a mapping in itself"],
)
def test_bombs_are_refused_at_once(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(yaml.YAMLError) as error:
        parse_recipe(text)
    assert len(str(error.value).splitlines()) == 1
    assert time.monotonic() - began < 5


def test_numbers_and_bytes_that_python_does_not_know(tmp_path: Path) -> None:
    for content in (b"a: 1" + b"0" * 5000, b"a: \xff\xfe\x00", b"a: \x00", b"a: [", b"*x", b"!!python/object:os.x {}"):
        (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(yaml.YAMLError) as error:
            load_yaml(tmp_path / "x.yaml")
        assert len(str(error.value).splitlines()) >= 1


def test_yaml_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1, 2.5, true, null, x]\n")
    assert load_yaml(tmp_path / "a.yaml") == {"a": [1, 2.5, True, None, "x"]}
    (tmp_path / "a.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(yaml.YAMLError):
        load_yaml(tmp_path / "a.yaml")


TEXTS = [
    "a: 1\nb: {c: [1, 2]}\n",
    "a: 1\nb:\n  c: 010\n  d: |\n    two\n    lines\n_e: x\n",
    "a: |\n  kept\nb: >-\n  folded\n  text\n",
    "a:\n- 1\n- b\nc: 'x\n\n  y'\n",
    "# said\na: 1\n\n# more\nb: 2\n",
    "---\na: 1\n",
    "a: &x [1]\nb: *x\n",
    "",
    "a: 1\na: 2\n",
    "a: 1\nb: 2\na: 3\n",
    "a: 'x\nb: 2\n",
    "a: [1\nb: 2\n",
    "a: 1\nb\n",
    "- 1\n",
    "just text",
    "a: 1\n---\nb: 2\n",
    "a: 1\nb: *y\n",
    '"a": 1\nb: 2\n',
]


@pytest.mark.parametrize("text", TEXTS)
def test_entries_are_what_the_whole_file_holds(text, tmp_path):
    def held(load):
        try:
            return load(path)
        except yaml.YAMLError as error:
            return f"refused: {error}"

    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert held(load_entries) == held(load_entries) == held(load_yaml)
