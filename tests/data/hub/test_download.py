"""The hub's files: listed once, verified, fetched through every kind of trouble, shared between processes."""

import errno
import gzip
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import DataConfig
from pipeline.data.hub import download, http
from pipeline.data.hub.download import HubSource, hub_file, hub_source
from pipeline.data.sources import SourceFile, documents
from pipeline.errors import RequestError
from tests.support.hub_server import HubServer, blob_id, serving

REPO = "owner/words-1.0"


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def _rows(shard: int) -> list[dict[str, str]]:
    return [{"text": f"shard {shard} document {i} " + "word " * (i % 7)} for i in range(20)]


def _jsonl(shard: int) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in _rows(shard)).encode()


def _parquet(shard: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(_rows(shard)), sink)
    return bytes(sink.getvalue())


SHARDS = {f"global_{i // 4}/local_{i % 4}/s{i}.jsonl.zst": _zstd(_jsonl(i)) for i in range(12)}
BIG = "big/random.jsonl.zst"
FILES = {
    ".gitattributes": b"*.zst filter=lfs\n",
    "README.md": b"# Words\n",
    "plain.txt": b"one\n\ntwo\n",
    "table.parquet": _parquet(99),
    BIG: _zstd(random.Random(0).randbytes(200_000)),
    **SHARDS,
}


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 12)  # what reaches the disk at once
    monkeypatch.setattr(http, "ATTEMPTS", 5)
    monkeypatch.setattr(http, "BASE_WAIT", 0.01)
    monkeypatch.setattr(http, "MAX_WAIT", 0.05)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving(REPO, FILES) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
        for child in _children:
            child.kill()
            child.communicate()
        _children.clear()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every sleep of this process, huggingface_hub's too, not slept."""
    kept: list[float] = []
    monkeypatch.setattr(time, "sleep", kept.append)
    return kept


def _config(files: str = "**", *, repo: str = REPO, revision: str = "main", seed: int = 0) -> DataConfig:
    return DataConfig(name="w", format="text", repo=repo, revision=revision, files=files, file_seed=seed)


def _one(name: str = BIG) -> tuple[HubSource, SourceFile]:
    source = hub_source(_config(name))
    assert [file.name for file in source.files] == [name]
    return source, source.files[0]


def _read(source: HubSource, file: SourceFile) -> bytes:
    with source.open(file) as path:
        return path.read_bytes()


def _downloads(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "downloads"
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix not in (".lock",)
    )


_children: list[subprocess.Popen[str]] = []


def _python(code: str, server: HubServer, **env: str) -> subprocess.Popen[str]:
    head = (
        "import sys, time, huggingface_hub\nfrom pipeline.config import DataConfig\nfrom pipeline.data.hub import "
        "download\n"
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 12\n"
        f"source = lambda: download.hub_source(DataConfig(name='w', format='text', repo={REPO!r}, files={BIG!r}))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", head + code],
        env={**os.environ, "HF_ENDPOINT": server.url, **env},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _children.append(child)
    return child


# ---------------------------------------------------------------------------------------------------------------------
# Which files


def test_lists_names_sizes_and_hashes(server: HubServer) -> None:
    source = hub_source(_config())
    files = {file.name: file for file in source.files}
    assert set(files) == set(FILES) - {"README.md", ".gitattributes"}, "** is what we can read"
    assert all(file.size == len(FILES[file.name]) for file in source.files)
    assert files["plain.txt"].sha256 is None
    assert source.blobs == {"plain.txt": blob_id(FILES["plain.txt"])}
    assert all(file.sha256 for file in source.files if file.name != "plain.txt")
    commit = server.repositories["dataset", REPO].branches["main"]
    assert source.origin == {"repo": REPO, "revision": "main", "commit": commit}


def test_follows_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(REPO, FILES, page_size=4) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert {file.name for file in hub_source(_config("global_*/**")).files} == set(SHARDS)
        assert server.count("GET", "tree") > 4


