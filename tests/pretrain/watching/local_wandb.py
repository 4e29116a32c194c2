"""A W&B service on 127.0.0.1, as much of it as the real client needs, with faults on demand.

with LocalWandb() as service:
    ...  # run the real client with the environment `service.environment`
    assert service.runs[run_id].history[0]["train/loss"] == 3.0
"""

import gzip
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_TEAM = "test-team"
# Asked by the client, and content with an empty answer.
_UNIMPORTANT = {
    "ServerInfo",
    "OrgFeatureFlags",
    "MarkRunFilesUploaded",
    "OrganizationCoreWeaveOrganizationID",
}


@dataclass
class Run:
    """What the service knows of one run."""

    name: str
    project: str = ""
    described: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    exit_code: int | None = None

    def rows(self, file: str) -> list[dict[str, Any]]:
        return [json.loads(text) for _, text in sorted(self.lines.get(file, {}).items())]

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.rows("wandb-history.jsonl")

    @property
    def summary(self) -> dict[str, Any]:
        return (self.rows("wandb-summary.json") or [{}])[-1]


class LocalWandb:
    """The service. `status_for` and `delay_for` plant faults by operation; "*" means every one."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.views: list[dict[str, Any]] = []
        self.operations: list[str] = []
        self.unknown: list[str] = []  # not empty: the client has learned to ask for more
        self.status_for: dict[str, int] = {}
        self.delay_for: dict[str, float] = {}
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "f" * 40, "NO_PROXY": "127.0.0.1"}

    def __enter__(self) -> "LocalWandb":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Close the port: from now on every connection is refused."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, operation: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the data that a GraphQL operation asks for."""
        method = re.sub(r"(?=[A-Z])", "_", operation).lower()  # UpsertBucket → _upsert_bucket
        if handler := getattr(self, method, None):
            return handler(values)
        if operation not in _UNIMPORTANT:
            self.unknown.append(operation)
        return {}

    def stream(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take numbered lines of a run's files."""
        run = self.runs.setdefault(name, Run(name))
        for file, chunk in (body.get("files") or {}).items():
            for i, line in enumerate(chunk["content"]):
                run.lines.setdefault(file, {})[chunk["offset"] + i] = line
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
        return {"exitcode": None, "limits": {}}

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": _TEAM}}]}
        return {"viewer": {"id": "U", "entity": _TEAM, "username": "tester", "flags": "{}", "teams": teams}}

    def _get_default_entity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "U", "entity": _TEAM}}

    def _server_features_query(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _upsert_bucket(self, values: dict[str, Any]) -> dict[str, Any]:
        inserted = values["name"] not in self.runs
        run = self.runs.setdefault(values["name"], Run(values["name"]))
        run.project = values.get("project") or run.project
        run.described |= {key: value for key, value in values.items() if value is not None}
        if values.get("config"):
            run.config = {key: item.get("value") for key, item in json.loads(values["config"]).items()}
        return {"upsertBucket": {"inserted": inserted, "bucket": _bucket(run)}}

    def _run_resume_status(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        team = {"id": "T", "name": _TEAM}
        return {
            "model": {
                "id": "P",
                "name": values.get("project"),
                "entity": team,
                "bucket": run and _bucket(run),
            }
        }

    def _run_stopped_status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def _create_run_files(self, values: dict[str, Any]) -> dict[str, Any]:
        where = f"{self.url}/upload/{values['run']}"
        files = [{"name": name, "uploadUrl": f"{where}/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": "R" + values["run"], "uploadHeaders": [], "files": files}}

    def _upsert_view2(self, values: dict[str, Any]) -> dict[str, Any]:
        self.views.append(values)
        return {
            "upsertView": {"view": {"id": f"V{len(self.views)}", "name": values["name"]}, "inserted": True}
        }

    def _artifact_type(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}  # not there yet

    def _create_artifact(self, values: dict[str, Any]) -> dict[str, Any]:
        """Take a table as an artifact. "Committed" spares its upload: it comes as a file of the run too."""
        sequence = {"id": "S", "latestArtifact": None}
        artifact = {"id": f"A{values['input']['digest']}", "state": "COMMITTED", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _notify_scriptable_run_alert(self, values: dict[str, Any]) -> dict[str, Any]:
        alert = (values.get("severity", ""), values["title"], values["text"])
        self.runs[values["runName"]].alerts.append(alert)
        return {"notifyScriptableRunAlert": {"success": True}}


def _bucket(run: Run) -> dict[str, Any]:
    events = run.rows("wandb-events.jsonl")
    return {
        "id": "R" + run.name,
        "name": run.name,
        "displayName": run.described.get("displayName") or run.name,
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        "wandbConfig": '{"t": 1}',
        "tags": [],
        "project": {"id": "P", "name": run.project, "entity": {"id": "T", "name": _TEAM}},
        "summaryMetrics": json.dumps(run.summary),
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsTail": json.dumps([json.dumps(row) for row in events[-1:]]),
        "historyLineCount": len(run.history),
        "eventsLineCount": len(events),
        "logLineCount": len(run.lines.get("output.log", {})),
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Stay silent: the client drops its connections when it ends."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: LocalWandb

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        operation, message = self._understood(body)
        service = self.service
        time.sleep(service.delay_for.get(operation, service.delay_for.get("*", 0)))
        status = service.status_for.get(operation, service.status_for.get("*", 200))
        with service.lock:
            service.operations.append(operation)
            reply = self._reply(operation, message, body) if status == 200 else {}
        answer = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815

    def _understood(self, body: bytes) -> tuple[str, dict[str, Any]]:
        if self.path.endswith("/file_stream"):
            return "file_stream", json.loads(body)
        if self.path.startswith("/upload/"):
            return "upload", {}
        if self.path != "/graphql":
            return self.path, {}
        message = json.loads(body)
        named = re.search(r"(?:query|mutation)\s+(\w+)", message["query"])
        return message.get("operationName") or (named[1] if named else "?"), message

    def _reply(self, operation: str, message: dict[str, Any], body: bytes) -> dict[str, Any]:
        if operation == "file_stream":
            return self.service.stream(self.path.split("/")[-2], message)
        if operation == "upload":
            _, _, run, name = self.path.split("/", 3)
            self.service.runs[run].files[name] = body
            return {}
        if self.path == "/graphql":
            return {"data": self.service.answer(operation, message.get("variables") or {})}
        self.service.unknown.append(f"{self.command} {self.path}")
        return {}

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""
