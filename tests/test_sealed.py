"""Sealed JSON: the bytes on disk that older versions wrote and read, and every kind of damage."""

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.sealed import json_sha256, read_sealed, write_sealed

CONTENT = {"b": [1, 2.5, None], "a": {"ü": "x", "y": True}}
SHA256 = hashlib.sha256(b'{"a": {"y": true, "\\u00fc": "x"}, "b": [1, 2.5, null]}').hexdigest()


def test_the_bytes_are_those_of_every_version(tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    write_sealed(path, CONTENT)
    body = '{"b": [1, 2.5, null], "a": {"\\u00fc": "x", "y": true}'
    assert path.read_text() == f'{body}, "sha256": "{SHA256}"}}'
    write_sealed(path, CONTENT, seal="checksum")
    assert path.read_text() == f'{body}, "checksum": "{SHA256}"}}'
    write_sealed(path, CONTENT, indent=2)
    assert path.read_text() == json.dumps({**CONTENT, "sha256": SHA256}, indent=2) + "\n"


@pytest.mark.parametrize("seal", ["sha256", "checksum"])
def test_what_is_read_is_what_was_written_in_its_order(tmp_path: Path, seal: str) -> None:
    write_sealed(tmp_path / "a.json", CONTENT, seal=seal, indent=1)
    content = read_sealed(tmp_path / "a.json", seal=seal)
    assert (content, list(content)) == (CONTENT, ["b", "a"])


def test_neither_layout_nor_order_are_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**CONTENT, "sha256": SHA256}, indent=7, sort_keys=True))
    assert read_sealed(path) == CONTENT
    assert json_sha256(dict(reversed(CONTENT.items()))) == SHA256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"a\.json: Expecting value.*"),
        (b"\xff", r"a\.json: 'utf-8' codec can't decode.*"),
        (b"[" * 100_000, r"a\.json: .*recursion.*"),
        (b"[1]", r"a\.json: not a JSON object"),
        (b"null", r"a\.json: not a JSON object"),
        (b"{}", r"wrong checksum of a\.json"),
        (b'{"a": 1, "sha256": null}', r"wrong checksum of a\.json"),
        (b'{"a": 1, "checksum": "0"}', r"wrong checksum of a\.json"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"\A{message}\Z"):
        read_sealed(tmp_path / "a.json")


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "a.json")


def test_one_flipped_bit_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"a": [1, 2.5, "text"]})
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"a\.json"):
            read_sealed(path)
