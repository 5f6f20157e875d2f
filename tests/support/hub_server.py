"""A hub on this machine: repositories in memory, served as the Hugging Face hub serves them, with trouble on demand.

    with serving("owner/name", {"data/a.jsonl": b"..."}) as server:
        os.environ["HF_ENDPOINT"] = server.url
        server.fail("data/a.jsonl", "cut", times=2)

Files outside of git (LFS: all but small text) are answered by a redirection to a content server of another host name.
"""

import hashlib
import json
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

IN_GIT = ("", ".md", ".json", ".txt")
"""Suffixes of files that are not in LFS."""


class Request(NamedTuple):
    """What a client asked for."""

    method: str
    target: str
    """Name of a file, or info, tree, paths-info."""
    range: str | None
    content: bool
    """Content was sent, not a redirection or a refusal."""


@dataclass
class Fault:
    """What goes wrong with requests of one target."""

    kinds: frozenset[str]
    method: str | None
    headers: Mapping[str, str]
    left: float


@dataclass
class Repository:
    """The files of every commit, and the commit of every branch."""

    kind: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Make `files` the content of `branch`; the commit."""
        description = repr([(name, blob_id(content)) for name, content in sorted(files.items())])
        commit = hashlib.sha1(description.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit


def blob_id(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def in_lfs(name: str) -> bool:
    return PurePosixPath(name).suffix not in IN_GIT


class HubServer(ThreadingHTTPServer):
    """The server; ``with serving(...)`` starts and stops it."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 64

    def __init__(self, page_size: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.page_size = page_size
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, list[Fault]] = {}
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def add(self, repo: str, files: Mapping[str, bytes], kind: str = "dataset") -> str:
        """Serve one more repository (a dataset or a model), or new content of one; the commit."""
        return self.repositories.setdefault((kind, repo), Repository(kind)).push(files)

    def fail(
        self,
        target: str,
        *kinds: str,
        times: int | None = 1,
        method: str | None = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the next `times` requests (None: all) of a file, or of info, tree or paths-info, fail.

        kinds: a status such as 429 (with `headers`); html (a page that is not the hub's); whole (a Range is ignored);
        or slow, cut (closed half-way), reset (half-way), truncated (half of it, as if it were all), stall (half-way),
        flipped (one bit, in the first half), endless (chunks of the content, over and over). Those of content can be combined. `method` None: of any method.
        """
        fault = Fault(frozenset(kinds), method, headers or {}, float("inf") if times is None else times)
        with self.lock:
            self.faults.setdefault(target, []).append(fault)

    def heal(self) -> None:
        """Forget every fault."""
        with self.lock:
            self.faults.clear()

    def fault(self, target: str, method: str) -> Fault | None:
        """The fault of this request."""
        with self.lock:
            for fault in self.faults.get(target, ()):
                if fault.left > 0 and fault.method in (None, method):
                    fault.left -= 1
                    return fault
        return None

    def count(self, method: str, target: str) -> int:
        """Requests of `target` that were answered with content or JSON."""
        with self.lock:
            return sum(r.method == method and r.target == target and r.content for r in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients that go away are no news
            super().handle_error(request, client_address)


@contextmanager
def serving(
    repo: str, files: Mapping[str, bytes], *, kind: str = "dataset", page_size: int = 1000
) -> Iterator[HubServer]:
    """A running server with one repository."""
    server = HubServer(page_size)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        server.add(repo, files, kind)
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"
    timeout = 5
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        parts, query = [unquote(part) for part in url.path.split("/")[1:]], parse_qs(url.query)
        if parts[0] == "api" and parts[1] in ("datasets", "models") and len(parts) >= 4:
            kind, repo, rest = parts[1][:-1], "/".join(parts[2:4]), parts[4:]
        elif parts[0] == "cdn":
            kind, repo, rest = parts[1], "/".join(parts[2:4]), ["cdn", *parts[4:]]
        else:
            kind, parts = ("dataset", parts[1:]) if parts[0] == "datasets" else ("model", parts)
            repo, rest = "/".join(parts[:2]), parts[2:]
        action, revision = (rest[0] if rest else "info"), (rest[1] if len(rest) > 1 else "main")
        name = "/".join(rest[2:])
        if action == "revision":
            action = "info"
        target = name if action in ("resolve", "cdn") else action

        form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        fault = self.server.fault(target, self.command)
        if fault and "html" in fault.kinds:
            return self._send(200, b"<html>Please log in to this network</html>", {"Content-Type": "text/html"})
        status = next((int(kind) for kind in fault.kinds if kind.isdecimal()), None) if fault else None
        if fault and status:
            return self._refuse(status, target, fault.headers)

        repository = self.server.repositories.get((kind, repo))
        if repository is None:
            return self._refuse(401, target, {"X-Error-Code": "RepoNotFound"})
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, target, {"X-Error-Code": "RevisionNotFound"})
        files = repository.commits[commit]

        if action == "info":
            self._json(target, _info(repo, commit, files, query))
        elif action == "tree":
            self._tree(kind, repo, revision, name, files, query)
        elif action == "paths-info":
            wanted = parse_qs(form)["paths"]
            self._json(target, [entry for entry in _entries(files) if entry["path"] in wanted])
        elif action not in ("resolve", "cdn") or name not in files:
            self._refuse(404, target, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self._file(kind, repo, commit, name, files[name], fault, redirected=action == "cdn")

    def _tree(self, kind: str, repo: str, revision: str, folder: str, files: dict[str, bytes], query: Any) -> None:
        start = f"{folder}/" if folder else ""
        entries = [entry for entry in _entries(files) if entry["path"].startswith(start)]
        if folder and not entries:
            return self._refuse(404, "tree", {"X-Error-Code": "EntryNotFound"})
        if query.get("recursive", ["false"])[0].lower() != "true":
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(start)]
        first, size = int(query.get("cursor", ["0"])[0]), self.server.page_size
        headers = {}
        if first + size < len(entries):
            inside = f"/{quote(folder, safe='')}" if folder else ""
            path = f"/api/{kind}s/{repo}/tree/{quote(revision, safe='')}{inside}"
            recursive = query.get("recursive", ["false"])[0]
            headers["Link"] = f'<{self.server.url}{path}?recursive={recursive}&cursor={first + size}>; rel="next"'
        self._json("tree", entries[first : first + size], headers)

    def _file(
        self, kind: str, repo: str, commit: str, name: str, content: bytes, fault: Fault | None, *, redirected: bool
    ) -> None:
        lfs, digest = in_lfs(name), hashlib.sha256(content).hexdigest()
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{digest if lfs else blob_id(content)}"',
            "Accept-Ranges": "bytes",
        }
        if lfs and not redirected:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"'}
            place = f"cdn/{kind}/{repo}/{commit}/{quote(name)}"
            headers["Location"] = f"http://localhost:{self.server.server_port}/{place}"
            if fault:  # meant for the content
                fault.left += 1
            self._note(name, content=False)
            return self._send(302, b"", headers)

        kinds = fault.kinds if fault else frozenset()
        status, asked = 200, self.headers.get("Range")
        if asked and "whole" not in kinds:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            if int(first) >= len(content):
                return self._refuse(416, name, {"Content-Range": f"bytes */{len(content)}"})
            end = min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            status, content = 206, content[int(first) : end]
        self._note(name, content=True)
        self._send(status, content, headers, kinds)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], kinds: frozenset[str] = frozenset()) -> None:
        half = body[: len(body) // 2]
        if "flipped" in kinds:
            body = _flip(body, len(half) // 2)
            half = body[: len(half)]
        if "truncated" in kinds:
            body = half
        self.send_response(status)
        length = {"Transfer-Encoding": "chunked"} if "endless" in kinds else {"Content-Length": str(len(body))}
        for key, value in {**length, **headers, "Connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        while "endless" in kinds and not self.server.stopping.is_set():  # until the client goes
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        if kinds & {"cut", "reset", "stall"}:
            self._dribble(half) if "slow" in kinds else self.wfile.write(half)
            if "reset" in kinds:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            while "stall" in kinds and not self.server.stopping.wait(0.05):
                if select.select([self.connection], [], [], 0)[0]:  # the client has gone
                    break
        elif "slow" in kinds:
            self._dribble(body)
        else:
            self.wfile.write(body)

    def _dribble(self, body: bytes) -> None:
        piece = max(1, len(body) // 20)
        for start in range(0, len(body), piece):
            self.wfile.write(body[start : start + piece])
            if self.server.stopping.wait(0.1):
                return

    def _json(self, target: str, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        self._note(target, content=True)
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _refuse(self, status: int, target: str, headers: Mapping[str, str]) -> None:
        self._note(target, content=False)
        self._send(
            status, json.dumps({"error": f"no {target}"}).encode(), {"Content-Type": "application/json", **headers}
        )

    def _note(self, target: str, *, content: bool) -> None:
        with self.server.lock:
            self.server.requests.append(Request(self.command, target, self.headers.get("Range"), content))


def _info(repo: str, commit: str, files: dict[str, bytes], query: Mapping[str, list[str]]) -> dict[str, Any]:
    info: dict[str, Any] = {"_id": "0", "id": repo, "sha": commit}
    if "expand" not in query:
        siblings = [{"rfilename": name} for name in files]
        info |= {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        info |= {"siblings": siblings}
    return info


def _entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Files and folders, as the tree API describes them."""
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    entries = [{"type": "directory", "oid": blob_id(name.encode()), "size": 0, "path": name} for name in folders]
    for name, content in files.items():
        entry = {"type": "file", "oid": blob_id(content), "size": len(content), "path": name}
        if in_lfs(name):
            digest = hashlib.sha256(content).hexdigest()
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
            entry |= {
                "oid": blob_id(pointer),
                "lfs": {"oid": digest, "size": len(content), "pointerSize": len(pointer)},
            }
        entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry["path"]))


def _flip(body: bytes, place: int) -> bytes:
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :] if body else body
