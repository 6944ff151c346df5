"""A cluster with the plugins that the test node lacks, and a Dashboards: they keep what they are sent.

Answers have the shapes of the plugins' documentation: bodies come back with defaults filled in.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.helpers.http import Quiet

PLUGINS = ("opensearch-index-management", "opensearch-alerting", "opensearch-security")
STREAM_INDICES = (".ds-darl-ood-000001", ".ds-darl-ood-000002")


@dataclass
class OperatorPlugins:
    """The state of both servers."""

    plugins: tuple[str, ...] = PLUGINS
    streams: dict[str, list[str]] = field(default_factory=lambda: {"darl-ood": list(STREAM_INDICES)})
    template: dict[str, Any] = field(default_factory=lambda: {"version": 1_000_000})  # of the streams
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    managed: dict[str, str] = field(default_factory=dict)
    monitors: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    saved: dict[str, dict[str, Any]] = field(default_factory=dict)
    indices: set[str] = field(default_factory=set)
    seen: list[tuple[str, str, Any]] = field(default_factory=list)
    revision: int = 7

    def handler(self) -> type[Quiet]:
        state = self

        class Plugins(Quiet):
            def respond(self) -> None:
                raw = self.body()
                try:
                    body = json.loads(raw) if raw else None
                except ValueError:
                    body = raw.decode()
                state.seen.append((self.command, self.path, body))
                status, data = state.answer(self.command, self.path, body, dict(self.headers))
                self.answer(status, json.dumps(data).encode())

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = respond

        return Plugins

    def writes(self) -> list[tuple[str, str]]:
        """The requests that changed something."""
        reads = ("_search", "/explain/")
        return [(m, p) for m, p, _ in self.seen if m in ("PUT", "POST", "DELETE") and not any(r in p for r in reads)]

    def answer(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        place = unquote(path.partition("?")[0])
        for pattern, name in ROUTES:
            if match := re.fullmatch(pattern, f"{method} {place}"):
                return getattr(self, name)(*match.groups(), body=body, path=path, headers=headers)
        return 404, {"error": {"type": "x", "reason": f"no {method} {place}"}}

    def info(self, **_: Any) -> tuple[int, Any]:
        return 200, {"version": {"distribution": "opensearch", "number": "3.6.0"}}

    def nodes(self, **_: Any) -> tuple[int, Any]:
        return 200, {"nodes": {"a": {"name": "n1", "plugins": [{"name": name} for name in self.plugins]}}}

    def data_stream(self, name: str, **_: Any) -> tuple[int, Any]:
        if name not in self.streams:
            return 404, {"error": {"type": "index_not_found_exception", "reason": name}}
        indices = [{"index_name": index} for index in self.streams[name]]
        return 200, {"data_streams": [{"name": name, "indices": indices}]}

    def index(self, name: str, **_: Any) -> tuple[int, Any]:
        return (200, {name: {}}) if name in self.indices else (404, {})

    def put_index(self, name: str, **_: Any) -> tuple[int, Any]:
        self.indices.add(name)
        return 200, {"acknowledged": True}

    def index_template(self, name: str, **_: Any) -> tuple[int, Any]:
        return 200, {"index_templates": [{"name": name, "index_template": self.template}]}

    def accept(self, name: str, **_: Any) -> tuple[int, Any]:
        return 200, {"acknowledged": True}

    # ---- Index State Management

    def policy(self, name: str, **_: Any) -> tuple[int, Any]:
        if name not in self.policies:
            return 404, {"error": {"type": "status_exception", "reason": "Policy not found"}}
        filled = self.policies[name] | {"policy_id": name, "schema_version": 21, "error_notification": None}
        return 200, {"_id": name, "_seq_no": self.revision, "_primary_term": 1, "policy": filled}

    def put_policy(self, name: str, *, body: Any, path: str, **_: Any) -> tuple[int, Any]:
        if name in self.policies and f"if_seq_no={self.revision}&if_primary_term=1" not in path:
            return 409, {"error": {"type": "version_conflict_engine_exception", "reason": "revision"}}
        self.policies[name] = body["policy"]
        return 200, {"_id": name}

    def explain(self, names: str, **_: Any) -> tuple[int, Any]:
        key = "index.plugins.index_state_management.policy_id"
        return 200, {index: {key: self.managed.get(index)} for index in names.split(",")} | {"total_managed_indices": 0}

    def add(self, names: str, *, body: Any, **_: Any) -> tuple[int, Any]:
        failed = [index for index in names.split(",") if index in self.managed]
        self.managed |= {index: body["policy_id"] for index in names.split(",") if index not in failed}
        reasons = [{"index_name": index, "reason": "it already has a policy"} for index in failed]
        return 200, {"updated_indices": 1, "failures": bool(failed), "failed_indices": reasons}

    def change_policy(self, names: str, **_: Any) -> tuple[int, Any]:
        return 200, {"updated_indices": len(names.split(",")), "failures": False, "failed_indices": []}

    # ---- alerting

    def find_monitors(self, **_: Any) -> tuple[int, Any]:
        if not self.monitors:
            return 404, {"error": {"type": "index_not_found_exception", "reason": "no monitors yet"}}
        return 200, {"hits": {"hits": [{"_id": key, "_source": body} for key, body in self.monitors.items()]}}

    def post_monitor(self, *, body: Any, **_: Any) -> tuple[int, Any]:
        return self.put_monitor(f"m{len(self.monitors)}", body=body)

    def put_monitor(self, name: str, *, body: Any, **_: Any) -> tuple[int, Any]:
        self.monitors[name] = body | {"schema_version": 8, "last_update_time": 1}
        return 201, {"_id": name}

    # ---- security

    def role(self, name: str, **_: Any) -> tuple[int, Any]:
        return (200, {name: self.roles[name]}) if name in self.roles else (404, {"status": "NOT_FOUND"})

    def put_role(self, name: str, *, body: Any, **_: Any) -> tuple[int, Any]:
        self.roles[name] = {"reserved": False, "hidden": False, "static": False} | body
        return 201, {"status": "CREATED"}

    # ---- Dashboards

    def saved_object(self, root: str, kind: str, name: str, **_: Any) -> tuple[int, Any]:
        key = f"{root}{kind}/{name}"
        return (200, self.saved[key]) if key in self.saved else (404, {"statusCode": 404, "error": "Not Found"})

    def import_objects(self, root: str, *, body: Any, headers: dict[str, str], **_: Any) -> tuple[int, Any]:
        sent = {name.lower(): value for name, value in headers.items()}
        if "osd-xsrf" not in sent:
            return 400, {"statusCode": 400, "message": "Request must contain a osd-xsrf header."}
        boundary = sent["content-type"].partition("boundary=")[2]
        head, _, rest = body.partition("\r\n\r\n")
        assert head.startswith(f"--{boundary}\r\n") and 'name="file"; filename="darl.ndjson"' in head
        lines = [json.loads(line) for line in rest.removesuffix(f"\r\n--{boundary}--\r\n").splitlines()]
        for line in lines:
            self.saved[f"{root}{line['type']}/{line['id']}"] = line | {"version": "WzEsMV0="}
        return 200, {"success": True, "successCount": len(lines)}


ROUTES = (
    (r"GET /", "info"),
    (r"GET /_nodes/plugins", "nodes"),
    (r"GET /_data_stream/([^/]+)", "data_stream"),
    (r"GET /_index_template/([^/]+)", "index_template"),
    (r"PUT /_(?:index_template|data_stream)/([^/]+)", "accept"),
    (r"PUT /([^/]+)/_mapping", "accept"),
    (r"GET /_plugins/_ism/policies/([^/]+)", "policy"),
    (r"PUT /_plugins/_ism/policies/([^/]+)", "put_policy"),
    (r"GET /_plugins/_ism/explain/([^/]+)", "explain"),
    (r"POST /_plugins/_ism/add/([^/]+)", "add"),
    (r"POST /_plugins/_ism/change_policy/([^/]+)", "change_policy"),
    (r"POST /_plugins/_alerting/monitors/_search", "find_monitors"),
    (r"POST /_plugins/_alerting/monitors", "post_monitor"),
    (r"PUT /_plugins/_alerting/monitors/([^/]+)", "put_monitor"),
    (r"GET /_plugins/_security/api/roles/([^/]+)", "role"),
    (r"PUT /_plugins/_security/api/roles/([^/]+)", "put_role"),
    (r"GET ((?:/w/[^/]+)?/api/saved_objects/)([^/]+)/([^/]+)", "saved_object"),
    (r"POST ((?:/w/[^/]+)?/api/saved_objects/)_import", "import_objects"),
    (r"(?:GET|HEAD) /([^/_][^/]*)", "index"),
    (r"PUT /([^/_][^/]*)", "put_index"),
)  # fmt: skip
