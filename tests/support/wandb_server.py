"""A server that speaks the part of W&B's API that its client needs: GraphQL for runs and views, and the file stream.

It keeps what it is sent, refuses what W&B would (no key, a history line that is not the next one), and can hang up in
the middle of a run's history.
"""

import base64
import gzip
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlparse

ENTITY, KEY = "tester", "0" * 40
HISTORY = "wandb-history.jsonl"


@dataclass
class Run:
    """One run as the server knows it."""

    name: str
    entity: str
    project: str
    display_name: str = ""
    group: str = ""
    state: str = "running"
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    sent: int = 0
    """History lines that arrived, those that came twice counted twice."""

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files.get(HISTORY, [])]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.files.get("wandb-summary.json", ["{}"])
        return dict(json.loads(lines[-1]))

    @property
    def id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}:{self.project}:{self.entity}".encode()).decode()


class Server:
    """A stand-in, listening within a ``with``."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        """Names of the operations."""
        self.hang_up_after: int | None = None
        """History lines, over all runs, after which no request is answered any more."""
        self._lock = threading.RLock()
        self._http = _Http(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def gone(self) -> bool:
        return self.hang_up_after is not None and self.sent >= self.hang_up_after

    @property
    def sent(self) -> int:
        return sum(run.sent for run in self.runs.values())

    # -----------------------------------------------------------------------------------------------------------------
    # GraphQL

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        query, variables = body["query"], body.get("variables") or {}
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = body.get("operationName") or (found[1] if found else "")
        with self._lock:
            self.asked.append(name)
            handler = getattr(self, f"_on_{name}", None)
            if handler is None:
                return {"errors": [{"message": f"the stand-in does not know {name}"}]}
            return {"data": handler(variables)}

    def _on_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": self._viewer()}

    _on_GetDefaultEntity = _on_GetViewer = _on_Viewer

    def _on_ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _on_RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(asked["name"])
        project = {"id": "UHJvamVjdA==", "name": asked["project"], "entity": {"id": "RW50aXR5", "name": ENTITY}}
        if run is None:
            return {"model": {**project, "bucket": None}}
        history = run.files.get(HISTORY, [])
        bucket = {
            "id": run.id, "name": run.name, "summaryMetrics": json.dumps(run.summary), "displayName": run.display_name,
            "logLineCount": 0, "historyLineCount": len(history), "eventsLineCount": 0,
            "historyTail": json.dumps(history[-1:]), "eventsTail": "[]", "config": json.dumps(run.config),
            "tags": run.tags, "notes": None, "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        return {"model": {**project, "bucket": bucket}}

    def _on_UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        entity, project = asked.get("entity") or ENTITY, asked.get("project") or "uncategorized"
        new = asked["name"] not in self.runs
        run = self.runs.setdefault(asked["name"], Run(asked["name"], entity, project))
        run.display_name, run.group = asked.get("displayName") or run.display_name, asked.get("groupName") or run.group
        run.tags = asked["tags"] if asked.get("tags") is not None else run.tags
        run.config = json.loads(asked["config"]) if asked.get("config") else run.config
        run.state = "running"
        bucket = {
            "id": run.id, "name": run.name, "displayName": run.display_name, "description": "", "config": "{}",
            "sweepName": None, "historyLineCount": len(run.files.get(HISTORY, [])),
            "project": {"id": "UHJvamVjdA==", "name": project, "entity": {"id": "RW50aXR5", "name": entity}},
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _on_CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in asked["files"]]
        return {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": files}}

    def _on_OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _on_Runs(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["project"] not in {run.project for run in self.runs.values()}:
            return {"project": None}
        groups = json.loads(asked["filters"])["group"]["$in"]
        found = [run for run in self.runs.values() if run.project == asked["project"] and run.group in groups]
        edges = [{"node": self._node(run), "cursor": run.name} for run in found]
        page = {"endCursor": None, "hasNextPage": False}
        runs = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": runs}}

    def _node(self, run: Run) -> dict[str, Any]:
        return {
            "id": run.id, "projectId": "1", "tags": run.tags, "name": run.name, "displayName": run.display_name,
            "sweepName": None, "state": run.state, "config": json.dumps(run.config), "group": run.group,
            "jobType": None, "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00", "description": "", "notes": None, "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.history),
            "user": {"name": ENTITY, "username": ENTITY}, "historyKeys": {"lastStep": run.history[-1]["_step"], "keys": {}} if run.history else None,
        }  # fmt: skip

    def _on_UpsertView2(self, asked: dict[str, Any]) -> dict[str, Any]:
        new = asked.get("id") not in self.views
        view = {"id": base64.b64encode(f"View:{1000 + len(self.views)}".encode()).decode()}  # without padding
        view = view if new else self.views[asked["id"]]
        self.views[view["id"]] = view | {key: value for key, value in asked.items() if key != "id"}
        return {"upsertView": {"view": self._view(view["id"]), "inserted": new}}

    _on_upsertView = _on_UpsertView2

    def _on_SpecificReport(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"view": self._view(asked["reportId"]) if asked["reportId"] in self.views else None}

    def _on_GetProjects(self, asked: dict[str, Any]) -> dict[str, Any]:
        node = {
            "id": "UHJvamVjdA==",
            "entityName": asked["entity"],
            "createdAt": "",
            "isBenchmark": False,
            "user": None,
        }
        names = {run.project for run in self.runs.values()} | {view["projectName"] for view in self.views.values()}
        edges = [{"node": {"__typename": "Project", "name": name, **node}} for name in sorted(names)]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": edges}}

    def _on_View(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = [self._view(key) for key, view in self.views.items() if view["name"] == asked["viewName"]]
        return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}

    def _view(self, key: str) -> dict[str, Any]:
        view = self.views[key]
        project = {"id": "UHJvamVjdA==", "name": view["projectName"], "entityName": view["entityName"]}
        own = {name: view[name] for name in ("id", "name", "displayName", "description", "spec")}
        return {**own, "createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00", "project": project}

    # -----------------------------------------------------------------------------------------------------------------
    # The file stream

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Lines at their offsets, and how the run ended."""
        with self._lock:
            run = self.runs[run_id]
            for name, chunk in sorted((body.get("files") or {}).items()):  # the history before the summary
                lines, offset = run.files.setdefault(name, []), chunk["offset"]
                content = chunk["content"]
                if name == HISTORY:
                    assert offset <= len(lines), f"history of {run_id} goes on at {offset}, not at {len(lines)}"
                    if self.hang_up_after is not None:
                        content = content[: self.hang_up_after - self.sent]
                    run.sent += len(content)
                lines[offset : offset + len(content)] = content
                if self.gone:  # with half of the request
                    return
            if body.get("complete"):
                run.state = "failed" if body.get("exitcode") else "finished"

    def _viewer(self) -> dict[str, Any]:
        team = {"edges": [{"node": {"name": ENTITY}}]}
        return {
            "id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "admin": False,
            "flags": "{}", "teams": team, "deletedAt": None, "apiKeys": {"edges": []},
        }  # fmt: skip


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients that were killed
            raise


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_HEAD(self) -> None:
            self._send({})

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._send({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if server.gone:
                self.close_connection = True
                return
            if not self.path.startswith(("/graphql", "/files")):  # the client's own telemetry
                self._send({})
            elif self.headers.get("Authorization") != "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode():
                self._send({"errors": [{"message": "user is not logged in"}]}, 401)
            elif self.path == "/graphql":
                self._send(server.answer(json.loads(body)))
            else:
                _, _, _, _, run_id, _ = urlparse(self.path).path.split("/")
                server.stream(unquote(run_id), json.loads(body))
                if server.gone:
                    self.close_connection = True
                    return
                self._send({"exitcode": None, "limits": {}})

    return Handler