def test_lists_once_and_then_needs_no_network(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hub_source(_config())
    server.add(REPO, {"new.txt": b"new"})
    assert hub_source(_config()) == first, "all runs of a study read one commit"
    assert (server.count("GET", "info"), server.count("GET", "tree")) == (1, 1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert hub_source(_config("plain.txt")).files == tuple(f for f in first.files if f.name == "plain.txt")


@pytest.mark.slow
def test_of_several_processes_one_lists(server: HubServer) -> None:
    server.fail("tree", "slow", times=None)
    children = [_python("print(source().origin['commit'])", server) for _ in range(4)]
    answers = {child.communicate(timeout=60) for child in children}
    assert answers == {(server.repositories["dataset", REPO].branches["main"] + "\n", "")}
    assert (server.count("GET", "info"), server.count("GET", "tree")) == (1, 1)


@pytest.mark.parametrize("how", ["torn", "renamed", "empty", "other"])
def test_a_damaged_listing_is_fetched_again(
    server: HubServer, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = hub_source(_config())
    (path,) = (tmp_path / "cache" / "hub").glob("*.json")
    assert path.name == "owner--words-1.0@main.json"
    content = path.read_bytes()
    damaged = {
        "torn": content[: len(content) // 2],
        "renamed": content.replace(b"plain.txt", b"plain.tyt"),
        "empty": b"",
        "other": b"[1]",
    }
    path.write_bytes(damaged[how])
    assert hub_source(_config()) == first
    assert server.count("GET", "tree") == 2
    assert "is damaged, fetching it again" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_revisions_have_listings_of_their_own(server: HubServer, tmp_path: Path) -> None:
    repository = server.repositories["dataset", REPO]
    revisions = ["refs/convert/parquet", "refs--convert--parquet", "../../up", "refs%2Fconvert%2Fparquet"]
    for i, revision in enumerate(revisions):
        repository.push({f"{i}.txt": b"text"}, branch=revision)
    for _ in range(2):
        names = [hub_source(_config(revision=revision)).files[0].name for revision in revisions]
        assert names == [f"{i}.txt" for i in range(len(revisions))]
    listings = list((tmp_path / "cache" / "hub").glob("*.json"))
    assert len(listings) == len(revisions) == server.count("GET", "tree")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"], "nothing outside the cache"


@pytest.mark.parametrize(
    ("glob", "taken", "left"),
    [
        ("a_*_of_10/b_*/*.jsonl.zst", ["a_01_of_10/b_2/x.jsonl.zst"], ["a_01_of_10/b_2/c/x.jsonl.zst", "a_01_of_10/x"]),
        ("**/*.txt", ["x.txt", "a/x.txt", "a/b/x.txt"], ["x.txt.gz", "a/xtxt"]),
        ("data/**", ["data/x", "data/a/x"], ["data", "mydata/x", "x/data/x"]),
        ("a/**/z.txt", ["a/z.txt", "a/b/c/z.txt"], ["a/bz.txt", "ab/z.txt"]),
        ("**.txt", ["a.txt", "a/b.txt"], ["a.txtx"]),
        ("s?.txt", ["s1.txt"], ["s12.txt", "s/.txt"]),
        ("s[0-3x].txt", ["s0.txt", "s3.txt", "sx.txt"], ["s4.txt", "s-.txt"]),
        ("s[!0-3].txt", ["s4.txt"], ["s0.txt", "s/.txt"]),
        ("a+(b)|c", ["a+(b)|c"], ["aab", "c"]),
        ("s[1", ["s[1"], ["s1"]),
        (
            "**",
            ["a.parquet", "a/b.jsonl.zst", "c.txt.gz", "d.ndjson"],
            ["README.md", ".gitattributes", "x.zst", "a.json"],
        ),
    ],
)
def test_glob(glob: str, taken: list[str], left: list[str]) -> None:
    assert [name for name in taken if not download._matches(name, glob)] == []
    assert [name for name in left if download._matches(name, glob)] == []


@pytest.mark.usefixtures("server")
def test_the_order_is_a_function_of_the_seed() -> None:
    orders = [[file.name for file in hub_source(_config("global_*/**", seed=seed)).files] for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(SHARDS) for order in orders)
    assert sorted(SHARDS) not in orders


@pytest.mark.usefixtures("server")
def test_nothing_matches() -> None:
    with pytest.raises(
        RequestError, match=r"no file of owner/words-1.0 matches --data.files '\*.csv': it has, for ex.*"
    ):
        hub_source(_config("*.csv"))
    with pytest.raises(RequestError, match=r"--data.files '\[z-a\]' is not a glob: bad character range"):
        hub_source(_config("[z-a]"))


def test_names_that_would_leave_the_cache(server: HubServer) -> None:
    server.add("owner/evil", {"../../x.txt": b"x"})
    with pytest.raises(RequestError, match="impossible name"):
        hub_source(_config(repo="owner/evil"))


@pytest.mark.parametrize(
    ("fault", "headers", "message"),
    [
        (
            "401",
            {"X-Error-Code": "GatedRepo"},
            r"it is gated: accept its conditions .* and log in with `hf auth login`",
        ),
        ("401", {}, r"does not allow it \(error 401\): log in with `hf auth login` or set HF_TOKEN"),
        ("403", {}, r"does not allow it \(error 403\): log in"),
        (
            "404",
            {"X-Error-Code": "RepoNotFound"},
            r"no such repository, or it is private: check the name owner/words-1.0",
        ),
        ("404", {"X-Error-Code": "RevisionNotFound"}, r"has no revision 'main'"),
        ("400", {}, r"cannot list the dataset repository owner/words-1.0: "),
    ],
)
def test_refusals_of_the_listing(server: HubServer, fault: str, headers: dict[str, str], message: str) -> None:
    for target in ("info", "tree"):
        server.heal()
        server.fail(target, fault, times=None, headers=headers)
        before = len(server.requests)
        with pytest.raises(RequestError, match=message) as caught:
            hub_source(_config())
        assert "\n" not in str(caught.value)
        assert len(server.requests) - before <= 2, "no retry"


@pytest.mark.usefixtures("server")
def test_what_does_not_exist() -> None:
    with pytest.raises(RequestError, match="no such repository"):
        hub_source(_config(repo="owner/nothing"))
    with pytest.raises(RequestError, match="no revision 'v9'"):
        hub_source(_config(revision="v9"))
    with pytest.raises(RequestError, match="cannot list the dataset repository a--b/c: "):
        hub_source(_config(repo="a--b/c"))


def test_without_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        RequestError, match=r"gave up after 5 attempts, the last: no connection .*list it where there is"
    ):
        hub_source(_config())
    assert len(waits) == 4
    assert max(waits) <= 0.05, "huggingface_hub did not wait as well"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=r"HF_HUB_OFFLINE is set: list it where there is network .*PIPELINE_CACHE="):
        hub_source(_config())


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "reset", "truncated", "html", "stall"])
def test_trouble_with_the_listing(server: HubServer, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    huggingface_hub.close_session()  # the time-out is the session's
    server.page_size = 5
    server.fail("tree", fault)
    server.fail("tree", fault)
    assert len(hub_source(_config("global_*/**")).files) == len(SHARDS)
    huggingface_hub.close_session()


# ---------------------------------------------------------------------------------------------------------------------
# Their content


@pytest.mark.parametrize(
    "faults",
    [
        [("slow",)],
        [("cut",), ("cut",), ("cut",)],
        [("reset",), ("reset",)],
        [("truncated",), ("truncated",)],
        [("flipped",), ("flipped",)],
        [("flipped", "cut")],
        [("flipped", "cut"), ("cut",), ("flipped", "truncated")],
        [("cut",), ("whole",)],
        [("cut",), ("416",)],
        [("500",), ("502",), ("503",), ("504",)],
        [("429",), ("429",)],
        [("403",)],
        [("html",)],
    ],
    ids=lambda faults: "-".join("+".join(kinds) for kinds in faults),
)
def test_trouble_with_the_content(server: HubServer, tmp_path: Path, faults: list[tuple[str, ...]]) -> None:
    source, file = _one()
    for kinds in faults:
        server.fail(BIG, *kinds)
    assert _read(source, file) == FILES[BIG]
    commit = source.origin["commit"][:12]
    assert _downloads(tmp_path) == [f"owner--words-1.0@{commit}/{BIG}"], "nothing else is left"


@pytest.mark.parametrize("fault", ["500", "429", "408"])
def test_trouble_before_the_content(server: HubServer, fault: str, waits: list[float]) -> None:
    source, file = _one()
    server.fail(BIG, fault, method="HEAD", times=3)
    assert _read(source, file) == FILES[BIG]
    assert len(waits) == 3


def test_a_connection_that_gives_nothing(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    source, file = _one()
    server.fail(BIG, "stall")
    assert _read(source, file) == FILES[BIG]


def test_a_cut_download_is_resumed(server: HubServer) -> None:
    source, file = _one()
    server.fail(BIG, "cut", times=2)
    assert _read(source, file) == FILES[BIG]
    ranges = [r.range for r in server.requests if r.target == BIG and r.method == "GET"]
    starts = [int(r.removeprefix("bytes=").strip("-")) if r else 0 for r in ranges]
    assert starts[0] == 0
    assert file.size * 0.4 < starts[1] <= file.size / 2
    assert file.size * 0.6 < starts[2] <= file.size * 0.75


def test_a_later_call_resumes_what_an_earlier_one_gave_up(server: HubServer, tmp_path: Path) -> None:
    good, small = _one("plain.txt")
    _read(good, small)
    source, file = _one()
    server.fail(BIG, "cut")
    server.fail(BIG, "500", times=None)
    with pytest.raises(OSError, match=rf"cannot fetch {BIG} of .* owner/words-1.0: gave up after 5 att.*: .*500"):
        _read(source, file)
    assert any(name.endswith(".incomplete") for name in _downloads(tmp_path))
    server.heal()
    assert _read(source, file) == FILES[BIG]
    assert server.requests[-1].range is not None
    server.repositories.clear()
    assert _read(good, small) == FILES["plain.txt"], "what was there before stays"


def test_content_that_is_always_wrong(server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    for name, digest in ((BIG, "sha256"), ("plain.txt", "git blob id")):
        source, file = _one(name)
        server.fail(name, "flipped", times=None)
        with pytest.raises(
            OSError, match=rf"{name} of {REPO} is damaged.*expected {digest} (\w+), got \w+ \(3 times\)"
        ) as e:
            _read(source, file)
        assert (file.sha256 or source.blobs[name]) in str(e.value)
        assert server.count("GET", name) == 3
        assert capsys.readouterr().err.count("is damaged on arrival") == 2
        server.heal()
        assert _read(source, file) == FILES[name]


@pytest.mark.parametrize("name", ["plain.txt", BIG])
def test_content_that_does_not_end_is_left_at_its_announced_size(server: HubServer, tmp_path: Path, name: str) -> None:
    source, file = _one(name)
    server.fail(name, "endless", times=None)
    with pytest.raises(OSError, match=rf"{name} of {REPO} does not end at its announced size of {file.size} bytes"):
        _read(source, file)
    assert not _downloads(tmp_path)
    server.heal()
    assert _read(source, file) == FILES[name]


def test_an_endless_tokenizer_is_left_at_its_announced_size(server: HubServer, tmp_path: Path) -> None:
    server.add("owner/model", {"tokenizer.json": b"{}" * 7000}, kind="model")
    server.fail("tokenizer.json", "endless", times=None)
    with pytest.raises(OSError, match=r"does not end at its announced size of 14000 bytes \(3 times\)"):
        hub_file("owner/model", "tokenizer.json")
    assert sum(path.stat().st_size for path in (tmp_path / "hf").rglob("*") if path.is_file()) <= 14000
    server.heal()
    assert hub_file("owner/model", "tokenizer.json").read_bytes() == b"{}" * 7000


def test_content_of_another_size_than_listed(server: HubServer) -> None:
    source, file = _one("plain.txt")
    commits = server.repositories["dataset", REPO].commits
    commits[source.origin["commit"]]["plain.txt"] += b"!"
    with pytest.raises(OSError, match="it has 10 bytes instead of 9"):
        _read(source, file)


@pytest.mark.parametrize(
    ("status", "method", "headers", "message"),
    [
        ("404", None, {"X-Error-Code": "EntryNotFound"}, "is not there at revision"),
        ("401", "HEAD", {}, r"does not allow it \(error 401\): log in"),
        ("403", "HEAD", {}, r"does not allow it \(error 403\): log in"),
        ("403", "HEAD", {"X-Error-Code": "GatedRepo"}, "it is gated"),
    ],
)
def test_refusals_are_final(
    server: HubServer, status: str, method: str | None, headers: dict[str, str], message: str, waits: list[float]
) -> None:
    source, file = _one()
    server.fail(BIG, status, method=method, times=None, headers=headers)
    with pytest.raises(RequestError, match=message) as caught:
        _read(source, file)
    assert "\n" not in str(caught.value)
    assert waits == []


def test_a_refusal_between_two_looks_is_final(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    source, file = _one()
    server.fail(BIG, "403", method="HEAD", times=None)
    monkeypatch.setattr(http, "get_hf_file_metadata", lambda *args, **kwargs: SimpleNamespace(size=None))
    with pytest.raises(RequestError, match=r"does not allow it \(error 403\)"):
        _read(source, file)
    assert waits == []


def test_this_machines_own_trouble_is_final(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    source, file = _one()

    def full(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk")

    monkeypatch.setattr(http, "hf_hub_download", full)
    with pytest.raises(OSError, match=r"No space left on device: '/disk'"):
        _read(source, file)
    assert waits == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "60"}, 60),
        ({"ratelimit": '"resolvers";r=0;t=55', "ratelimit-policy": '"fixed window";"resolvers";q=5000;w=300'}, 55),
        ({"Retry-After": "9999999"}, 3600),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_waits_as_long_as_the_hub_asks(
    server: HubServer,
    method: str,
    headers: dict[str, str],
    seconds: int,
    waits: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, file = _one()
    server.fail(BIG, "429", times=2, method=method, headers=headers)
    assert _read(source, file) == FILES[BIG]
    assert waits == [pytest.approx(seconds, abs=0.011)] * 2, "and huggingface_hub did not wait as well"
    assert capsys.readouterr().err == f"hub: rate limited, waiting {seconds} s\n" * 2


def test_waits_grow_and_differ(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http, "BASE_WAIT", 10.0)
    monkeypatch.setattr(http, "MAX_WAIT", 60.0)
    source, file = _one()
    server.fail(BIG, "503", times=None)
    with pytest.raises(OSError, match="gave up after 5 attempts, the last: error 503"):
        _read(source, file)
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, (10, 20, 40, 60), strict=True))
    assert capsys.readouterr().err.count("hub: error 503, waiting ") == 4
    server.heal()
    server.fail(BIG, "503", times=4)
    assert _read(source, file) == FILES[BIG]
    assert len(set(waits)) == 8


def test_says_nothing_else_and_leaves_huggingface_hub_as_it_was(
    server: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("huggingface_hub")
    logger.setLevel(logging.WARNING)
    before = logger.level, len(huggingface_hub.get_session().event_hooks["response"])
    source, file = _one()
    assert _read(source, file) == FILES[BIG]
    assert capfd.readouterr() == ("", "")
    source.release(file)
    server.fail(BIG, "500", "429", times=1)
    server.fail(BIG, "cut", times=1)
    assert _read(source, file) == FILES[BIG]
    out, err = capfd.readouterr()
    assert out == ""
    assert all(line.startswith("hub: ") and "waiting" in line for line in err.splitlines())
    assert len(err.splitlines()) == 2
    assert before == (logger.level, len(huggingface_hub.get_session().event_hooks["response"]))


# ---------------------------------------------------------------------------------------------------------------------
# Shared and kept


@pytest.mark.parametrize("name", [BIG, "plain.txt"])
@pytest.mark.parametrize("how", ["flipped", "shorter", "longer"])
def test_a_download_that_was_damaged_later(server: HubServer, name: str, how: str) -> None:
    source, file = _one(name)
    with source.open(file) as path:
        content = bytearray(path.read_bytes())
    content[5] ^= 4
    path.write_bytes({"flipped": content, "shorter": content[:-1], "longer": content + b"x"}[how])
    assert _read(source, file) == FILES[name]
    assert server.count("GET", name) == 2
    path.write_bytes(b"?")
    server.fail(name, "500", times=None, method=None)
    with pytest.raises(OSError, match="gave up"):
        _read(source, file)
    server.heal()
    assert _read(source, file) == FILES[name]
    server.repositories.clear()
    assert _read(source, file) == FILES[name]


def test_a_damaged_copy_in_the_cache_of_huggingface_is_not_taken(server: HubServer) -> None:
    source, file = _one()
    copy = huggingface_hub.hf_hub_download(
        REPO, BIG, repo_type="dataset", revision=source.origin["commit"], endpoint=server.url
    )
    Path(copy).resolve().write_bytes(bytes(file.size))
    assert _read(source, file) == FILES[BIG]


def test_reads_the_commit_that_was_listed(server: HubServer) -> None:
    source, file = _one()
    server.add(REPO, {BIG: b"new"})
    assert _read(source, file) == FILES[BIG]


def test_a_disk_that_loses_what_is_written(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    source, file = _one("plain.txt")
    fetch = HubSource._fetch

    def fetch_and_lose(self: HubSource, lost: SourceFile, path: Path, partial: Path) -> None:
        fetch(self, lost, path, partial)
        path.write_bytes(b"?")

    monkeypatch.setattr(HubSource, "_fetch", fetch_and_lose)
    with pytest.raises(OSError, match="does not stay as it was fetched"):
        _read(source, file)


@pytest.mark.usefixtures("server")
def test_the_suffix_and_the_documents(tmp_path: Path) -> None:
    name = sorted(SHARDS)[0]
    source, file = _one(name)
    with source.open(file) as path:
        assert path == tmp_path / "cache/downloads" / f"owner--words-1.0@{source.origin['commit'][:12]}" / name
        assert list(documents(path, _config())) == [row["text"].strip() for row in _rows(0)]


def test_threads_fetch_a_file_once(server: HubServer) -> None:
    source, file = _one()
    server.fail(BIG, "slow")
    contents: list[bytes] = []
    all_have_it = threading.Barrier(4)  # nobody waits until another has finished

    def read() -> None:
        with source.open(file) as path:
            all_have_it.wait(timeout=20)
            contents.append(path.read_bytes())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents == [FILES[BIG]] * 4
    assert server.count("GET", BIG) == 1


@pytest.mark.slow
def test_processes_share_a_download(server: HubServer) -> None:
    server.fail(BIG, "slow", times=None)
    code = """
s = source()
with s.open(s.files[0]) as path:
    print("open", flush=True)
    sys.stdin.readline()
    size = path.stat().st_size
s.release(s.files[0])
print(size, path.exists(), flush=True)
"""
    children = [_python(code, server) for _ in range(2)]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "open\n"
    assert server.count("GET", BIG) == 1
    source, file = _one()
    source.release(file)
    assert children[0].communicate("\n", timeout=60) == (f"{file.size} True\n", "")
    assert children[1].communicate("\n", timeout=60) == (f"{file.size} False\n", ""), "the last one deletes it"


def test_release_keeps_what_another_holds(server: HubServer, tmp_path: Path) -> None:
    source, file = _one()
    with source.open(file) as path, source.open(file):
        source.release(file)
        assert path.read_bytes() == FILES[BIG]
    source.release(file)
    source.release(file)
    assert _downloads(tmp_path) == []
    server.fail(BIG, "cut")
    server.fail(BIG, "500", times=None)
    with pytest.raises(OSError, match="gave up"):
        _read(source, file)
    assert _downloads(tmp_path) != []
    source.release(file)
    assert _downloads(tmp_path) == [], "nor does an unfinished download stay"


def test_release_keeps_what_another_fetches(server: HubServer, tmp_path: Path) -> None:
    source, file = _one()
    server.fail(BIG, "slow")
    contents: list[bytes] = []
    thread = threading.Thread(target=lambda: contents.append(_read(source, file)))
    thread.start()
    deadline = time.monotonic() + 20
    while not list(tmp_path.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    source.release(file)
    thread.join()
    assert contents == [FILES[BIG]]
    assert server.count("GET", BIG) == 1


@pytest.mark.slow
def test_killed_while_it_downloads(server: HubServer, tmp_path: Path) -> None:
    server.fail(BIG, "slow")
    child = _python("s = source()\nwith s.open(s.files[0]): print('too late')", server)
    deadline = time.monotonic() + 30
    while not any(p.stat().st_size > 20_000 for p in tmp_path.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.communicate(timeout=30) == ("", "")
    source, file = _one()
    assert _read(source, file) == FILES[BIG]
    assert server.requests[-1].range is not None, "resumed"
    assert server.count("GET", "tree") == 1


@pytest.mark.usefixtures("server")
def test_goes_to_other_processes() -> None:
    source, file = _one("plain.txt")
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert _read(copy, file) == FILES["plain.txt"]


# ---------------------------------------------------------------------------------------------------------------------
# A file of a model, and the server itself


MODEL = {"tokenizer.json": b'{"model": {}}', "weights.bin": bytes(1000)}


def test_hub_file_and_then_without_network(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    server.add("lab/model", MODEL, kind="model")
    server.fail("tokenizer.json", "429", method="HEAD", headers={"Retry-After": "7"})
    server.fail("tokenizer.json", "cut")
    server.fail("tokenizer.json", "flipped")
    assert hub_file("lab/model", "tokenizer.json").read_bytes() == MODEL["tokenizer.json"]
    assert len(waits) == 3
    assert 7 <= waits[0] < 7.1
    assert hub_file("lab/model", "weights.bin").read_bytes() == MODEL["weights.bin"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    waits.clear()
    for offline in (False, True):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        path = hub_file("lab/model", "tokenizer.json")
        assert path.read_bytes() == MODEL["tokenizer.json"]
    assert path.is_relative_to(huggingface_hub.constants.HF_HUB_CACHE)
    assert waits == []


def test_hub_file_that_was_damaged_later(server: HubServer) -> None:
    server.add("lab/model", MODEL, kind="model")
    for name, content in MODEL.items():
        path = hub_file("lab/model", name)
        path.resolve().write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert hub_file("lab/model", name).read_bytes() == content


def test_hub_file_refusals(server: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    server.add("lab/model", MODEL, kind="model")
    with pytest.raises(
        RequestError, match=r"cannot fetch vocab.json of the model repository lab/model: it is not there"
    ):
        hub_file("lab/model", "vocab.json")
    with pytest.raises(RequestError, match="no such repository"):
        hub_file("lab/none", "tokenizer.json")
    assert waits == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(OSError, match="gave up after 5 attempts, the last: no connection"):
        hub_file("lab/model", "tokenizer.json")
    assert max(waits) <= 0.05
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=r"HF_HUB_OFFLINE is set: fetch it once where there is network"):
        hub_file("lab/model", "tokenizer.json")


@pytest.mark.slow
def test_the_server_is_a_hub_for_datasets_too(server: HubServer, tmp_path: Path) -> None:
    server.add(REPO, {"data/a.jsonl.gz": gzip.compress(_jsonl(1)), "tables/b.parquet": _parquet(2)})
    code = f"""
import datasets, json, os
rows = [list(datasets.load_dataset({REPO!r}, data_files=name, split="train", streaming=True))
        for name in ("data/*.jsonl.gz", "tables/*.parquet")]
print(json.dumps(rows), flush=True)
os._exit(0)  # pyarrow's threads may crash an interpreter that shuts down, which is not what is tested
"""
    child = _python(code, server, HF_HOME=str(tmp_path / "hf"), HF_UPDATE_DOWNLOAD_COUNTS="0")
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert json.loads(out) == [_rows(1), _rows(2)]
